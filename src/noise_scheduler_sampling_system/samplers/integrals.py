"""One step of an exponential integrator, as numbers: the factors of x, of each prediction, and of the noise.

With λ = log(α/σ) and s = σ/α, the diffusion ODE, and the SDEs with the same marginals, have an exact solution from one
level to the next (primes). It is linear in x and in the prediction along the trajectory:

    sample:   x' = (α'φ'/αφ)·x + α'·∫ x₀ dq + n·ξ,      q = φ'/φ from φ'/φ(s) to 1
    epsilon:  x' = (α'/α)·x + α'·∫ ε ds                  s from s to s'

φ(s) = s is the ODE (Lu et al. 2022, arXiv 2211.01095, eq. 8). φ = s^(1+η) is an SDE with η times the noise of the
reverse SDE (n² = σ'²·(1 − e^(−2ηh)), h = λ' − λ). Other φ are members of the family of Cui et al. 2023 (arXiv
2309.06169). A method replaces the prediction by the polynomial through its known values (:func:`interpolated`). The
weights of every such rule add up to the integral of a constant, so steps are exact for constant data and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ..schedules.path import Level

__all__ = ["Kernel", "Move", "adams", "gauss", "interpolated", "lagrange", "power"]

Array = npt.NDArray[np.float64]
#: λ ↦ the variable in which the prediction is replaced by a polynomial.
Variable = Callable[[Any], Any]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)  # type: ignore[no-untyped-call]


@final
@dataclass(frozen=True)
class Kernel:
    """φ of the sample form: log φ and its slope as functions of λ. φ falls with λ at least as fast as s = e^(−λ)."""

    log: Callable[[Any], Any]
    slope: Callable[[Any], Any]


def power(eta: float) -> Kernel:
    """φ = s^(1+η)."""
    return Kernel(lambda lam: -(1.0 + eta) * lam, lambda lam: -(1.0 + eta) + 0.0 * lam)


@final
@dataclass(frozen=True)
class Move:
    """One step: x' = of_x·x + Σ weight·prediction + noise·ξ."""

    of_x: float
    weights: tuple[float, ...]
    noise: float


def interpolated(
    space: str,
    now: Level,
    after: Level,
    nodes: Sequence[Level],
    variable: Variable,
    kernel: Kernel,
    rule: str = "exact",
) -> Move:
    """The step from one level to another, with predictions at the nodes' levels.

    Args:
        space: the prediction that is interpolated: "sample" or "epsilon".
        now, after: the two levels. With one node, ``now`` may be without signal and ``after`` without noise.
        nodes: the levels of the predictions, the one closest to the step's start first.
        variable: the prediction is a polynomial of degree ``len(nodes) − 1`` in it.
        kernel: the SDE ("sample" only).
        rule: "exact" weights, or a published change of them: "bh1" and "bh2" (= "midpoint") are shortcuts for two
            nodes, "as_published" halves the second-order term for three.
    """
    of_x, total, noise = _constants(space, now, after, kernel)
    if len(nodes) == 1:
        return Move(of_x, (total,), noise)
    blind = any(level.alpha == 0.0 for level in nodes)
    h = after.half_log_snr - now.half_log_snr
    if len(nodes) == 2 and not blind and rule in ("bh1", "bh2", "midpoint"):
        linear = -after.sigma * h  # e^h − 1 ≈ h, of the paper's B₁(h)
        if space == "sample":
            linear = after.alpha * (kernel.log(now.half_log_snr) - kernel.log(after.half_log_snr))
        size = linear if rule == "bh1" else total
        second = 0.5 * size * h / (nodes[1].half_log_snr - nodes[0].half_log_snr)
        return Move(of_x, (total - second, second), noise)
    if blind:  # λ is −∞ at a level without signal; x₀ is smooth in α/σ there
        variable = _signal_to_noise
    places = [variable(level.half_log_snr) for level in nodes]
    points, measure = _quadrature(space, now, after, kernel)
    weights = lagrange(np.array(places), variable(points)) @ measure
    if len(nodes) == 3 and not blind and rule == "as_published":
        lam = np.array([level.half_log_snr for level in nodes])
        second = 0.5 * float(((points - lam[0]) ** 2) @ measure)
        weights -= [second / math.prod(a - b for j, b in enumerate(lam) if j != i) for i, a in enumerate(lam)]
    weights[0] += total - weights.sum()  # corrects the rounding of the quadrature
    return Move(of_x, tuple(weights.tolist()), noise)


