"""The named spacings: each chooses N levels of a path, from its noisiest to its cleanest.

A spacing is a function (path, steps, **options) that returns ``steps`` times or levels, strictly
from noise to data; the end of the run, usually the clean sample, comes after them. Keyword
parameters are its options (``spacing_options`` of the config). Register one by
``SPACINGS.register("mine", function)``; it must take any path that it is meant for, those cut by
:meth:`NoisePath.up_to` included, which is how image-to-image begins in the middle: read the
ends from ``path.t_min`` and ``path.t_max``.

"σ" is what the field calls so on the path, :meth:`NoisePath.field_sigma`: σ/α, or σ itself on the
straight path of flow matching.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ..config.options import Option
from ..config.registries import SPACINGS
from ..schedules.continuous import BETA, T_MIN, VPPath
from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError

__all__ = ["AYS_SIGMAS"]

Array = npt.NDArray[np.float64]
Choice = Array | Sequence[Level]
#: ρ of the power laws; and an end of the levels, in σ, the whole schedule's by default.
Rho = Annotated[float, Option(minimum=0.1, maximum=100.0)]
Sigma = Annotated[float | None, Option(kind=float, above=0.0)]
#: The shape of a Beta distribution: beyond it the series loses its digits.
Shape = Annotated[float, Option(minimum=0.01, maximum=20.0)]


@SPACINGS.register("leading")
def leading(path: NoisePath, steps: int) -> Array:
    """i·⌊T/N⌋ + steps_offset (Lin et al. 2023, arXiv 2305.08891, Table 2): never visits the noisiest levels.

    On a cut path, evenly from its noisiest level to ``steps_offset``: with diffusers' ``strength``, its timesteps.

    Raises:
        ConfigurationError: the offset pushes the first time past the last level.
    """
    if not path.discrete:
        low = path.fraction_at(path.t_min)
        places = np.linspace(1.0, 0.0, steps) if path.cut else np.arange(steps)[::-1] / steps
        return _times(path, low + (1.0 - low) * places)
    total, offset = _levels_for(path, steps), path.config.steps_offset
    if path.cut:
        return _from_cut(path, steps, total, offset)
    times = np.arange(steps)[::-1] * (total // steps) + offset
    if times[0] > path.t_max:
        raise ConfigurationError(
            f"steps_offset={offset} moves the first of {steps} timesteps to {times[0]}, past the last one, "
            f"{path.t_max:g}",
            where="steps_offset",
            suggestion=f"use steps_offset ≤ {offset - (int(times[0]) - total + 1)} or fewer steps",
        )
    return times.astype(np.float64)


def _from_cut(path: NoisePath, steps: int, total: int, offset: int) -> Array:
    if steps > max(total - offset, 1):
        raise ConfigurationError(
            f"{steps} steps from t = {path.t_max:g} to steps_offset = {offset}",
            where="num_inference_steps",
            why="the model knows no more noise levels than there are whole timesteps",
            suggestion=f"ask for at most {max(total - offset, 1)}",
        )
    return np.round(np.linspace(path.t_max, min(float(offset), path.t_max), steps))


@SPACINGS.register("leading_dpm")
def leading_dpm(path: NoisePath, steps: int) -> Array:
    """i·⌊T/(N + 1)⌋ for i = N, ..., 1: what diffusers' DPM-Solver family calls "leading", between both ends."""
    if not path.discrete:
        return _times(path, np.arange(steps, 0, -1) / (steps + 1))
    total = _levels_for(path, steps + 1)
    return (np.arange(steps, 0, -1) * (total // (steps + 1)) + path.config.steps_offset).astype(np.float64)


@SPACINGS.register("trailing")
def trailing(path: NoisePath, steps: int) -> Array:
    """round(T·(N − i)/N) − 1 (Lin et al. 2023, Table 2): starts at the noisiest level.

    Without betas not rounded, and evenly to the cleanest level where N steps would pass below it.
    """
    if not path.discrete:
        return _times(path, np.linspace(1.0, max(1.0 / steps, path.fraction_at(path.t_min)), steps))
    _levels_for(path, steps)
    times: Array = np.round((path.t_max + 1.0) * np.arange(steps, 0, -1) / steps) - 1.0
    return np.clip(times, path.t_min, path.t_max)


@SPACINGS.register("linspace")
def linspace(path: NoisePath, steps: int) -> Array:
    """N real-valued times evenly from the noisiest to the cleanest (for N = 1, the noisiest alone)."""
    if path.discrete:
        _levels_for(path, steps)
    return _times(path, np.linspace(1.0, path.fraction_at(path.t_min), steps))


@SPACINGS.register("sgm_uniform")
def sgm_uniform(path: NoisePath, steps: int) -> Array:
    """The first N of N + 1 times evenly from the noisiest to the cleanest (Stability's generative-models)."""
    if path.discrete:
        _levels_for(path, steps)
    return _times(path, np.linspace(1.0, path.fraction_at(path.t_min), steps + 1)[:-1])


@SPACINGS.register("karras")
def karras(path: NoisePath, steps: int, *, rho: Rho = 7.0, sigma_min: Sigma = None, sigma_max: Sigma = None) -> Choice:
    """σ^(1/ρ) evenly spaced (Karras et al. 2022, arXiv 2206.00364, eq. 5)."""
    high, low = _span(path, sigma_min, sigma_max)
    sigmas = high * np.linspace(1.0, (low / high) ** (1 / rho), steps) ** rho  # relative to the top: no overflow
    return _at(path, sigmas, from_top=sigma_max is None)


@SPACINGS.register("exponential")
def exponential(path: NoisePath, steps: int, *, sigma_min: Sigma = None, sigma_max: Sigma = None) -> Choice:
    """log σ evenly spaced."""
    return polyexponential(path, steps, rho=1.0, sigma_min=sigma_min, sigma_max=sigma_max)


@SPACINGS.register("polyexponential")
def polyexponential(
    path: NoisePath, steps: int, *, rho: Rho = 1.0, sigma_min: Sigma = None, sigma_max: Sigma = None
) -> Choice:
    """log σ = log σ_min + u^ρ·(log σ_max − log σ_min) for even u (k-diffusion's ``get_sigmas_polyexponential``)."""
    high, low = _span(path, sigma_min, sigma_max)
    return _at(path, low * (high / low) ** (np.linspace(1.0, 0.0, steps) ** rho), from_top=sigma_max is None)


@SPACINGS.register("log_snr")
def log_snr(
    path: NoisePath, steps: int, *,
    log_snr_min: Annotated[float | None, Option(kind=float, minimum=-1000.0, maximum=1000.0)] = None,
) -> Choice:  # fmt: skip
    """log(α²/σ²) evenly spaced (Lu et al. 2022, arXiv 2206.00927, §3.4).

    ``log_snr_min`` is where the run begins (diffusers' ``lambda_min_clipped`` is half of it). By default it
    begins at the noisiest level; where that has no signal, −10 stands for its log SNR.
    """
    first, last = path.level(path.t_max), path.level(path.t_min)
    top, bottom = 2.0 * first.half_log_snr, 2.0 * last.half_log_snr
    finite = top if first.alpha > 0.0 else min(-10.0, bottom - 1.0)
    low = finite if log_snr_min is None else max(top, log_snr_min)
    if not low < bottom:
        raise ConfigurationError(
            f"got {log_snr_min!r}", where="spacing_options.log_snr_min", suggestion=f"give a number below {bottom:.6g}"
        )
    levels = [path.level_at(value) for value in np.linspace(low, bottom, steps)]
    return _with_ends(path, levels, from_top=log_snr_min is None)


@SPACINGS.register("beta")
def beta(
    path: NoisePath, steps: int, *, a: Shape = 0.6, b: Shape = 0.6,
    of: Annotated[str, Option(choices=("time", "sigma"))] = "time",
) -> Choice:  # fmt: skip
    """Quantiles of a Beta distribution, over time (Lee et al. 2024, arXiv 2407.12173) or over "sigma" (diffusers).

    The paper's times are not rounded and so never fall together, as they do in ComfyUI.
    """
    if of == "time":
        if path.discrete:
            _levels_for(path, steps)
        low = path.fraction_at(path.t_min)
        return _times(path, low + (1.0 - low) * _beta_quantiles(1.0 - np.arange(steps) / steps, a, b))
    high, low = _span(path)
    return _at(path, low + (high - low) * _beta_quantiles(1.0 - np.linspace(0.0, 1.0, steps), a, b))


@SPACINGS.register("linear_quadratic")
def linear_quadratic(
    path: NoisePath, steps: int, *, threshold: Annotated[float, Option(above=0.0, below=1.0)] = 0.025,
    linear_steps: Annotated[int | None, Option(kind=int, minimum=1)] = None,
) -> Choice:  # fmt: skip
    """σ falls linearly to 1 − ``threshold`` of its largest in half of the steps, then quadratically to 0 (Mochi).

    Stretched to end at the path's cleanest level where it would pass below it.
    """
    first = max(1, steps // 2) if linear_steps is None else linear_steps
    if first > steps:
        raise ConfigurationError(
            f"got {linear_steps!r} for {steps} steps",
            where="spacing_options.linear_steps",
            suggestion=f"give a whole number from 1 to {steps}",
        )
    i, rest, slope = np.arange(steps), max(1, steps - first), threshold / first
    if first < steps and slope * rest > 2.0 * (1.0 - threshold):
        raise ConfigurationError(
            f"threshold={threshold!r} in {first} of {steps} steps is too steep a start",
            where="spacing_options",
            why="the parabola that goes on from it would pass below 0 and come back",
            suggestion="give more linear_steps or a smaller threshold",
        )
    # noise removed: threshold·i/first, then a parabola with the same value and slope that ends at 1
    bend = (1.0 - threshold - slope * rest) / rest**2
    removed = np.where(i <= first, slope * i, threshold + slope * (i - first) + bend * (i - first) ** 2)
    high, low = _span(path)
    most = 1.0 - low / high
    return _at(path, high * (1.0 - removed * min(1.0, most / max(removed[-1], most))))


@SPACINGS.register("kl_optimal")
def kl_optimal(path: NoisePath, steps: int) -> Choice:
    """arctan σ/α evenly spaced: optimal for Gaussian data (Sabour et al. 2024, arXiv 2404.14507)."""
    low, high = (math.atan(path.level(t).noise_to_signal) for t in (path.t_min, path.t_max))
    return _at_ratios(path, np.tan(np.linspace(high, low, steps)))


#: Align Your Steps: the σ that Sabour et al. 2024 (arXiv 2404.14507) publish for 10 steps, by model.
AYS_SIGMAS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


@SPACINGS.register("ays")
def ays(path: NoisePath, steps: int, *, model: Annotated[str, Option(choices=tuple(AYS_SIGMAS))] = "sd15") -> Choice:
    """Align Your Steps for a model that publishes it; other numbers of steps by interpolation of log σ over the index.

    The published 11 values are 10 steps and their end, which here is the clean sample. A path that
    is cut takes its steps from the rest of the curve.
    """
    table, index = np.log(AYS_SIGMAS[model]), np.arange(len(AYS_SIGMAS[model]))
    top, bottom = _log_ratios(path)
    rounding = 0.02  # the tables have two or three digits: within it, the path's ends are the table's
    first = np.interp(-top, -table, index) if top < table[0] - rounding else 0.0
    last = np.interp(-bottom, -table, index) if bottom > table[-1] + rounding else index[-1]
    if not first < last:
        raise ConfigurationError(
            f"the table for {model!r} has σ/α from {math.exp(table[0]):g} to {math.exp(table[-1]):g}, "
            f"the run from {math.exp(top):g}",
            where="timestep_spacing",
            why="no step of the table is left",
            suggestion="use another spacing, e.g. 'karras'",
        )
    places = np.linspace(first, last, steps + 1)[:-1]
    return _at_ratios(path, np.exp(np.interp(places, index, table)))


@SPACINGS.register("vp")
def vp(
    path: NoisePath, steps: int, *, beta_min: Annotated[float, BETA] = 0.1, beta_max: Annotated[float, BETA] = 20.0,
    t_min: Annotated[float, T_MIN] = 1e-3,
) -> Choice:  # fmt: skip
    """σ/α of evenly spaced times of the continuous VP SDE (k-diffusion's ``get_sigmas_vp``), cut to the path.

    The options are those of the schedule "vp".
    """
    source = VPPath(beta_min=beta_min, beta_max=beta_max, t_min=t_min)
    first, last = (source.time(-2.0 * ratio) for ratio in _log_ratios(path))
    times = np.linspace(first, last, steps)
    return _at_ratios(path, np.exp(-source.log_snr(times) / 2.0))


@SPACINGS.register("laplace")
def laplace(
    path: NoisePath, steps: int, *, mu: Annotated[float, Option(minimum=-100.0, maximum=100.0)] = 0.0,
    beta: Annotated[float, Option(minimum=0.01, maximum=100.0)] = 0.5,
) -> Choice:  # fmt: skip
    """log σ/α at evenly spaced quantiles of a Laplace distribution, cut to the path (after Hang et al. 2024).

    As in ComfyUI, ``mu`` and ``beta`` are those of log σ/α = −½ log SNR; the paper's (arXiv 2407.03297) are of log SNR.
    """
    top, bottom = ((ratio - mu) / beta for ratio in _log_ratios(path))
    first, last = (0.5 * math.exp(-z) if z > 0.0 else 1.0 - 0.5 * math.exp(z) for z in (top, bottom))
    p = np.linspace(first, last, steps)  # the shares of the distribution above each level
    with np.errstate(divide="ignore"):
        z = np.where(p < 0.5, -np.log(2.0 * p), np.log(2.0 * (1.0 - p)))
    return _at_ratios(path, np.exp(mu + beta * z))


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


def _log_ratios(path: NoisePath) -> tuple[float, float]:
    """log σ/α of the path's noisiest and cleanest level."""
    return -path.level(path.t_max).half_log_snr, -path.level(path.t_min).half_log_snr


def _span(path: NoisePath, sigma_min: float | None = None, sigma_max: float | None = None) -> tuple[float, float]:
    """The largest and the smallest finite σ to visit; on a cut path ``sigma_max`` is only a bound."""
    top, bottom = (path.field_sigma(path.level(t)) for t in (path.t_max, path.t_min))
    if math.isinf(top):  # the last level has no signal, or the last ones; the largest σ is that of the level before
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


def _at(path: NoisePath, sigmas: Array, *, from_top: bool = True) -> list[Level]:
    """The levels of these σ; where the schedule ends without signal, the run begins there unless told where."""
    low, high = (path.field_sigma(path.level(t)) for t in (path.t_min, path.t_max))
    return _with_ends(path, [path.level_of_sigma(float(s)) for s in np.clip(sigmas, low, high)], from_top)


def _at_ratios(path: NoisePath, ratios: Array) -> list[Level]:
    """The levels with these σ/α, kept inside the path."""
    top, bottom = _log_ratios(path)
    with np.errstate(divide="ignore"):
        inside = np.clip(np.log(ratios), bottom, top)
    return _with_ends(path, [path.level_at(-2.0 * value) for value in inside.tolist()])


def _with_ends(path: NoisePath, levels: list[Level], from_top: bool = True) -> list[Level]:
    """Levels that are the path's ends but for rounding become these.

    Without signal at the noisiest level, ``from_top`` says that the run begins there.
    """
    top, bottom = path.level(path.t_max), path.level(path.t_min)
    for i, end in ((-1, bottom), (0, top)):
        near = math.isclose(levels[i].half_log_snr, end.half_log_snr, rel_tol=1e-9, abs_tol=1e-9)
        if near or (i == 0 and from_top and top.alpha == 0.0):
            levels[i] = end
    return levels


def _beta_quantiles(p: Array, a: float, b: float) -> Array:
    """x with I_x(a, b) = p."""
    return np.array(_found_quantiles(tuple(p.tolist()), a, b))


@functools.lru_cache(maxsize=256)
def _found_quantiles(places: tuple[float, ...], a: float, b: float) -> tuple[float, ...]:
    """The quantiles, by bisection of the power series of the regularised incomplete beta function."""
    p = np.array(places)
    low, high = np.zeros_like(p), np.ones_like(p)
    for _ in range(60):
        middle = (low + high) / 2
        below = _beta_cdf(middle, a, b) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return tuple(np.where(p >= 1.0, 1.0, np.where(p <= 0.0, 0.0, (low + high) / 2)).tolist())


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


# What other libraries call them; docs/paths-and-grids.md says where they differ.
SPACINGS.alias("ddim_uniform", of="leading")
SPACINGS.alias("simple", "sd_turbo", of="trailing")
SPACINGS.alias("normal", "time_uniform", of="linspace")
SPACINGS.alias("sgm-uniform", of="sgm_uniform")
SPACINGS.alias("use_karras_sigmas", "edm", "polynomial", of="karras")
SPACINGS.alias("use_exponential_sigmas", of="exponential")
SPACINGS.alias("logsnr", "uniform_log_snr", "use_lu_lambdas", "lu_lambdas", of="log_snr")
SPACINGS.alias("align_your_steps", of="ays")
SPACINGS.alias("linear-quadratic", "mochi", of="linear_quadratic")
SPACINGS.alias("kl-optimal", of="kl_optimal")
