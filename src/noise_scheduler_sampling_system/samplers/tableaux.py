"""Runge-Kutta methods as data, with the conditions that their order means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..support.errors import ConfigurationError, shown

__all__ = ["BUTCHER", "EXPONENTIAL", "ButcherTableau", "ExponentialTableau", "phi"]

Array = npt.NDArray[np.float64]
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge-Kutta method for dy/dt = f(t, y).

    Attributes:
        a: the stages' weights; row i has the weights of the i stages before it, the first row none.
        b: the weights of the result.
        c: the stages' times in the step, the sums of the rows of a.
        order: found from the order conditions, up to 4.
        embedded: other weights of the result, for the estimate of an error, or None.

    Raises:
        ConfigurationError: the numbers are no explicit method.
    """

    a: Rows
    b: tuple[float, ...]
    embedded: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        stages = len(self.b)
        shapes = [len(row) for row in self.a] == list(range(stages))
        lengths = self.embedded is None or len(self.embedded) == stages
        if not (stages and shapes and lengths and self.order >= 1):
            raise ConfigurationError(
                "is no explicit Runge-Kutta method",
                where="tableau",
                why="row i of a has i weights, b has as many as there are stages and adds up to 1",
                suggestion="give a = [[], [a21], [a31, a32], ...] and b",
            )

    @classmethod
    def of(cls, value: Any) -> ButcherTableau:
        """From a tableau, its name, or {"a": ..., "b": ...}.

        Raises:
            ConfigurationError: none of these.
        """
        if isinstance(value, ButcherTableau):
            return value
        if isinstance(value, str) and value in BUTCHER:
            return BUTCHER[value]
        try:
            a = tuple(tuple(float(w) for w in row) for row in value["a"])
            return cls(a, tuple(float(w) for w in value["b"]))
        except (TypeError, KeyError, ValueError, IndexError, OverflowError, RuntimeError):
            raise ConfigurationError(
                f"got {shown(value)}",
                where="tableau",
                suggestion=f"give one of {', '.join(BUTCHER)}, or {{'a': [[], [a21], ...], 'b': [...]}}",
            ) from None

    @property
    def c(self) -> tuple[float, ...]:
        return tuple(math.fsum(row) for row in self.a)

    @property
    def order(self) -> int:
        """The largest p ≤ 4 for which every order condition up to p holds."""
        n = len(self.b)
        a = np.zeros((n, n))
        for i, row in enumerate(self.a):
            a[i, : len(row)] = row
        b, c = np.array(self.b), a.sum(axis=1)
        conditions = [
            [(b.sum(), 1.0)],
            [(b @ c, 1 / 2)],
            [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
            [(b @ c**3, 1 / 4), (b @ (c * (a @ c)), 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
        ]
        holds = [all(abs(value - wanted) < 1e-9 for value, wanted in level) for level in conditions]
        return holds.index(False) if False in holds else len(holds)


def _tableau(
    a: Sequence[Sequence[float]], b: Sequence[float], embedded: Sequence[float] | None = None
) -> ButcherTableau:
    return ButcherTableau(tuple(map(tuple, a)), tuple(b), None if embedded is None else tuple(embedded))


#: Named explicit methods (Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, ch. II).
BUTCHER = {
    "euler": _tableau([[]], [1]),
    "midpoint": _tableau([[], [1 / 2]], [0, 1]),
    "heun2": _tableau([[], [1]], [1 / 2, 1 / 2], [1, 0]),
    "ralston2": _tableau([[], [2 / 3]], [1 / 4, 3 / 4]),
    "heun3": _tableau([[], [1 / 3], [0, 2 / 3]], [1 / 4, 0, 3 / 4]),
    "kutta3": _tableau([[], [1 / 2], [-1, 2]], [1 / 6, 2 / 3, 1 / 6]),
    "ralston3": _tableau([[], [1 / 2], [0, 3 / 4]], [2 / 9, 1 / 3, 4 / 9]),
    "ssprk3": _tableau([[], [1], [1 / 4, 1 / 4]], [1 / 6, 1 / 6, 2 / 3]),
    "bogacki_shampine": _tableau(
        [[], [1 / 2], [0, 3 / 4], [2 / 9, 1 / 3, 4 / 9]], [2 / 9, 1 / 3, 4 / 9, 0], [7 / 24, 1 / 4, 1 / 3, 1 / 8]
    ),
    "rk4": _tableau([[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    "rk38": _tableau([[], [1 / 3], [-1 / 3, 1], [1, -1, 1]], [1 / 8, 3 / 8, 3 / 8, 1 / 8]),
    "ralston4": _tableau(
        [
            [],
            [2 / 5],
            [(-2889 + 1428 * 5**0.5) / 1024, (3785 - 1620 * 5**0.5) / 1024],
            [(-3365 + 2094 * 5**0.5) / 6040, (-975 - 3046 * 5**0.5) / 2552, (467040 + 203968 * 5**0.5) / 240845],
        ],
        [
            (263 + 24 * 5**0.5) / 1812,
            (125 - 1000 * 5**0.5) / 3828,
            (3426304 + 1661952 * 5**0.5) / 5924787,
            (30 - 4 * 5**0.5) / 123,
        ],
    ),
    "dormand_prince": _tableau(
        [
            [],
            [1 / 5],
            [3 / 40, 9 / 40],
            [44 / 45, -56 / 15, 32 / 9],
            [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
            [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
            [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
        ],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
        [5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40],
    ),
}


def phi(k: int, z: float) -> float:
    """φ_k(z) = ∫₀¹ e^((1−θ)z)·θ^(k−1)/(k−1)! dθ: φ₁(z) = (e^z − 1)/z (Hochbruck & Ostermann 2010, eq. 2.10)."""
    if abs(z) < 1.0:  # the recursion would cancel
        return math.fsum(z**n / math.factorial(n + k) for n in range(20))
    value = math.exp(z)
    for n in range(k):
        value = (value - 1.0 / math.factorial(n)) / z
    return value


#: (c, z) ↦ the weights of the stages after the first, φ_k being those of c·z; all over the step's length.
StageWeights = Callable[[float], Sequence[float]]


@dataclass(frozen=True)
class ExponentialTableau:
    """An explicit exponential Runge-Kutta method for dy/dτ = L·y + N(y), z = L·h.

    Attributes:
        order: of convergence.
        c: the stages' places in the step, the first 0; the result is at 1.
        weights: for each stage after the first, and for the result: z ↦ the weights of the second
            and later predictions. The first prediction has what is left of c·φ₁(cz).
    """

    order: int
    c: tuple[float, ...]
    weights: tuple[StageWeights, ...]


def _third_order(c2: float) -> ExponentialTableau:
    """Hochbruck & Ostermann 2005, eq. 5.9; DPM-Solver-3 for c2 = 1/3."""
    return ExponentialTableau(
        3,
        (0.0, c2, 2 / 3),
        (lambda z: (), lambda z: (4 / (9 * c2) * phi(2, 2 * z / 3),), lambda z: (0.0, 1.5 * phi(2, z))),
    )


def _hochbruck_ostermann4() -> tuple[StageWeights, ...]:
    def last_stage(z: float) -> Sequence[float]:
        half, whole = z / 2, z
        a52 = phi(2, half) / 2 - phi(3, whole) + phi(2, whole) / 4 - phi(3, half) / 2
        return a52, a52, phi(2, half) / 4 - a52

    return (
        lambda z: (),
        lambda z: (phi(2, z / 2),),
        lambda z: (phi(2, z), phi(2, z)),
        last_stage,
        lambda z: (0.0, 0.0, 4 * phi(3, z) - phi(2, z), 4 * phi(2, z) - 8 * phi(3, z)),
    )


#: Named exponential methods. "midpoint2" is DPM-Solver-2 and DPM-Solver++(2S) as published.
EXPONENTIAL = {
    "midpoint2": ExponentialTableau(2, (0.0, 0.5), (lambda z: (), lambda z: (phi(1, z),))),
    "etd2": ExponentialTableau(2, (0.0, 0.5), (lambda z: (), lambda z: (2 * phi(2, z),))),
    "heun2": ExponentialTableau(2, (0.0, 1.0), (lambda z: (), lambda z: (phi(2, z),))),
    "etd3": _third_order(1 / 3),
    "etd3_half": _third_order(0.5),
    "cox_matthews4": ExponentialTableau(
        4,
        (0.0, 0.5, 0.5, 1.0),
        (
            lambda z: (),
            lambda z: (phi(1, z / 2) / 2,),
            lambda z: (0.0, phi(1, z / 2)),
            lambda z: (
                2 * phi(2, z) - 4 * phi(3, z),
                2 * phi(2, z) - 4 * phi(3, z),
                4 * phi(3, z) - phi(2, z),
            ),
        ),
    ),
    "krogstad4": ExponentialTableau(
        4,
        (0.0, 0.5, 0.5, 1.0),
        (
            lambda z: (),
            lambda z: (phi(2, z / 2),),
            lambda z: (0.0, 2 * phi(2, z)),
            lambda z: (
                2 * phi(2, z) - 4 * phi(3, z),
                2 * phi(2, z) - 4 * phi(3, z),
                4 * phi(3, z) - phi(2, z),
            ),
        ),
    ),
    "hochbruck_ostermann4": ExponentialTableau(4, (0.0, 0.5, 0.5, 1.0, 0.5), _hochbruck_ostermann4()),
}