def _constants(space: str, now: Level, after: Level, kernel: Kernel) -> tuple[float, float, float]:
    """The factor of x, the integral of a constant 1, and the standard deviation of the noise."""
    if space == "epsilon":
        of_x = after.alpha / now.alpha
        return of_x, after.sigma - of_x * now.sigma, 0.0
    if after.sigma == 0.0:
        return 0.0, after.alpha, 0.0
    start = now.half_log_snr
    if now.alpha == 0.0:  # φ'/φ is 0 here, so x has a factor in the ODE only: σ'/σ
        ode = math.isclose(kernel.slope(0.0), -1.0)
        return (after.sigma / now.sigma if ode else 0.0), after.alpha, 0.0 if ode else after.sigma
    log_ratio = kernel.log(after.half_log_snr) - kernel.log(start)
    h = after.half_log_snr - start
    decay = math.exp(log_ratio + h)  # φ'/φ against s'/s: 1 for the ODE
    return after.sigma / now.sigma * decay, -after.alpha * math.expm1(log_ratio), _rest(after.sigma, log_ratio + h)


def _rest(sigma: float, log_decay: float) -> float:
    """σ·√(1 − decay²)."""
    return sigma * math.sqrt(max(0.0, -math.expm1(2.0 * log_decay)))


def _quadrature(space: str, now: Level, after: Level, kernel: Kernel) -> tuple[Array, Array]:
    """Values of λ within the step, and their weights in the integral."""
    if space == "epsilon":  # over s, which may end at 0
        start, stop = now.noise_to_signal, after.noise_to_signal
        if stop == 0.0 or start / stop < 3.0:
            s, width = gauss(start, stop)
            return -np.log(s), after.alpha * width
    elif now.alpha == 0.0:  # over α/σ from 0; the ODE only (an SDE step does not depend on its start)
        return after.half_log_snr + np.log((_NODES + 1.0) / 2.0), after.alpha * _WEIGHTS / 2.0
    low, high = now.half_log_snr, after.half_log_snr
    lam, scale = gauss(low, high)
    if space == "epsilon":
        return lam, -after.alpha * np.exp(-lam) * scale
    return lam, after.alpha * np.exp(kernel.log(high) - kernel.log(lam)) * -kernel.slope(lam) * scale


def gauss(start: float, stop: float) -> tuple[Array, Array]:
    """Nodes and weights of the Gauss-Legendre rule between two numbers."""
    half = (stop - start) / 2.0
    return start + half * (_NODES + 1.0), half * _WEIGHTS


def _signal_to_noise(half_log_snr: Any) -> Any:
    return np.exp(half_log_snr)


def lagrange(nodes: Array, points: Array) -> Array:
    """The Lagrange polynomials of the nodes, evaluated at the points: shape (nodes, points)."""
    places = nodes.tolist()
    distances = points[None, :] - nodes[:, None]
    result = np.ones_like(distances)
    for i, node in enumerate(places):
        for j, other in enumerate(places):
            if j != i:
                result[i] *= distances[j] / (node - other)
    return result


def adams(nodes: Sequence[float], start: float, stop: float) -> list[float]:
    """Weights w such that Σ w·f(node) is the mean over [start, stop] of the polynomial through the nodes.

    They are not finite where the nodes are too close together for float64.
    """
    points, measure = gauss(0.0, 1.0)
    with np.errstate(all="ignore"):  # nodes close together and a far longer step give weights that are not finite
        scaled = (np.array(nodes) - start) / (stop - start)
        weights: list[float] = (lagrange(scaled, points) @ measure).tolist()
    return weights
