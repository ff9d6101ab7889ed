"""The named spacings. Each chooses N levels of a path, from its noisiest to its cleanest.

A spacing is a function (path, steps, **options) that returns ``steps`` times or levels in the order of a run. The end
of the run, usually the clean sample, comes after them. Its keyword parameters are its options (``spacing_options`` of
the config). ``SPACINGS.register("mine", function)`` registers one. It must also work on a path that
:meth:`NoisePath.up_to` has cut for image-to-image, so it reads the ends from ``path.t_min`` and ``path.t_max``.

"σ" here is :meth:`NoisePath.field_sigma`: σ/α, or σ itself on the straight path of flow matching.
"""

from __future__ import annotations

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
from .beta_distribution import beta_quantiles
from .level_choice import (
    levels_of_ratios,
    levels_of_sigmas,
    log_ratios,
    sigma_span,
    times_at,
    timesteps_left,
    with_ends,
)

__all__ = ["AYS_SIGMAS"]

Array = npt.NDArray[np.float64]
Choice = Array | Sequence[Level]
#: ρ of the power laws, and an end of the levels in σ; None: the end of the schedule.
Rho = Annotated[float, Option(minimum=0.1, maximum=100.0)]
Sigma = Annotated[float | None, Option(kind=float, above=0.0)]
#: An end of the levels in log SNR; None: the end of the schedule.
LogSNR = Annotated[float | None, Option(kind=float, minimum=-1000.0, maximum=1000.0)]
#: A parameter of the Beta distribution.
Shape = Annotated[float, Option(minimum=0.01, maximum=20.0)]


@SPACINGS.register("leading")
def leading(path: NoisePath, steps: int) -> Array:
    """i·⌊T/N⌋ + steps_offset (Lin et al. 2023, arXiv 2305.08891, Table 2): never visits the noisiest levels.

    On a cut path the times are even from its noisiest level to ``steps_offset``, as with diffusers' ``strength``.

    Raises:
        ConfigurationError: the offset pushes the first time past the last level.
    """
    if not path.discrete:
        low = path.fraction_at(path.t_min)
        places = np.linspace(1.0, 0.0, steps) if path.cut else np.arange(steps)[::-1] / steps
        return times_at(path, low + (1.0 - low) * places)
    total, offset = timesteps_left(path, steps), path.config.steps_offset
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
            why="the model was trained at whole timesteps only",
            suggestion=f"give at most {max(total - offset, 1)}",
        )
    return np.round(np.linspace(path.t_max, min(float(offset), path.t_max), steps))


