"""Units for the weights of a table: a change of one by one unit moves the state as far as a change of any other.

The columns of a row are nearly parallel, because predictions hardly change from one query to the next. A high order is
made of their small differences. In the weights of the columns, a damped step hardly moves along these differences, and
differences of runs are too coarse there. So a fit changes combinations of weights that are orthonormal in the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..gram import gram_of
from ..table import Table

__all__ = ["units_of"]

Array = npt.NDArray[np.float64]

#: The length of a unit counts the weights themselves, too, in this share of a sample's root mean square. Otherwise
#: weights of hundreds would cost nothing along columns that are all but the same.
_OF_WEIGHTS: Final = 0.3


def units_of(table: Table, columns: Sequence[Tensor]) -> tuple[Array, ...]:
    """Return for each row a square matrix. Its columns are changes of the row's weights of one unit each.

    Args:
        table: a consistent table of N queries.
        columns: all columns of the runs of some trajectories, each of shape (n, ...).

    Returns:
        N + 1 matrices, the first one empty where row 0 has no weight.
    """
    products = gram_of(torch.stack([column.detach().flatten().cpu() for column in columns]))
    of_samples = products[table.column(table.nfe - 1), table.column(table.nfe - 1)]
    products += _OF_WEIGHTS**2 * of_samples * np.eye(len(products))
    units = []
    for i in range(1 + table.nfe):
        directions = table.frame(i).directions
        squares, along = np.linalg.eigh(directions @ products @ directions.T)
        units.append(along / np.sqrt(squares))
    return tuple(units)
