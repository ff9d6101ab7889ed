"""The mean products of tensors that do not fit in double precision at once."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["gram_of"]

#: Numbers of a column that are widened to double precision at once.
_PIECE: Final = 1 << 16


def gram_of(columns: Tensor) -> npt.NDArray[np.float64]:
    """Return the mean products of columns of shape (M, numbers), in double precision, shape (M, M)."""
    products = np.zeros((len(columns), len(columns)))
    for piece in torch.split(columns, _PIECE, 1):
        wide = piece.double()
        products += (wide @ wide.T).numpy()
    return products / columns.shape[1]