@SPACINGS.register("leading_dpm")
def leading_dpm(path: NoisePath, steps: int) -> Array:
    """i·⌊T/(N + 1)⌋ + steps_offset for i = N, ..., 1: the "leading" of diffusers' DPM-Solver family."""
    if not path.discrete:
        return times_at(path, np.arange(steps, 0, -1) / (steps + 1))
    total = timesteps_left(path, steps + 1)
    return (np.arange(steps, 0, -1) * (total // (steps + 1)) + path.config.steps_offset).astype(np.float64)


@SPACINGS.register("trailing")
def trailing(path: NoisePath, steps: int) -> Array:
    """round(T·(N − i)/N) − 1 (Lin et al. 2023, Table 2): starts at the noisiest level.

    On paths without betas the times are not rounded. Where N steps would pass below the cleanest level, the times are
    even down to it.
    """
    if not path.discrete:
        return times_at(path, np.linspace(1.0, max(1.0 / steps, path.fraction_at(path.t_min)), steps))
    timesteps_left(path, steps)
    times: Array = np.round((path.t_max + 1.0) * np.arange(steps, 0, -1) / steps) - 1.0
    return np.clip(times, path.t_min, path.t_max)


@SPACINGS.register("linspace")
def linspace(path: NoisePath, steps: int) -> Array:
    """N real-valued times evenly from the noisiest to the cleanest (for N = 1, the noisiest alone)."""
    if path.discrete:
        timesteps_left(path, steps)
    return times_at(path, np.linspace(1.0, path.fraction_at(path.t_min), steps))


@SPACINGS.register("sgm_uniform")
def sgm_uniform(path: NoisePath, steps: int) -> Array:
    """The first N of N + 1 times evenly from the noisiest to the cleanest (Stability's generative-models)."""
    if path.discrete:
        timesteps_left(path, steps)
    return times_at(path, np.linspace(1.0, path.fraction_at(path.t_min), steps + 1)[:-1])


@SPACINGS.register("karras")
def karras(path: NoisePath, steps: int, *, rho: Rho = 7.0, sigma_min: Sigma = None, sigma_max: Sigma = None) -> Choice:
    """σ^(1/ρ) evenly spaced (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    Options:
        rho: ρ: a larger one puts more levels near the clean end.
        sigma_min, sigma_max: σ of the last and of the first level; default: the ends of the path.
    """
    high, low = sigma_span(path, sigma_min, sigma_max)
    sigmas = high * np.linspace(1.0, (low / high) ** (1 / rho), steps) ** rho  # relative to the top: no overflow
    return levels_of_sigmas(path, sigmas, from_top=sigma_max is None)


@SPACINGS.register("exponential")
def exponential(path: NoisePath, steps: int, *, sigma_min: Sigma = None, sigma_max: Sigma = None) -> Choice:
    """log σ evenly spaced.

    Options:
        sigma_min, sigma_max: σ of the last and of the first level; default: the ends of the path.
    """
    return polyexponential(path, steps, rho=1.0, sigma_min=sigma_min, sigma_max=sigma_max)


@SPACINGS.register("polyexponential")
def polyexponential(
    path: NoisePath, steps: int, *, rho: Rho = 1.0, sigma_min: Sigma = None, sigma_max: Sigma = None
) -> Choice:
    """log σ = log σ_min + u^ρ·(log σ_max − log σ_min) for even u (k-diffusion's ``get_sigmas_polyexponential``).

    Options:
        rho: the power; 1 is "exponential".
        sigma_min, sigma_max: σ of the last and of the first level; default: the ends of the path.
    """
    high, low = sigma_span(path, sigma_min, sigma_max)
    return levels_of_sigmas(
        path, low * (high / low) ** (np.linspace(1.0, 0.0, steps) ** rho), from_top=sigma_max is None
    )


@SPACINGS.register("log_snr")
def log_snr(
    path: NoisePath, steps: int, *,
    log_snr_min: LogSNR = None, log_snr_max: LogSNR = None,
    noisiest: Annotated[float, Option(minimum=-1000.0, maximum=1000.0)] = -10.0,
) -> Choice:  # fmt: skip
    """log(α²/σ²) evenly spaced (Lu et al. 2022, arXiv 2206.00927, §3.4).

    The run begins at ``log_snr_min`` (twice the ``lambda_min_clipped`` of diffusers), by default at the noisiest
    level. Where that has no signal, ``noisiest`` replaces its log SNR. It ends at ``log_snr_max``, by default at the
    cleanest level.

    Options:
        log_snr_min, log_snr_max: the log SNR of the first and of the last level; default: the ends of the path.
        noisiest: the log SNR that a noisiest level without signal counts as.
    """
    first, last = path.level(path.t_max), path.level(path.t_min)
    top, bottom = 2.0 * first.half_log_snr, 2.0 * last.half_log_snr
    bottom = bottom if log_snr_max is None else min(bottom, log_snr_max)
    finite = top if first.alpha > 0.0 else min(noisiest, bottom - 1.0)
    low = finite if log_snr_min is None else max(top, log_snr_min)
    if not low < bottom:
        raise ConfigurationError(
            f"got {log_snr_min!r}", where="spacing_options.log_snr_min", suggestion=f"give a number below {bottom:.6g}"
        )
    levels = [path.level_at(value) for value in np.linspace(low, bottom, steps)]
    return with_ends(path, levels, from_top=log_snr_min is None)


@SPACINGS.register("beta")
def beta(
    path: NoisePath, steps: int, *, a: Shape = 0.6, b: Shape = 0.6,
    of: Annotated[str, Option(choices=("time", "sigma"))] = "time",
) -> Choice:  # fmt: skip
    """Quantiles of a Beta distribution, over time (Lee et al. 2024, arXiv 2407.12173) or over "sigma" (diffusers).

    As in the paper, the times are not rounded, so they never coincide; in ComfyUI they may.

    Options:
        a, b: the parameters of the distribution: below 1 both ends get more levels.
        of: what is distributed: "time" or "sigma".
    """
    if of == "time":
        if path.discrete:
            timesteps_left(path, steps)
        low = path.fraction_at(path.t_min)
        return times_at(path, low + (1.0 - low) * beta_quantiles(1.0 - np.arange(steps) / steps, a, b))
    high, low = sigma_span(path)
    return levels_of_sigmas(path, low + (high - low) * beta_quantiles(1.0 - np.linspace(0.0, 1.0, steps), a, b))


@SPACINGS.register("linear_quadratic")
def linear_quadratic(
    path: NoisePath, steps: int, *, threshold: Annotated[float, Option(above=0.0, below=1.0)] = 0.025,
    linear_steps: Annotated[int | None, Option(kind=int, minimum=1)] = None,
) -> Choice:  # fmt: skip
    """σ falls linearly to 1 − ``threshold`` of its largest in half of the steps, then quadratically to 0 (Mochi).

    Where it would pass below the cleanest level of the path, it is scaled to end there.

    Options:
        threshold: the share of the noise that the linear part removes.
        linear_steps: the number of its steps; default: half of all.
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
            why="the parabola that continues it would pass below 0",
            suggestion="give more linear_steps or a smaller threshold",
        )
    # noise removed: threshold·i/first, then a parabola with the same value and slope that ends at 1
    bend = (1.0 - threshold - slope * rest) / rest**2
    removed = np.where(i <= first, slope * i, threshold + slope * (i - first) + bend * (i - first) ** 2)
    high, low = sigma_span(path)
    most = 1.0 - low / high
    return levels_of_sigmas(path, high * (1.0 - removed * min(1.0, most / max(removed[-1], most))))


@SPACINGS.register("kl_optimal")
def kl_optimal(path: NoisePath, steps: int) -> Choice:
    """arctan σ/α evenly spaced: optimal for Gaussian data (Sabour et al. 2024, arXiv 2404.14507)."""
    low, high = (math.atan(path.level(t).noise_to_signal) for t in (path.t_min, path.t_max))
    return levels_of_ratios(path, np.tan(np.linspace(high, low, steps)))


#: Align Your Steps: the σ that Sabour et al. 2024 (arXiv 2404.14507) publish for 10 steps, by model.
AYS_SIGMAS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


@SPACINGS.register("ays")
def ays(path: NoisePath, steps: int, *, model: Annotated[str, Option(choices=tuple(AYS_SIGMAS))] = "sd15") -> Choice:
    """Align Your Steps, for models whose table is published; log σ is interpolated for other numbers of steps.

    The 11 published values are 10 steps and their end, which is the clean sample here. A cut path takes its steps
    from the rest of the curve.

    Options:
        model: the model whose table is used: "sd15", "sdxl" or "svd".
    """
    table, index = np.log(AYS_SIGMAS[model]), np.arange(len(AYS_SIGMAS[model]))
    top, bottom = log_ratios(path)
    rounding = 0.02  # the tables have two or three digits; ends of the path that differ by less are those of the table
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
    return levels_of_ratios(path, np.exp(np.interp(places, index, table)))


@SPACINGS.register("vp")
def vp(
    path: NoisePath, steps: int, *, beta_min: Annotated[float, BETA] = 0.1, beta_max: Annotated[float, BETA] = 20.0,
    t_min: Annotated[float, T_MIN] = 1e-3,
) -> Choice:  # fmt: skip
    """σ/α of evenly spaced times of the continuous VP SDE (k-diffusion's ``get_sigmas_vp``), clamped to the path.

    The options are those of the schedule "vp".

    Options:
        beta_min, beta_max: β at both ends of the SDE.
        t_min: its last time.
    """
    source = VPPath(beta_min=beta_min, beta_max=beta_max, t_min=t_min)
    first, last = (source.time(-2.0 * ratio) for ratio in log_ratios(path))
    times = np.linspace(first, last, steps)
    return levels_of_ratios(path, np.exp(-source.log_snr(times) / 2.0))


@SPACINGS.register("laplace")
def laplace(
    path: NoisePath, steps: int, *, mu: Annotated[float, Option(minimum=-100.0, maximum=100.0)] = 0.0,
    beta: Annotated[float, Option(minimum=0.01, maximum=100.0)] = 0.5,
) -> Choice:  # fmt: skip
    """log σ/α at evenly spaced quantiles of a Laplace distribution, clamped to the path (after Hang et al. 2024).

    As in ComfyUI, ``mu`` and ``beta`` are those of log σ/α = −½ log SNR; the paper's (arXiv 2407.03297) are of log SNR.

    Options:
        mu: the log(σ/α) around which the levels are dense.
        beta: the width of the distribution.
    """
    top, bottom = ((ratio - mu) / beta for ratio in log_ratios(path))
    first, last = (0.5 * math.exp(-z) if z > 0.0 else 1.0 - 0.5 * math.exp(z) for z in (top, bottom))
    p = np.linspace(first, last, steps)  # the shares of the distribution above each level
    with np.errstate(divide="ignore"):
        z = np.where(p < 0.5, -np.log(2.0 * p), np.log(2.0 * (1.0 - p)))
    return levels_of_ratios(path, np.exp(mu + beta * z))


# Their names in other libraries; docs/paths-and-grids.md lists the differences.
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
