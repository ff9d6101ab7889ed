"""Gaussian data, with a linear denoiser and a flow in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from ..config.prediction import quantity
from ..schedules.path import NoisePath
from ..schedules.times import as_times
from ..support.errors import ConfigurationError
from .constants import Constants, as_double, working_dtype
from .embedding import Embedding, Flat
from .exact import ExactModel
from .prior import Point, Prior

__all__ = ["GaussianModel"]


@final
class GaussianModel(ExactModel):
    """Data x₀ ~ N(μ, Σ).

    In the eigenbasis of Σ each deviation from α·μ scales as √(α²λ + σ²) along the flow.

    Frames may have noise levels of their own: t of shape (B, T). With A and S the diagonal matrices of each entry's α
    and σ, x = A·x₀ + S·ε, and E[x₀ | x] = μ + ΣA·(AΣA + S²)⁻¹·(x − Aμ). So frames that are correlated in Σ inform each
    other, as in a model of diffusion forcing (Chen et al. 2024, arXiv 2407.01392).

    Args:
        path: the forward process.
        mean: μ, of the shape of one sample. A number, with a scalar covariance, allows samples of any shape.
        covariance: one variance, the variances of the entries (shape of ``mean``), or the matrix (d, d) of the
            flattened entries. Zero variances are allowed.
        prediction_type: as for :class:`ExactModel`.
        frame_dim: the dimension of a batch of samples that counts the T frames of times (B, T); 1 for (B, T, ...).

    Raises:
        ConfigurationError: shapes that do not fit, or a covariance that is not symmetric and positive semi-definite.
    """

    def __init__(
        self,
        path: NoisePath,
        mean: Tensor | Sequence[Any] | float = 0.0,
        covariance: Tensor | Sequence[Any] | float = 1.0,
        prediction_type: str | None = None,
        *,
        frame_dim: int = 1,
    ) -> None:
        center, matrix = as_double(mean), as_double(covariance)
        super().__init__(path, prediction_type, shape=center.shape or None)
        variances, basis = _principal_axes(matrix, center)
        flat = center.reshape(-1)
        self._basis = None if basis is None else Constants(basis)
        self._prior = Point(flat if basis is None else flat @ basis, variances)
        self._moments = Constants(flat, matrix if basis is not None else matrix.reshape(-1))
        self._frame_dim = frame_dim

    def _data_tensors(self) -> tuple[Tensor, ...]:
        return (*self._prior.tensors, *(() if self._basis is None else self._basis.on(torch.device("cpu"))))

    def _data(self, shape: torch.Size) -> tuple[Embedding, Prior]:
        return Flat(shape, self._basis), self._prior

    def _predict_frames(self, kind: str, x: Tensor, t: Tensor) -> Tensor:
        times = as_times(x, x, t, self._frame_dim)
        if bool((times == times[:1]).all()):  # as in every run: one system of equations for the whole batch
            times = times[:1]
        alpha, sigma = (
            _of_entries(factor.to(x.device, working_dtype(x.device)), x.shape, self._frame_dim)
            for factor in self.path.alpha_and_sigma(times.to(working_dtype(times.device)))
        )
        sigma = sigma.clamp_min(torch.finfo(sigma.dtype).tiny ** 0.25)  # as for one level
        flat, (mean, covariance) = x.to(alpha.dtype).flatten(1), self._moments.on(x.device)
        white = _solved(covariance, alpha, sigma, flat - alpha * mean, matrix=self._basis is not None)
        signal = alpha * white
        clean = mean + (signal * covariance if self._basis is None else signal @ covariance)
        of_clean, of_noise = quantity(kind, alpha, sigma)  # type: ignore[arg-type]
        return (of_clean * clean + of_noise * (sigma * white)).reshape(x.shape).to(x.dtype)


def _of_entries(factor: Tensor, shape: torch.Size, frame_dim: int) -> Tensor:
    """A factor of each frame, shape (B, T), as one of each entry of a sample, shape (B, d)."""
    spread = [factor.shape[0], *[1] * (len(shape) - 1)]
    spread[frame_dim] = factor.shape[1]
    return factor.reshape(spread).expand(factor.shape[0], *shape[1:]).flatten(1)


def _solved(covariance: Tensor, alpha: Tensor, sigma: Tensor, away: Tensor, *, matrix: bool) -> Tensor:
    """(AΣA + S²)⁻¹·away, shape (B, d).

    Args:
        covariance: Σ, shape (d, d) if it is a ``matrix``, else the variances, shape () or (d,).
        alpha, sigma: the diagonals of A and S, shape (B, d), or (1, d) where they are those of all samples.
        away: x − A·μ, shape (B, d).

    Raises:
        ConfigurationError: Σ is singular, and frames without noise make the whole matrix so.
    """
    if not matrix:
        return away / (alpha * alpha * covariance + sigma * sigma)
    total = alpha[:, :, None] * covariance * alpha[:, None, :] + torch.diag_embed(sigma * sigma)
    try:
        one = len(total) == 1
        solution: Tensor = torch.linalg.solve(*((total[0], away.T) if one else (total, away[:, :, None])))
        return solution.T if one else solution[:, :, 0]
    except RuntimeError:  # torch.linalg.LinAlgError
        raise ConfigurationError(
            "the covariance of the noisy frames is singular",
            where="t",
            why="the data has no width in some directions, and some frames have no noise",
            suggestion="give every frame a level with σ > 0",
        ) from None


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
