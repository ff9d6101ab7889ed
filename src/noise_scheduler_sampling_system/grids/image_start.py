"""The level at which an image-to-image run begins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..schedules.path import Level, NoisePath
from ..support.argument_checks import checked_number
from ..support.errors import ConfigurationError, shown
from .time_grid import TimeGrid, make_grid

__all__ = ["grid_of_start", "level_of_start", "start_at"]


def start_at(
    path: NoisePath, *, t: float | None = None, sigma: float | None = None, strength: float | None = None
) -> Level:
    """The first level of an image-to-image run, from a time, a σ or a fraction of the schedule.

    Add noise to the image with ``path.add_noise(image, noise, level.t)``, and give the level to :func:`make_grid`.

    Args:
        path: the noise schedule.
        t: the time.
        sigma: σ, as :meth:`NoisePath.field_sigma` defines it.
        strength: in (0, 1]: the run begins at this fraction of the schedule (0 is the data, 1 pure noise), on a
            discrete path at a whole timestep. In diffusers a run then has fewer steps; here it has all N.

    Raises:
        ConfigurationError: none or several of the three are given, or one is not on the path.
    """
    if sum(given is not None for given in (t, sigma, strength)) != 1:
        raise ConfigurationError(
            "none or several of t, sigma and strength are given", where="start_at", suggestion="give exactly one"
        )
    if sigma is not None:
        return path.level_of_sigma(checked_number(sigma, "sigma", finite=False))
    if strength is not None:
        t = path.time_at(_checked_strength(strength))
        t = min(max(float(round(t)) if path.discrete else t, path.t_min), path.t_max)
    return path.level(checked_number(t, "t"))


def grid_of_start(
    path: NoisePath, steps: int, *, start: Any, strength: Any, initial_sample: Any, beside: Mapping[str, Any]
) -> TimeGrid | None:
    """The grid of N steps from the level of ``initial_sample``, or None where neither start nor strength is given.

    Args:
        path: the noise schedule.
        steps: N, the number of steps from that level.
        start: a time, or a :class:`Level` (of :func:`start_at`).
        strength: instead of ``start``, the fraction of the schedule, in (0, 1].
        initial_sample: the state at that level.
        beside: the other arguments that decide where a run begins: timesteps, a grid, a plan.

    Raises:
        ConfigurationError: no argument gives the noise level of ``initial_sample``; ``initial_sample`` is missing;
            or several arguments give the start.
    """
    others = [name for name, value in beside.items() if value is not None]
    given = {name: value for name, value in {"start": start, "strength": strength}.items() if value is not None}
    if not given:
        if initial_sample is not None and not others:
            raise ConfigurationError(
                "its noise level is not given",
                where="initial_sample",
                why=f"the run begins at pure noise (t = {path.t_max:g}), and would treat the sample as noise",
                suggestion="give start=t with initial_sample=scheduler.add_noise(image, noise, t), or strength=...; "
                "timesteps, a grid or a plan give the level, too; noise of unit variance is initial_noise",
            )
        return None
    name, value = next(iter(given.items()))
    if len(given) > 1 or others:
        other = "strength" if len(given) > 1 else others[0]
        raise ConfigurationError(
            f"is given beside {other}, which also decides where the run begins",
            where=name,
            suggestion="give one of the two",
        )
    if initial_sample is None:
        raise ConfigurationError(
            "initial_sample is missing",
            where=name,
            why="without a sample a run begins at pure noise",
            suggestion="give initial_sample=scheduler.add_noise(image, noise, t), too, with t = start, or "
            "t = start_at(scheduler, strength=...).t",
        )
    if name == "strength" and not _is_number(value):
        raise ConfigurationError(f"got {shown(value)}", where="strength", suggestion="give a number in (0, 1]")
    level = level_of_start(path, value) if name == "start" else start_at(path, strength=value)
    return make_grid(path, steps, start=level)


def level_of_start(path: NoisePath, start: Any) -> Level:
    """The level of a time, or of a :class:`Level`.

    Raises:
        ConfigurationError: neither of them, or a time that is not on the path.
    """
    if isinstance(start, Level):
        return start
    if not _is_number(start):
        raise ConfigurationError(
            f"got {shown(start)}", where="start", suggestion="give a time, or a level of start_at(scheduler, ...)"
        )
    if not path.t_min <= start <= path.t_max:
        raise ConfigurationError(
            f"time {start:g} is outside [{path.t_min:g}, {path.t_max:g}]",
            where="start",
            suggestion="give the time of the noise level at which initial_sample is",
        )
    return path.level(float(start))


def _checked_strength(strength: Any) -> float:
    share = checked_number(strength, "strength", 0.0, 1.0)
    if share == 0.0:
        raise ConfigurationError("got 0", where="strength", suggestion="give a number in (0, 1]")
    return share


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and bool(math.isfinite(value))
    )
