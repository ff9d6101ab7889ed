"""The subspace of sample space that holds the data: maps to its orthonormal coordinates and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from .constants import Constants

__all__ = ["Embedding", "Flat"]


class Embedding(ABC):
    """An isometry U from d coordinates into sample space, and a scale c: a sample is c·U·a for data a.

    Attributes:
        size: d.
        scale: c.
        complete: whether U spans the whole sample space.
    """

    size: int
    scale: float = 1.0
    complete: bool = True

    @abstractmethod
    def coordinates(self, x: Tensor) -> Tensor:
        """Uᵀx: samples (B, ...) to coordinates (B, d)."""

    @abstractmethod
    def lift(self, coordinates: Tensor) -> Tensor:
        """U·u: coordinates (B, d) to samples (B, ...)."""


@final
class Flat(Embedding):
    """The whole sample space: the entries of a sample in order, or their coordinates in an orthonormal basis.

    Args:
        shape: the shape of one sample.
        basis: holds an orthogonal matrix (d, d) whose columns are the basis.
    """

    def __init__(self, shape: torch.Size, basis: Constants | None = None) -> None:
        self._shape = shape
        self.size = math.prod(shape)
        self._basis = basis

    def coordinates(self, x: Tensor) -> Tensor:
        flat = x.reshape(x.shape[0], self.size)
        return flat if self._basis is None else flat @ self._basis.on(x.device)[0]

    def lift(self, coordinates: Tensor) -> Tensor:
        flat = coordinates if self._basis is None else coordinates @ self._basis.on(coordinates.device)[0].T
        return flat.reshape(flat.shape[0], *self._shape)
