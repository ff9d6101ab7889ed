"""Where a run begins that does not begin at pure noise: image-to-image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError
from .time_grid import TimeGrid, make_grid, start_at

__all__ = ["grid_of_start", "level_of_start"]


def grid_of_start(
    path: NoisePath, steps: int, *, start: Any, strength: Any, initial_sample: Any, beside: Mapping[str, Any]
) -> TimeGrid | None:
    """The grid of N steps from where ``initial_sample`` is, or None where nothing of the kind is asked for.

    Args:
        path: the noise schedule.
        steps: N; all of them are taken from there.
        start: a time, or a :class:`Level` (of :func:`start_at`).
        strength: in its place, the share of the schedule, in (0, 1].
        initial_sample: the state there.
        beside: what else says where a run begins: timesteps, a grid, a plan.

    Raises:
        ConfigurationError: an ``initial_sample`` of which nothing says at which noise level it is, a start of which
            there is no sample, or several starts.
    """
    others = [name for name, value in beside.items() if value is not None]
    given = {name: value for name, value in {"start": start, "strength": strength}.items() if value is not None}
    if not given:
        if initial_sample is not None and not others:
            raise ConfigurationError(
                "nothing says at which noise level it is",
                where="initial_sample",
                why=f"the run begins at pure noise (t = {path.t_max:g}), and would take it for that",
                suggestion="give start=t with initial_sample=scheduler.add_noise(image, noise, t), or strength=...; "
                "timesteps, a grid or a plan say it, too; noise of unit variance is initial_noise",
            )
        return None
    name, value = next(iter(given.items()))
    if len(given) > 1 or others:
        other = "strength" if len(given) > 1 else others[0]
        raise ConfigurationError(
            f"is given beside {other}, which says where the run begins",
            where=name,
            suggestion="give one of the two",
        )
    if initial_sample is None:
        raise ConfigurationError(
            "there is no sample that is there",
            where=name,
            why="a run from pure noise begins where there is nothing but noise",
            suggestion="give initial_sample=scheduler.add_noise(image, noise, t), too, with t = start, or "
            "t = start_at(scheduler, strength=...).t",
        )
    level = level_of_start(path, value) if name == "start" else start_at(path, strength=_share(value))
    return make_grid(path, steps, start=level)


def level_of_start(path: NoisePath, start: Any) -> Level:
    """The level of a time, or of a :class:`Level`.

    Raises:
        ConfigurationError: neither, or a time that is not on the path.
    """
    if isinstance(start, Level):
        return start
    if not _is_number(start):
        raise ConfigurationError(
            f"got {start!r}", where="start", suggestion="give a time, or a level of start_at(scheduler, ...)"
        )
    if not path.t_min <= start <= path.t_max:
        raise ConfigurationError(
            f"time {start:g} is outside [{path.t_min:g}, {path.t_max:g}]",
            where="start",
            suggestion="give the time of the noise level at which initial_sample is",
        )
    return path.level(float(start))


def _share(strength: Any) -> float:
    if not (_is_number(strength) and 0.0 < strength <= 1.0):
        raise ConfigurationError(f"got {strength!r}", where="strength", suggestion="give a number in (0, 1]")
    return float(strength)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and bool(math.isfinite(value))
    )
