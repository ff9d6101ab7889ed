"""A spacing held against what the library takes for granted of every grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from ..config.registries import SPACINGS
from ..grids.time_grid import make_grid
from ..schedules.continuous import EDMPath, FlowPath, VDiffusionPath, VPPath
from ..schedules.factory import NoiseSchedulerFactory
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError, NoiseSamplingError

__all__ = ["SpacingReport", "check_grids_of", "check_spacing"]

#: Numbers of steps of the grids that are made.
_COUNTS: Final = (1, 2, 5, 10, 50)


@final
@dataclass(frozen=True)
class SpacingReport:
    """What :func:`check_spacing` found.

    Attributes:
        spacing: its name.
        grids: how many grids were made, by path.
        refused: by path: why it makes no grid there.
    """

    spacing: str
    grids: Mapping[str, int]
    refused: Mapping[str, str]

    def __str__(self) -> str:
        made = ", ".join(f"{count} on {path}" for path, count in self.grids.items())
        refused = f"; not on {', '.join(self.refused)}" if self.refused else ""
        return f"{self.spacing}: grids: {made}{refused}"


def check_spacing(spacing: str, paths: Sequence[NoisePath] | None = None, **options: Any) -> SpacingReport:
    """Make grids of 1 to 50 steps and check that their levels are those of the path, and strictly in order.

    Args:
        spacing: its registered name.
        paths: noise schedules; default: "linear", "cosine", "vp", "edm", "flow" and "v_diffusion".
        options: options of the spacing.

    Raises:
        ConfigurationError: an unknown name, what does not hold, or no grid on any path.
    """
    name = SPACINGS.canonical(spacing)
    SPACINGS.get(name, "spacing")
    made: dict[str, int] = {}
    refused: dict[str, str] = {}
    for path in _default_paths() if paths is None else paths:
        count, reason = check_grids_of(path, name, options, f"spacing {name!r}")
        if count:
            made[repr(path)] = count
        if reason:
            refused[repr(path)] = reason
    if not made:
        raise ConfigurationError(
            "makes no grid on any path", where=f"spacing {name!r}", why=next(iter(refused.values()), ""),
            suggestion="return the times or levels of the path, from the noisiest to the cleanest",
        )  # fmt: skip
    return SpacingReport(name, made, refused)


def check_grids_of(path: NoisePath, name: str, options: Mapping[str, Any], where: str) -> tuple[int, str]:
    """Check the grids of a spacing on a path.

    Returns:
        how many grids were made, and why the last one that was refused was refused, or "".

    Raises:
        ConfigurationError: levels that are not in order, or not those of the path.
    """
    made, reason = 0, ""
    for steps in _COUNTS:
        try:
            grid = make_grid(path.spaced(name, options), steps)
        except NoiseSamplingError as error:
            reason = str(error)
            continue
        made += 1
        noise = [level.noise_to_signal for level in grid.levels]
        if not all(before > after for before, after in itertools.pairwise(noise)):
            raise _fails(where, f"the levels of spacing {name!r} in {steps} steps are not in order")
        inner = [level for level in grid.levels if level.t == level.t and level.sigma > 0.0]
        for level, again in zip(inner, path.levels([level.t for level in inner]), strict=True):
            if not np.allclose([level.alpha, level.sigma], [again.alpha, again.sigma], rtol=1e-6, atol=1e-9):
                raise _fails(where, f"spacing {name!r} has a level at t = {level.t:g} that the schedule does not have")
    return made, reason


def _default_paths() -> list[NoisePath]:
    return [
        *(NoiseSchedulerFactory.create(name) for name in ("linear", "cosine")),
        VPPath(), EDMPath(), FlowPath(), VDiffusionPath(),
    ]  # fmt: skip


def _fails(where: str, what: str) -> ConfigurationError:
    return ConfigurationError(what, where=where, suggestion="mend the formulas of the schedule or of the spacing")
