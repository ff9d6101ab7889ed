"""The best rational approximation of a square root: the limit of samplers on Gaussian data, and who reaches it.

On data of variance l along some direction the denoiser is l/(l + τ²), the probability-flow ODE multiplies x/α at
noise level τ_T by f(l) = √(l/(l + τ_T²)), and any sampler with N calls at levels τ_1 … τ_N by some
P(l)/Π_j(l + τ_j²) with a polynomial P of degree N. With z = l/(l + τ_T²) in [z_min, z_max], f = √z and the factor is
a rational function of z of the same type. How well such a function approximates √z, and where its poles
are, E. I. Zolotarev solved in 1877 by elliptic functions, as the best approximation of sign(x), which is √(x²)/x
(Y. Nakatsukasa and R. W. Freund, SIAM Review 58(3), 461–493, 2016, doi 10.1137/140990334, for the latter).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["BestRoot", "best_root", "elliptic_k", "jacobi"]

Array = npt.NDArray[np.float64]


def _means(complement: float) -> list[tuple[float, float, float]]:
    """Gauss' arithmetic-geometric means (a, b, c) from 1 and k′ = √(1 − k²) on."""
    means = [(1.0, complement, math.sqrt((1.0 - complement) * (1.0 + complement)))]
    while abs(means[-1][2]) > 1e-16 * means[-1][0] and len(means) < 64:
        a, b, _ = means[-1]
        means.append(((a + b) / 2, math.sqrt(a * b), (a - b) / 2))
    return means


def elliptic_k(complement: float) -> float:
    """The complete elliptic integral K of the modulus k = √(1 − k′²), k′ = ``complement`` > 0."""
    return math.pi / (2.0 * _means(complement)[-1][0])


def jacobi(u: npt.ArrayLike, complement: float) -> tuple[Array, Array, Array]:
    """Jacobi's sn, cn and dn of the modulus √(1 − k′²), by descending Landen steps.

    The complement is the argument because it is known exactly where k is all but 1.

    Args:
        u: any real numbers.
        complement: k′ in (0, 1].
    """
    means = _means(complement)
    phi: Array = 2.0 ** (len(means) - 1) * means[-1][0] * np.asarray(u, dtype=np.float64)
    for a, _, c in reversed(means[1:]):
        phi = (phi + np.arcsin(np.clip(c / a * np.sin(phi), -1.0, 1.0))) / 2
    sn, cn = np.sin(phi), np.cos(phi)
    return sn, cn, np.sqrt(cn**2 + (complement * sn) ** 2)


class BestRoot(NamedTuple):
    """The rational function C·Π(z + zeros)/(z + poles) that is nearest to √z in relative error on [low, high].

    Attributes:
        low, high: the interval.
        scale: C.
        zeros, poles: their negatives, shape (N,), rising.
        error: the largest relative error, taken 2N + 2 times with alternating signs.
    """

    low: float
    high: float
    scale: float
    zeros: Array
    poles: Array
    error: float

    def __call__(self, z: npt.ArrayLike) -> Array:
        """Its values."""
        z = np.asarray(z, dtype=np.float64)[..., None]
        values: Array = self.scale * np.prod((z + self.zeros) / (z + self.poles), axis=-1)
        return values


def best_root(low: float, high: float, degree: int) -> BestRoot:
    """Zolotarev's best approximation of √z on [low, high], 0 < low ≤ high, by a rational function of type (N, N).

    Its error falls as 4·exp(−(2N + 1)·π²/log(16·high/low)) with the degree N.
    """
    ratio = math.sqrt(low / high)
    quarter, parts = elliptic_k(ratio), 2 * degree + 1
    sn, cn, _ = jacobi(np.arange(1, 2 * degree + 1) * (quarter / parts), ratio)
    roots = low * (sn / cn) ** 2
    dn = jacobi(np.arange(parts + 1) * (quarter / parts), ratio)[2]
    extremes = low / dn**2  # from low to high: where the error is largest
    unscaled = BestRoot(low, high, 1.0, roots[0::2], roots[1::2], 0.0)
    values = unscaled(extremes) / np.sqrt(extremes)
    least, most = float(values.min()), float(values.max())
    return unscaled._replace(scale=2.0 / (most + least), error=(most - least) / (most + least))
