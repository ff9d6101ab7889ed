"""The best rational approximation of a square root: it bounds the error of every sampler on Gaussian data.

Consider a direction in which the data has variance l. The denoiser there is l/(l + τ²). The probability-flow ODE
multiplies x/α at noise level τ_T by f(l) = √(l/(l + τ_T²)). A sampler with N calls at the levels τ_1 … τ_N multiplies
it by P(l)/Π_j(l + τ_j²), where P is a polynomial of degree N. In terms of z = l/(l + τ_T²) in [z_min, z_max], f is √z
and the sampler's factor is a rational function of type (N, N).

E. I. Zolotarev found the best such approximation of √z, its error and its poles in 1877, with elliptic functions. He
solved the equivalent problem for sign(x), which is √(x²)/x (Y. Nakatsukasa and R. W. Freund, SIAM Review 58(3),
461–493, 2016, doi 10.1137/140990334).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["BestRoot", "best_root", "elliptic_k", "jacobi"]

Array = npt.NDArray[np.float64]


def _means(complement: float) -> list[tuple[float, float, float]]:
    """Return Gauss' arithmetic-geometric means (a, b, c), starting from 1 and k′ = √(1 − k²)."""
    means = [(1.0, complement, math.sqrt((1.0 - complement) * (1.0 + complement)))]
    while abs(means[-1][2]) > 1e-16 * means[-1][0] and len(means) < 64:
        a, b, _ = means[-1]
        means.append(((a + b) / 2, math.sqrt(a * b), (a - b) / 2))
    return means


def elliptic_k(complement: float) -> float:
    """Return the complete elliptic integral K of the modulus k = √(1 − k′²), where k′ = ``complement`` > 0."""
    return math.pi / (2.0 * _means(complement)[-1][0])


def jacobi(u: npt.ArrayLike, complement: float) -> tuple[Array, Array, Array]:
    """Return Jacobi's sn, cn and dn of the modulus √(1 − k′²), computed by descending Landen steps.

    The function takes k′ instead of the modulus, because k′ keeps its digits where the modulus is nearly 1.

    Args:
        u: real numbers of any shape.
        complement: k′ in (0, 1].

    Returns:
        Three arrays of the shape of ``u``.
    """
    means = _means(complement)
    phi: Array = 2.0 ** (len(means) - 1) * means[-1][0] * np.asarray(u, dtype=np.float64)
    for a, _, c in reversed(means[1:]):
        phi = (phi + np.arcsin(np.clip(c / a * np.sin(phi), -1.0, 1.0))) / 2
    sn, cn = np.sin(phi), np.cos(phi)
    return sn, cn, np.sqrt(cn**2 + (complement * sn) ** 2)


class BestRoot(NamedTuple):
    """The rational function C·Π(z + zeros)/(z + poles) with the smallest relative error to √z on [low, high].

    Attributes:
        low, high: the interval.
        scale: C.
        zeros, poles: minus the zeros and minus the poles of the function, shape (N,), rising.
        error: the largest relative error. The function attains it 2N + 2 times with alternating signs.
    """

    low: float
    high: float
    scale: float
    zeros: Array
    poles: Array
    error: float

    def __call__(self, z: npt.ArrayLike) -> Array:
        """Return the function's values at z, of the shape of z."""
        z = np.asarray(z, dtype=np.float64)[..., None]
        values: Array = self.scale * np.prod((z + self.zeros) / (z + self.poles), axis=-1)
        return values


def best_root(low: float, high: float, degree: int) -> BestRoot:
    """Return Zolotarev's best approximation of √z on [low, high] by a rational function of type (N, N).

    Its error falls as 4·exp(−(2N + 1)·π²/log(16·high/low)).

    Args:
        low, high: the interval, 0 < low ≤ high.
        degree: N ≥ 1.
    """
    ratio = math.sqrt(low / high)
    quarter, parts = elliptic_k(ratio), 2 * degree + 1
    sn, cn, _ = jacobi(np.arange(1, 2 * degree + 1) * (quarter / parts), ratio)
    roots = low * (sn / cn) ** 2
    dn = jacobi(np.arange(parts + 1) * (quarter / parts), ratio)[2]
    extremes = low / dn**2  # rising from low to high: the error is largest here
    unscaled = BestRoot(low, high, 1.0, roots[0::2], roots[1::2], 0.0)
    values = unscaled(extremes) / np.sqrt(extremes)
    least, most = float(values.min()), float(values.max())
    return unscaled._replace(scale=2.0 / (most + least), error=(most - least) / (most + least))
