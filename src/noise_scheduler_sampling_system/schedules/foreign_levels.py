"""The check that the noise levels of a plan or a grid are those of a path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..support.errors import ConfigurationError
from .path import Level, NoisePath

__all__ = ["refuse_foreign_levels"]

_EXACT, _ROUNDED = 1e-6, 1e-3
#: Half a timestep, and a whole one, and a little more.
_HALF, _WHOLE = 0.51, 1.01
#: Networks of paths whose times reach this may be told whole times: diffusers' UniPC drops the fraction of 1000·σ.
_COUNTS = 100.0


def refuse_foreign_levels(
    path: NoisePath,
    levels: Sequence[Level],
    where: str,
    *,
    rounded: bool = False,
    suggestion: str = "run it on a pipeline of the schedule it was made on",
) -> None:
    """Raise unless the path has these levels. Otherwise the model would be told another noise level than x has.

    Args:
        path: the path.
        levels: each with a time.
        where: the argument that holds the levels.
        rounded: the levels come from tables of another library, in single precision and at whole timesteps. They may
            differ from the path's by a factor of 1 ± 10⁻³ instead of 10⁻⁶, and by half a timestep; on continuous paths
            by the fraction of a whole time.
        suggestion: what to do.

    Raises:
        ConfigurationError: a time outside the path, or a level that the path does not have at its time.
    """
    t, given = np.array([level.t for level in levels]), np.array([level[1:] for level in levels])
    try:
        ends = [_factors(path, t)]  # raises for times outside the path
    except ConfigurationError as error:
        raise ConfigurationError(
            f"its times are not those of {path!r}",
            where=where,
            why=f"it was made on another noise schedule: {error.what}",
            suggestion=suggestion,
        ) from None
    tolerance = _ROUNDED if rounded else _EXACT
    if rounded and (path.discrete or (path.t_max >= _COUNTS and bool((t == np.round(t)).all()))):
        shifts = (-_HALF, _HALF if path.discrete else _WHOLE)
        ends += [_factors(path, np.clip(t + shift, path.t_min, path.t_max)) for shift in shifts]
    low, high = np.min(ends, axis=0) * (1.0 - tolerance), np.max(ends, axis=0) * (1.0 + tolerance)
    if not ((low - 1e-9 <= given) & (given <= high + 1e-9)).all():
        raise ConfigurationError(
            f"its noise levels are not those of {path!r} at its times",
            where=where,
            why="it was made on another noise schedule",
            suggestion=suggestion,
        )


def _factors(path: NoisePath, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """α and σ at times (N,), shape (N, 2)."""
    return np.array([level[1:] for level in path.levels(times)])
