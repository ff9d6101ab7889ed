"""Runge-Kutta methods as data, with the conditions for their order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..support.errors import ConfigurationError, shown

__all__ = ["BUTCHER", "EXPONENTIAL", "ButcherTableau", "ExponentialTableau", "phi"]

Array = npt.NDArray[np.float64]
Rows = tuple[tuple[float, ...], ...]


@final
@dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge-Kutta method for dy/dt = f(t, y).

    Attributes:
        a: the weights of the stages. Row i has a weight for each of the i stages before it; the first row is empty.
        b: the weights of the result.
        c: the times of the stages within the step: the sums of the rows of a.
        order: found from the order conditions, from 1 to 4.
        embedded: other weights of the result, for an estimate of the error, or None.

    Raises:
        ConfigurationError: the numbers are not an explicit method, or not finite.
    """

    a: Rows
    b: tuple[float, ...]
    embedded: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        try:
            a, b = tuple(_floats(row) for row in self.a), _floats(self.b)
            embedded = None if self.embedded is None else _floats(self.embedded)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            a, b, embedded = (), (), None
        for name, value in (("a", a), ("b", b), ("embedded", embedded)):
            object.__setattr__(self, name, value)
        stages = len(b)
        shapes = [len(row) for row in a] == list(range(stages)) and (embedded is None or len(embedded) == stages)
        finite = all(map(math.isfinite, (*itertools.chain(*a), *b, *(embedded or ()))))
        if not (stages and shapes and finite and self.order >= 1):
            raise ConfigurationError(
                "the numbers are not an explicit Runge-Kutta method",
                where="tableau",
                why="row i of a needs i numbers, and b needs one for each row, with the sum 1; all of them finite",
                suggestion="give a = [[], [a21], [a31, a32], ...] and b",
            )

    @classmethod
    def of(cls, value: Any) -> ButcherTableau:
        """Make a tableau from a tableau, its name, or {"a": ..., "b": ...}.

        Raises:
            ConfigurationError: none of these.
        """
        if isinstance(value, ButcherTableau):
            return value
        if isinstance(value, str) and value in BUTCHER:
            return BUTCHER[value]
        if isinstance(value, Mapping) and {"a", "b"} <= value.keys():
            return cls(value["a"], value["b"])
        raise ConfigurationError(
            f"got {shown(value)}",
            where="tableau",
            suggestion=f"give one of {', '.join(BUTCHER)}, or {{'a': [[], [a21], ...], 'b': [...]}}",
        )

    @property
    def data(self) -> dict[str, list[Any]]:
        """a and b as plain data, which :meth:`of` reads."""
        return {"a": [list(row) for row in self.a], "b": list(self.b)}

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


def _floats(numbers: Any) -> tuple[float, ...]:
    """Numbers as Python's; tensors and arrays of one element are numbers, too."""
    return tuple(float(w.item() if isinstance(w, Tensor | np.ndarray) else w) for w in numbers)


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


#: z ↦ weights of the predictions after the first, in units of the step's length.
StageWeights = Callable[[float], Sequence[float]]


@final
@dataclass(frozen=True)
class ExponentialTableau:
    """An explicit exponential Runge-Kutta method for dy/dτ = L·y + N(y), z = L·h.

    Attributes:
        order: of convergence.
        c: the places of the stages in the step, the first at 0; the result is at 1.
        weights: for each stage after the first, and for the result: z ↦ the weights of the second and later
            predictions. All weights add up to c·φ₁(cz); the first prediction's is the rest.
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
