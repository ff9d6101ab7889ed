"""The row that is nearest to a target among the combinations of columns that it may be."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["nearest_row"]

Array = npt.NDArray[np.float64]

#: Rows must bear errors of all their columns but u_T of this size, in samples' root mean squares.
_RIDGE: Final = 0.003
#: What keeps parallel directions solvable, as a share of their size.
_LEAST: Final = 1e-10


def nearest_row(products: Array, target: Array, directions: Array, offset: Array, size: float) -> Array:
    """Return offset + weights @ directions with the least mean square distance to a target, for each of B problems.

    Args:
        products: the mean products of the columns, u_T first, shape (B, n, n).
        target: the mean products of the columns and the target, shape (B, n).
        directions: shape (number of weights, n).
        offset: shape (B, n).
        size: the root mean square of a number of a sample.
    """
    borne = products + np.diag(np.append(0.0, np.full(products.shape[-1] - 1, (_RIDGE * size) ** 2)))
    square = directions @ borne @ directions.T
    square += _LEAST * np.eye(len(directions)) * np.diagonal(square, axis1=1, axis2=2)[:, None]
    slope = (target - (borne @ offset[..., None])[..., 0]) @ directions.T
    row: Array = offset + np.linalg.solve(square, slope[..., None])[..., 0] @ directions
    return row
