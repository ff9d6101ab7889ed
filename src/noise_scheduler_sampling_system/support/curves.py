"""Smooth functions through measured points."""

from __future__ import annotations

import functools
from typing import Any, final

import numpy as np
import numpy.typing as npt

__all__ = ["Curve"]

Array = npt.NDArray[np.float64]


@final
class Curve:
    """The cubic spline through given points, constant outside, with its derivative and its integral.

    It is a "not-a-knot" spline: its third derivative is continuous at the second and the last but one node. With
    fewer than four points it is a natural spline: its second derivative is 0 at the ends.

    Args:
        x: the nodes, strictly rising, at least two.
        y: the values there.
    """

    def __init__(self, x: Array, y: Array) -> None:
        h, count = np.diff(x), len(x)
        rise = np.diff(y) / h
        matrix, right = np.eye(count), np.zeros(count)
        for i in range(1, count - 1):
            matrix[i, i - 1 : i + 2] = h[i - 1], 2.0 * (h[i - 1] + h[i]), h[i]
            right[i] = 6.0 * (rise[i] - rise[i - 1])
        if count > 3:
            matrix[0, :3] = h[1], -h[0] - h[1], h[0]
            matrix[-1, -3:] = h[-1], -h[-2] - h[-1], h[-2]
        bend = np.linalg.solve(matrix, right)  # the second derivatives
        first = rise - h * (2.0 * bend[:-1] + bend[1:]) / 6.0
        third = np.diff(bend) / (6.0 * h)
        self._x = x
        self._pieces = np.stack([third, bend[:-1] / 2.0, first, y[:-1]])  # highest power first
        self._sums = np.concatenate([[0.0], np.cumsum(_integrated(self._pieces, h))])
        self._ends = float(y[0]), float(y[-1])

    def __call__(self, x: Any) -> Any:
        """The values at x."""
        inside = np.clip(x, self._x[0], self._x[-1])
        i = np.clip(np.searchsorted(self._x, inside, side="right") - 1, 0, len(self._x) - 2)
        return _horner(self._pieces[:, i], inside - self._x[i])

    def slope(self, x: Any) -> Any:
        """The derivative at x; beyond the ends that of the outer piece, continued."""
        i = np.clip(np.searchsorted(self._x, x, side="right") - 1, 0, len(self._x) - 2)
        return _horner(self._pieces[:3, i] * np.array([3.0, 2.0, 1.0]).reshape(-1, *[1] * np.ndim(x)), x - self._x[i])

    def integral(self, x: Any) -> Any:
        """∫ from the first node to x."""
        inside = np.clip(x, self._x[0], self._x[-1])
        i = np.clip(np.searchsorted(self._x, inside, side="right") - 1, 0, len(self._x) - 2)
        within = self._sums[i] + _integrated(self._pieces[:, i], inside - self._x[i])
        return (
            within + self._ends[0] * np.minimum(x - self._x[0], 0.0) + self._ends[1] * np.maximum(x - self._x[-1], 0.0)
        )


def _horner(coefficients: Array, x: Any) -> Any:
    return functools.reduce(lambda total, c: total * x + c, coefficients)


def _integrated(pieces: Array, x: Any) -> Any:
    return _horner(pieces / np.array([4.0, 3.0, 2.0, 1.0]).reshape(-1, *[1] * (pieces.ndim - 1)), x) * x
