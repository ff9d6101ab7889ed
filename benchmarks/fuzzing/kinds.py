"""All kinds of input by name, and how many cases each gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from . import files
from .case import Kind
from .commands import CommandKind
from .http import PlaygroundKind, ServingKind
from .sets import SetKind
from .settings import SettingKind
from .strategies import StrategyKind

__all__ = ["KINDS", "cases_of"]

#: How to make each kind, and its share of the cases: cheap kinds get more.
_MADE: dict[str, tuple[Callable[[], Kind], int]] = {
    "config": (files.configs, 6),
    "plan": (files.plans, 6),
    "frame plan": (files.frame_plans, 3),
    "state": (files.states, 3),
    "checkpoint": (files.checkpoints, 3),
    "calibration": (files.calibrations, 2),
    "scheduler": (files.schedulers, 1),
    "manifest": (partial(SetKind, "manifest"), 1),
    "journal": (partial(SetKind, "journal"), 1),
    "shard": (partial(SetKind, "shard"), 1),
    "command": (CommandKind, 2),
    "serving": (ServingKind, 3),
    "setting": (SettingKind, 3),
    "hypothesis": (StrategyKind, 3),
    "playground": (PlaygroundKind, 3),
}
KINDS: dict[str, Callable[[], Kind]] = {name: make for name, (make, _) in _MADE.items()}


def cases_of(total: int, names: Sequence[str]) -> dict[str, int]:
    """The cases of each kind, at least one."""
    shares = {name: _MADE[name][1] for name in names}
    return {name: max(1, round(total * share / sum(shares.values()))) for name, share in shares.items()}
