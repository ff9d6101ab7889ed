"""Gaussian data, with a linear denoiser and a flow in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from .constants import Constants, as_double
from .embedding import Embedding, Flat
from .exact import ExactModel
from .prior import Point, Prior

__all__ = ["GaussianModel"]


@final
class GaussianModel(ExactModel):
    """Data x₀ ~ N(μ, Σ).

    In the eigenbasis of Σ each deviation from α·μ scales as √(α²λ + σ²) along the flow.

    Args:
        path: the forward process.
        mean: μ, of the shape of one sample. A number, with a scalar covariance, allows samples of any shape.
        covariance: one variance, the variances of the entries (shape of ``mean``), or the matrix (d, d) of the
            flattened entries. Zero variances are allowed.
        prediction_type: as for :class:`ExactModel`.

    Raises:
        ConfigurationError: shapes that do not fit, or a covariance that is not symmetric and positive semi-definite.
    """

    def __init__(
        self,
        path: NoisePath,
        mean: Tensor | Sequence[Any] | float = 0.0,
        covariance: Tensor | Sequence[Any] | float = 1.0,
        prediction_type: str | None = None,
    ) -> None:
        center = as_double(mean)
        super().__init__(path, prediction_type, shape=center.shape or None)
        variances, basis = _principal_axes(as_double(covariance), center)
        flat = center.reshape(-1)
        self._basis = None if basis is None else Constants(basis)
        self._prior = Point(flat if basis is None else flat @ basis, variances)

    def _data_tensors(self) -> tuple[Tensor, ...]:
        return (*self._prior.tensors, *(() if self._basis is None else self._basis.on(torch.device("cpu"))))

    def _data(self, shape: torch.Size) -> tuple[Embedding, Prior]:
        return Flat(shape, self._basis), self._prior


def _principal_axes(covariance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor | None]:
    """Variances, shape () or (d,), and the matrix whose columns are their directions."""
    size = mean.numel()
    basis = None
    if covariance.ndim == 0 or covariance.shape == mean.shape:
        variances = covariance.reshape(-1) if covariance.ndim else covariance
    elif mean.ndim and covariance.shape == (size, size) and torch.allclose(covariance, covariance.T):
        variances, basis = torch.linalg.eigh(covariance)
        rounding = 1e-13 * size * float(variances.abs().max())
        variances = torch.where(variances.abs() <= rounding, 0.0, variances)
    else:
        raise ConfigurationError(
            f"a covariance of shape {tuple(covariance.shape)} for a mean of shape {tuple(mean.shape)}",
            where="covariance",
            suggestion=f"give a number, {tuple(mean.shape)} variances or a symmetric {size}×{size} matrix",
        )
    if not (torch.isfinite(variances) & (variances >= 0.0)).all():
        raise ConfigurationError(
            f"it has a variance of {float(variances.min())}",
            where="covariance",
            suggestion="variances must be finite and not below 0",
        )
    return variances, basis
