"""The exact result of a plan on Gaussian data, without random numbers and without a model.

For data N(μ, s²) the best prediction is linear in the state, x̂₀ = μ + αs²/S²·(x − αμ) with S² = α²s² + σ². A plan is
linear in states, predictions and noise. Its result is therefore Gaussian, and its mean and standard deviation follow
from the table alone. ``samplers/spread.py`` uses the same algebra on the rows that a sampler is about to write.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..config.prediction import SecondLevel, quantity
from ..schedules.path import Level
from ..support.errors import ConfigurationError, shown
from .plan_rows import Array, PlanRows

__all__ = ["GaussianMoments", "gaussian_moments", "response", "typical_spread"]

#: A typical standard deviation of image values in [−1, 1].
_TYPICAL = 0.3


class GaussianMoments(NamedTuple):
    """Mean and standard deviation of a plan's result for Gaussian data, each of the shape of ``std``."""

    mean: Array
    std: Array


def response(space: str, level: Level, widths: Array, to: SecondLevel | None = None) -> tuple[Array, Array]:
    """The exact prediction for data N(μ, s²) as (of_x, of_mean), where y = of_x·x + of_mean·μ.

    Args:
        space: the quantity y.
        level: of the evaluation; σ > 0.
        widths: the standard deviations s.
        to: the level that a network of two times is asked for. The exact flow is then x_r = α_r·μ + (S_r/S)·(x − αμ).
    """
    of_clean, of_noise = quantity(space, level.alpha, level.sigma)
    square = level.alpha**2 * widths**2 + level.sigma**2
    if to is not None and to.elapsed != 0.0:
        shrink = np.sqrt((to.alpha**2 * widths**2 + to.sigma**2) / square)
        determinant = level.alpha * to.sigma - level.sigma * to.alpha
        # (x₀, ε) of the straight step from x to x_r, by Cramer's rule
        clean, noise = (to.sigma - level.sigma * shrink) / determinant, (level.alpha * shrink - to.alpha) / determinant
        of_x = of_clean * clean + of_noise * noise
        return of_x, of_clean - level.alpha * of_x
    clean = level.alpha * widths**2 / square  # the coefficient of x in the predicted clean sample
    of_x = of_clean * clean + of_noise * level.sigma / square
    return of_x, of_clean - level.alpha * of_x


def gaussian_moments(plan: PlanRows, std: Any, mean: Any = 0.0) -> GaussianMoments:
    """Mean and standard deviation of a plan's result for data N(mean, std²) and the exact model.

    A good plan returns ``mean`` and ``std`` themselves. A result with a larger standard deviation holds noise; one with
    a smaller standard deviation has lost detail.

    Args:
        plan: any plan; clipping and guidance are left out.
        std: standard deviations of the data, > 0, any shape.
        mean: means of the data, broadcast against ``std``.

    Returns:
        Two arrays of the broadcast shape.

    Raises:
        ConfigurationError: a ``std`` is not above 0, or a number is not finite.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline
        >>> moments = DiffusionPipeline(None, "dpmpp_2m").plan(20).gaussian_moments(0.3)
        >>> f"{moments.std / 0.3:.2f}"
        '1.04'
    """
    widths, means = np.broadcast_arrays(_finite("std", std), _finite("mean", mean))
    if not (widths > 0.0).all():
        raise ConfigurationError("is not above 0", where="std", suggestion="give standard deviations of the data")
    shape, widths, means = widths.shape, widths.ravel(), means.ravel()
    count = len(plan.time)
    # the columns are the mean, and the factors of the initial noise and of each row's noise
    state = np.zeros((widths.size, 2 + count))
    state[:, 1] = plan.prior_scale
    predictions: list[Array] = []
    for i in range(count):
        level = Level(float(plan.time[i]), float(plan.alpha[i]), float(plan.sigma[i]))
        if plan.asked[i]:
            of_x, of_mean = response(plan.space_of(i), level, widths, plan.second_level(i))
            y = of_x[:, None] * state
            y[:, 0] += of_mean * means
        else:
            y = np.zeros_like(state)
        predictions.append(y)
        following = plan.a[i] * state
        following += (plan.raw[i] + (0.0 if plan.null is None else plan.null[i])) * y
        for k in np.flatnonzero(plan.b[i]):
            following += plan.b[i, k] * predictions[i - k]
        for k in np.flatnonzero(plan.c[i]):
            following[:, 2 + i - k] += plan.c[i, k]
        state = following
    return GaussianMoments(state[:, 0].reshape(shape), np.sqrt((state[:, 1:] ** 2).sum(axis=1)).reshape(shape))


def typical_spread(plan: PlanRows) -> float:
    """The spread of a plan for data as narrow as images (standard deviation 0.3)."""
    return float(gaussian_moments(plan, _TYPICAL).std) / _TYPICAL


def _finite(name: str, values: Any) -> Array:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(math.nan)
    if not np.isfinite(array).all():
        raise ConfigurationError(f"got {shown(values)}", where=name, suggestion="give finite numbers")
    return array
