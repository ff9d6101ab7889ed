"""What a calibrated plan has to beat: every built-in sampler without noise, on the spacings that are best."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from ..analysis.recommend import plan_within
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid, make_grid
from ..plans.plan import SamplingPlan
from ..samplers.adaptive import AdaptiveSampler
from ..samplers.base import BaseSampler
from ..samplers.factory import SamplerFactory
from ..schedules.path import NoisePath
from ..support.errors import NoiseSamplingError
from .table import Table

__all__ = ["Baseline", "baselines"]

#: Spacings with their options: those that win in docs/accuracy.md, and those that people are used to.
_SPACINGS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("kl_optimal", {}),
    ("kl_optimal", {"end": "lowest"}),
    ("beta", {"a": 0.5, "b": 0.7}),
    ("karras", {}),
    ("ays", {}),
    ("leading_dpm", {"end": "lowest"}),
)
#: The samplers that win with few calls (docs/accuracy.md); they come first.
_STRONG = ("adams", "dpmpp_2m", "dpmpp_3m", "gradient_estimation", "ipndm", "res_2s", "sa_solver", "unipc")
#: Options that make a sampler deterministic.
_SILENT = ("eta", "tau", "s_churn")


@final
@dataclass(frozen=True)
class Baseline:
    """An existing sampler on a grid.

    Attributes:
        name: what it is, to print.
        plan: its plan.
        table: the same as a table, where it can be one.
    """

    name: str
    plan: SamplingPlan
    table: Table | None


def baselines(path: NoisePath, nfe: int) -> list[Baseline]:
    """Every built-in sampler without noise, of so many model calls or, where it cannot, as many as it can."""
    return list(_baselines(path, nfe, tuple(SAMPLERS)))


@functools.lru_cache(maxsize=16)  # some hundred plans, made in seconds
def _baselines(path: NoisePath, nfe: int, registered: tuple[str, ...]) -> tuple[Baseline, ...]:
    found: dict[str, Baseline] = {}
    most: dict[tuple[str, Any], int] = {}  # steps, which depend on where a grid ends, but on no other option of it
    for sampler, grid_of, spacing, name in _samplers(path):
        try:
            alike = (name, sampler.scheduler.config.spacing_options.get("end"))
            if alike in most and (plan := sampler.plan(grid=grid_of(most[alike]))).nfe <= nfe:
                steps = most[alike]
            else:
                steps, plan = plan_within(sampler, nfe, grid_of)
                most.setdefault(alike, steps)
            grid = grid_of(steps)
        except (NoiseSamplingError, ArithmeticError, ValueError):  # not on this path, or not with so few calls
            continue
        if plan.stochastic or plan.null is not None or plan.fingerprint in found:
            continue
        try:
            table = Table.of_plan(plan, start=grid.levels[0]) if plan.nfe == nfe else None
        except NoiseSamplingError:  # no table of states and predictions at levels
            table = None
        found[plan.fingerprint] = Baseline(f"{name}, {spacing}", plan, table)
    return tuple(found.values())


def _samplers(path: NoisePath) -> Iterator[tuple[BaseSampler, Callable[[int], TimeGrid], str, str]]:
    """Samplers with a function that returns the grid of a number of steps; samplers share the grids of a spacing."""
    places = []
    for spacing, chosen in _SPACINGS:
        place = path.spaced(spacing, chosen)
        told = "".join(f" {k}={v}" for k, v in chosen.items())
        places.append((place, functools.cache(functools.partial(make_grid, place)), f"{spacing}{told}"))
    for name in sorted(SAMPLERS, key=lambda name: name not in _STRONG):
        cls = SAMPLERS.get(name)
        if issubclass(cls, AdaptiveSampler):
            continue
        silent = {option: 0.0 for option in _SILENT if option in cls.option_defaults}
        for changes in ({}, {"afs": True}):
            options = {**silent, **changes}
            for place, grid_of, spacing in places:
                try:
                    sampler = SamplerFactory.create(name, place, **options)
                except NoiseSamplingError:
                    continue
                yield sampler, grid_of, spacing, name + (" afs" if changes else "")
