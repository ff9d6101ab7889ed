"""Images as the sequences that transformers see: 2×2 entries of x are one token, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["from_tokens", "places", "to_tokens"]


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H/2·W/2, 4·C)."""
    batch, channels, rows, columns = x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2
    cells = x.reshape(batch, channels, rows, 2, columns, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, 4 * channels)


def from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`to_tokens`, in the shape of ``like``."""
    batch, channels, rows, columns = like.shape[0], like.shape[1], like.shape[2] // 2, like.shape[3] // 2
    cells = tokens.reshape(batch, rows, columns, channels, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(like.shape)


def places(rows: int, columns: int, width: int, first: int) -> Tensor:
    """The coordinates of the tokens of an image, shape (rows·columns, ``width``): row and column at ``first``."""
    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    found = torch.zeros(rows * columns, width)
    found[:, first : first + 2] = torch.stack(grid, dim=-1).reshape(-1, 2)
    return found
