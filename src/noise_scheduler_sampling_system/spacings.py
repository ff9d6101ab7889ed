"""The named spacings: each chooses N levels of a path, from its noisiest to its cleanest.

A spacing is a function (path, steps, **options) that returns times or levels; the end of the
run, usually the clean sample, comes after them. "σ" is what the field calls so on the path:
σ/α, or σ itself on the straight path of flow matching (:meth:`NoisePath.level_of_sigma`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .config import SPACINGS
from .errors import ConfigurationError
from .schedules.path import Level, NoisePath

__all__ = ["AYS_SIGMAS"]

Array = npt.NDArray[np.float64]
Choice = Array | Sequence[Level]


@SPACINGS.register("leading")
def leading(path: NoisePath, steps: int) -> Array:
    """i·⌊T/N⌋ + steps_offset (Lin et al. 2023, arXiv 2305.08891, Table 2): never visits the noisiest levels.

    Raises:
        ConfigurationError: the offset pushes the first time past the last level.
    """
    if not path.discrete:
        low = path.fraction_at(path.t_min)
        return _times(path, low + (1.0 - low) * np.arange(steps)[::-1] / steps)
    total, offset = _levels_for(path, steps), path.config.steps_offset
    times = np.arange(steps)[::-1] * (total // steps) + offset
    if times[0] > path.t_max:
        raise ConfigurationError(
            f"steps_offset={offset} moves the first of {steps} timesteps to {times[0]}, past the last one, "
            f"{path.t_max:g}",
            where="steps_offset",
            suggestion=f"use steps_offset ≤ {offset - (int(times[0]) - total + 1)} or fewer steps",
        )
    return times.astype(np.float64)


@SPACINGS.register("trailing")
def trailing(path: NoisePath, steps: int) -> Array:
    """round(T·(N − i)/N) − 1 (Lin et al. 2023, Table 2): starts at the noisiest level. Not rounded without betas."""
    if path.discrete:
        _levels_for(path, steps)
    times = _times(path, np.arange(steps, 0, -1) / steps)
    return np.round(times) if path.discrete else times


@SPACINGS.register("linspace")
def linspace(path: NoisePath, steps: int) -> Array:
    """N real-valued times evenly from the noisiest to the cleanest (for N = 1, the noisiest alone)."""
    if path.discrete:
        _levels_for(path, steps)
    return _times(path, np.linspace(1.0, path.fraction_at(path.t_min), steps))


@SPACINGS.register("sgm_uniform")
def sgm_uniform(path: NoisePath, steps: int) -> Array:
    """The first N of N + 1 times evenly from the noisiest to the cleanest (Stability's generative-models)."""
    return _times(path, np.linspace(1.0, path.fraction_at(path.t_min), steps + 1)[:-1])


@SPACINGS.register("karras")
def karras(
    path: NoisePath, steps: int, *, rho: float = 7.0, sigma_min: float | None = None, sigma_max: float | None = None
) -> Choice:
    """σ^(1/ρ) evenly spaced (Karras et al. 2022, arXiv 2206.00364, eq. 5)."""
    _positive("rho", rho)
    high, low = _span(path, sigma_min, sigma_max)
    return _at(path, np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho)


@SPACINGS.register("exponential")
def exponential(
    path: NoisePath, steps: int, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Choice:
    """log σ evenly spaced."""
    return polyexponential(path, steps, rho=1.0, sigma_min=sigma_min, sigma_max=sigma_max)


@SPACINGS.register("polyexponential")
def polyexponential(
    path: NoisePath, steps: int, *, rho: float = 1.0, sigma_min: float | None = None, sigma_max: float | None = None
) -> Choice:
    """log σ = log σ_min + u^ρ·(log σ_max − log σ_min) for even u (k-diffusion's ``get_sigmas_polyexponential``)."""
    _positive("rho", rho)
    high, low = _span(path, sigma_min, sigma_max)
    return _at(path, low * (high / low) ** (np.linspace(1.0, 0.0, steps) ** rho))


@SPACINGS.register("log_snr")
def log_snr(path: NoisePath, steps: int, *, log_snr_min: float = -10.0) -> Choice:
    """log(α²/σ²) evenly spaced (Lu et al. 2022, arXiv 2206.00927, §3.4).

    A level without signal has none: the run begins there, and ``log_snr_min`` stands for it.
    """
    first, last = path.level(path.t_max), path.level(path.t_min)
    low = 2.0 * first.half_log_snr if first.alpha > 0.0 else log_snr_min
    chosen = [path.level_at(value) for value in np.linspace(low, 2.0 * last.half_log_snr, steps)]
    return [first, *chosen[1:]]


@SPACINGS.register("beta")
def beta(path: NoisePath, steps: int, *, a: float = 0.6, b: float = 0.6, of: str = "time") -> Choice:
    """Quantiles of a Beta distribution, over time (Lee et al. 2024, arXiv 2407.12173) or over "sigma" (diffusers)."""
    _positive("a", a)
    _positive("b", b)
    if of == "time":
        low = path.fraction_at(path.t_min)
        return _times(path, low + (1.0 - low) * _beta_quantiles(1.0 - np.arange(steps) / steps, a, b))
    if of != "sigma":
        raise ConfigurationError(f"got {of!r}", where="spacing_options.of", suggestion="give 'time' or 'sigma'")
    high, low = _span(path)
    return _at(path, low + (high - low) * _beta_quantiles(1.0 - np.linspace(0.0, 1.0, steps), a, b))


@SPACINGS.register("linear_quadratic")
def linear_quadratic(
    path: NoisePath, steps: int, *, threshold: float = 0.025, linear_steps: int | None = None
) -> Choice:
    """σ falls linearly to 1 − ``threshold`` of its range in half of the steps, then quadratically to 0 (Mochi)."""
    first = max(1, steps // 2) if linear_steps is None else linear_steps
    if not 0.0 < threshold < 1.0 or not 1 <= first <= steps:
        raise ConfigurationError(
            f"got threshold={threshold!r}, linear_steps={linear_steps!r}",
            where="spacing_options",
            suggestion=f"give a threshold in (0, 1) and linear_steps from 1 to {steps}",
        )
    i, rest = np.arange(steps), max(1, steps - first)
    # noise removed: threshold·i/first, then a parabola with the same value and slope that ends at 1
    slope = threshold / first
    bend = (1.0 - threshold - slope * rest) / rest**2
    removed = np.where(i <= first, slope * i, threshold + slope * (i - first) + bend * (i - first) ** 2)
    return _at(path, _span(path)[0] * (1.0 - removed))


@SPACINGS.register("kl_optimal")
def kl_optimal(path: NoisePath, steps: int) -> Choice:
    """arctan σ/α evenly spaced (Sabour et al. 2024, arXiv 2404.14507, eq. 9)."""
    low, high = (math.atan(path.level(t).noise_to_signal) for t in (path.t_min, path.t_max))
    return _at_ratios(path, np.tan(np.linspace(high, low, steps)))


#: Align Your Steps: the σ that Sabour et al. 2024 (arXiv 2404.14507) publish for 10 steps, by model.
AYS_SIGMAS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


@SPACINGS.register("ays")
def ays(path: NoisePath, steps: int, *, model: str = "sd15") -> Choice:
    """Align Your Steps for a model that publishes it; other numbers of steps by interpolation of log σ over the index.

    The published 11 values are 10 steps and their end, which here is the clean sample.
    """
    if model not in AYS_SIGMAS:
        raise ConfigurationError(
            f"there is no table for {model!r}", where="spacing_options.model", suggestion=f"one of {sorted(AYS_SIGMAS)}"
        )
    table = np.log(AYS_SIGMAS[model])
    places = np.linspace(0, len(table) - 1, steps + 1)[:-1]
    return _at_ratios(path, np.exp(np.interp(places, np.arange(len(table)), table)))


@SPACINGS.register("vp")
def vp(path: NoisePath, steps: int, *, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> Choice:
    """σ/α of evenly spaced times of the continuous VP SDE (k-diffusion's ``get_sigmas_vp``), on any path."""
    u = np.linspace(1.0, t_min, steps)
    return _at_ratios(path, np.sqrt(np.expm1(beta_min * u + (beta_max - beta_min) * u * u / 2)))


@SPACINGS.register("laplace")
def laplace(path: NoisePath, steps: int, *, mu: float = 0.0, beta: float = 0.5) -> Choice:
    """log σ/α at evenly spaced quantiles of a Laplace distribution (after Hang et al. 2024, arXiv 2407.03297).

    The first level is the noisiest of the path.
    """
    _positive("beta", beta)
    centred = np.linspace(0.5, -0.5, steps + 2)[1:-1]
    chosen = _at_ratios(path, np.exp(mu - beta * np.sign(centred) * np.log1p(-2.0 * np.abs(centred))))
    return [path.level(path.t_max), *chosen[1:]]


def _times(path: NoisePath, fractions: Array) -> Array:
    """Times at these fractions of the schedule, inside its range."""
    return np.clip(path.time_at(fractions), path.t_min, path.t_max)


def _levels_for(path: NoisePath, steps: int) -> int:
    """The number of whole timesteps that a discrete path has left; at least ``steps``."""
    total = math.floor(path.t_max) + 1
    if steps > total:
        raise ConfigurationError(
            f"{steps} steps through {total} training timesteps",
            where="num_inference_steps",
            why="the model knows no more noise levels than that",
            suggestion=f"ask for at most {total}, or use a spacing over σ ('karras')",
        )
    return total


def _sigma(path: NoisePath, t: float) -> float:
    """σ as the field counts it: the inverse of ``path.level_of_sigma``."""
    level = path.level(t)
    return level.sigma if path.sigma_is_absolute else level.noise_to_signal


def _span(path: NoisePath, sigma_min: float | None = None, sigma_max: float | None = None) -> tuple[float, float]:
    """The largest and the smallest finite σ to visit."""
    top, bottom = _sigma(path, path.t_max), _sigma(path, path.t_min)
    if math.isinf(top):  # the last level has no signal; the largest σ is that of the level before
        top = _sigma(path, path.t_max - 1.0 if path.discrete else 0.999 * path.t_max)
    high, low = top if sigma_max is None else sigma_max, bottom if sigma_min is None else sigma_min
    if not (bottom * (1 - 1e-6) <= low < high <= top * (1 + 1e-6)):
        raise ConfigurationError(
            f"σ from {high:g} to {low:g} is not inside [{bottom:.6g}, {top:.6g}]",
            where="spacing_options.sigma_max" if sigma_max is not None else "spacing_options.sigma_min",
            suggestion="leave both out to use the whole schedule",
        )
    return high, low


def _at(path: NoisePath, sigmas: Array) -> list[Level]:
    """The levels of these σ; where the schedule ends without signal, the run begins there."""
    levels = [path.level_of_sigma(float(s)) for s in sigmas]
    top = path.level(path.t_max)
    return [top, *levels[1:]] if top.alpha == 0.0 else levels


def _at_ratios(path: NoisePath, ratios: Array) -> list[Level]:
    """The levels with these σ/α, no noisier and no cleaner than the path's ends."""
    top, bottom = path.level(path.t_max), path.level(path.t_min)
    levels = []
    for ratio in ratios.tolist():
        inside = bottom.noise_to_signal < ratio < top.noise_to_signal
        levels.append(path.level_at(-2.0 * math.log(ratio)) if inside else top if ratio > 1.0 else bottom)
    return levels


def _positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise ConfigurationError(f"got {value!r}", where=f"spacing_options.{name}", suggestion="give a number above 0")


def _beta_quantiles(p: Array, a: float, b: float) -> Array:
    """x with I_x(a, b) = p, by bisection of the power series of the regularised incomplete beta function."""
    low, high = np.zeros_like(p), np.ones_like(p)
    for _ in range(60):
        middle = (low + high) / 2
        below = _beta_cdf(middle, a, b) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(p >= 1.0, 1.0, np.where(p <= 0.0, 0.0, (low + high) / 2))


def _beta_cdf(x: Array, a: float, b: float) -> Array:
    """I_x(a, b); the series of ∫ t^(a−1)·(1−t)^(b−1) converges for x ≤ ½, the rest is its mirror image."""

    def half(x: Array, a: float, b: float) -> Array:
        term, total = np.ones_like(x), np.ones_like(x) / a
        for n in range(1, 80):
            term = term * (n - b) / n * x
            total = total + term / (a + n)
        return x**a * total

    whole = math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    left = half(np.minimum(x, 0.5), a, b) / whole
    right = 1.0 - half(np.minimum(1.0 - x, 0.5), b, a) / whole
    return np.where(x <= 0.5, left, right)
