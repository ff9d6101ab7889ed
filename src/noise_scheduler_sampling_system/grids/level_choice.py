"""Times and levels of a path, from what spacings compute: fractions of the schedule, σ, or σ/α."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError

__all__ = [
    "levels_of_ratios",
    "levels_of_shares",
    "levels_of_sigmas",
    "log_ratios",
    "noise_share",
    "sigma_span",
    "stretched",
    "times_at",
    "timesteps_left",
    "with_ends",
]

Array = npt.NDArray[np.float64]


def times_at(path: NoisePath, fractions: Array) -> Array:
    """The times at these fractions of the schedule, clamped to its range."""
    return np.clip(path.time_at(fractions), path.t_min, path.t_max)


def timesteps_left(path: NoisePath, steps: int) -> int:
    """The number of whole timesteps of a discrete path.

    Raises:
        ConfigurationError: it is less than ``steps``.
    """
    total = math.floor(path.t_max) + 1
    if steps > total:
        raise ConfigurationError(
            f"{steps} steps through {total} training timesteps",
            where="num_inference_steps",
            why="the model was trained at these noise levels only",
            suggestion=f"give at most {total}, or use a spacing over σ ('karras')",
        )
    return total


def log_ratios(path: NoisePath) -> tuple[float, float]:
    """log σ/α of the path's noisiest and cleanest level."""
    return -path.level(path.t_max).half_log_snr, -path.level(path.t_min).half_log_snr


def sigma_span(path: NoisePath, sigma_min: float | None = None, sigma_max: float | None = None) -> tuple[float, float]:
    """The largest and the smallest finite σ to visit. On a cut path ``sigma_max`` is only an upper bound.

    Raises:
        ConfigurationError: a bound is outside the path.
    """
    top, bottom = (path.field_sigma(path.level(t)) for t in (path.t_max, path.t_min))
    if math.isinf(top):  # the noisiest levels have no signal; the largest finite σ is that of the next level
        step = 1.0 if path.discrete else 1e-3 * (path.t_max - path.t_min)
        before = np.append(np.arange(path.t_max - step, path.t_min, -step), path.t_min)
        top = next((s for s in map(path.field_sigma, path.levels(before)) if math.isfinite(s)), bottom)
    high, low = top if sigma_max is None else sigma_max, bottom if sigma_min is None else sigma_min
    if path.cut:
        high = min(high, top)
    if not (bottom * (1 - 1e-6) <= low <= high <= top * (1 + 1e-6)):
        raise ConfigurationError(
            f"σ from {high:g} to {low:g} is not inside [{bottom:.6g}, {top:.6g}]",
            where="spacing_options.sigma_max" if sigma_max is not None else "spacing_options.sigma_min",
            suggestion="leave both out to use the whole schedule",
        )
    return high, low


def levels_of_sigmas(path: NoisePath, sigmas: Array, *, from_top: bool = True) -> list[Level]:
    """The levels of these σ. ``from_top``: a run begins at the noisiest level where that has no signal."""
    low, high = (path.field_sigma(path.level(t)) for t in (path.t_min, path.t_max))
    return with_ends(path, [path.level_of_sigma(float(s)) for s in np.clip(sigmas, low, high)], from_top)


def levels_of_ratios(path: NoisePath, ratios: Array, *, from_top: bool = True) -> list[Level]:
    """The levels with these σ/α, clamped to the path. ``from_top`` as for :func:`levels_of_sigmas`."""
    top, bottom = log_ratios(path)
    with np.errstate(divide="ignore"):
        inside = np.clip(np.log(ratios), bottom, top)
    return with_ends(path, [path.level_at(-2.0 * value) for value in inside.tolist()], from_top)


def noise_share(level: Level) -> float:
    """The noise's share σ/(α + σ) of a level: σ itself on the straight path."""
    return level.sigma / (level.alpha + level.sigma)


def levels_of_shares(path: NoisePath, shares: Array) -> list[Level]:
    """The levels with these shares of noise; where they fall below the cleanest level, stretched to end there."""
    lowest = noise_share(path.level(path.t_min))
    inside = stretched(shares, lowest) if len(shares) > 1 and shares[-1] < lowest else shares
    with np.errstate(divide="ignore"):
        return levels_of_ratios(path, inside / (1.0 - inside))


def stretched(shares: Array, last: float) -> Array:
    """Shares that begin as these do and end at ``last``, by a linear map."""
    moved: Array = shares[0] - (shares[0] - shares) * ((shares[0] - last) / (shares[0] - shares[-1]))
    return moved


def with_ends(path: NoisePath, levels: list[Level], from_top: bool = True) -> list[Level]:
    """The levels, with the first and the last replaced by the path's ends where they differ by rounding only.

    ``from_top``: the first one also becomes the noisiest level where that has no signal.
    """
    top, bottom = path.level(path.t_max), path.level(path.t_min)
    for i, end in ((-1, bottom), (0, top)):
        near = math.isclose(levels[i].half_log_snr, end.half_log_snr, rel_tol=1e-9, abs_tol=1e-9)
        if near or (i == 0 and from_top and top.alpha == 0.0):
            levels[i] = end
    return levels
