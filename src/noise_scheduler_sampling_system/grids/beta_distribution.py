"""Quantiles of the Beta distribution."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

__all__ = ["beta_quantiles"]

Array = npt.NDArray[np.float64]


def beta_quantiles(p: Array, a: float, b: float) -> Array:
    """x with I_x(a, b) = p, for each p; a, b from 0.01 to 20, beyond which the series loses its digits."""
    return np.array(_bisected(tuple(p.tolist()), a, b))


@functools.lru_cache(maxsize=256)
def _bisected(places: tuple[float, ...], a: float, b: float) -> tuple[float, ...]:
    """The quantiles, by bisection of the regularised incomplete beta function."""
    p = np.array(places)
    low, high = np.zeros_like(p), np.ones_like(p)
    for _ in range(60):
        middle = (low + high) / 2
        below = _beta_cdf(middle, a, b) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return tuple(np.where(p >= 1.0, 1.0, np.where(p <= 0.0, 0.0, (low + high) / 2)).tolist())


def _beta_cdf(x: Array, a: float, b: float) -> Array:
    """I_x(a, b). The power series of ∫ t^(a−1)·(1−t)^(b−1) converges for x ≤ ½; I_x(a, b) = 1 − I_{1−x}(b, a)."""

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
