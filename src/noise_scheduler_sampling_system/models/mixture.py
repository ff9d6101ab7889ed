"""Gaussian mixtures, and a data set smoothed by a Gaussian."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from .constants import as_double, tensor_of
from .embedding import Embedding, Flat
from .exact import ExactModel
from .prior import Mixture, Prior

__all__ = ["GaussianMixtureModel", "KernelDensityModel"]


class _MixtureModel(ExactModel):
    """Base of both models: K isotropic components over flattened samples."""

    @abstractmethod
    def __init__(
        self,
        path: NoisePath,
        means: Tensor,
        variances: Tensor,
        weights: Tensor | None,
        labels: Tensor | None,
        prediction_type: str | None,
    ) -> None:
        if means.ndim < 1 or not means.numel() or not torch.isfinite(means).all():
            raise ConfigurationError(
                f"means or data of shape {tuple(means.shape)}",
                where="means",
                suggestion="give a tensor (K, ...) of finite values, one entry for each component",
            )
        classes = None if labels is None else int(labels.max()) + 1
        super().__init__(path, prediction_type, shape=means.shape[1:], num_classes=classes)
        flat = as_double(means).reshape(means.shape[0], -1)
        self._prior = Mixture(flat, variances, weights, labels)

    def _data_tensors(self) -> tuple[Tensor, ...]:
        return self._prior.tensors

    def _data(self, shape: torch.Size) -> tuple[Embedding, Prior]:
        return Flat(shape), self._prior


@final
class GaussianMixtureModel(_MixtureModel):
    """Data from K isotropic Gaussians.

    Args:
        path: the forward process.
        means: (K, *shape).
        variances: one number, or (K,); at least 0.
        weights: (K,), at least 0, with any sum; default equal.
        labels: (K,) integers 0..C−1, the class of each component. Every class must be used. A call then takes
            ``class_labels``.
        prediction_type: as for :class:`ExactModel`.

    Raises:
        ConfigurationError: shapes or values that do not fit.
    """

    def __init__(
        self,
        path: NoisePath,
        means: Tensor,
        variances: Tensor | Sequence[float] | float,
        weights: Tensor | Sequence[float] | None = None,
        labels: Tensor | Sequence[int] | None = None,
        prediction_type: str | None = None,
    ) -> None:
        count = means.shape[0] if means.ndim else 0
        checked = None if weights is None else _per_component("weights", weights, count)
        super().__init__(
            path,
            means,
            _per_component("variances", variances, count, one=True),
            checked,
            _classes(labels, count, checked),
            prediction_type,
        )


@final
class KernelDensityModel(_MixtureModel):
    """A data set whose samples are each smoothed by a Gaussian: the ideal model of N training samples.

    It needs the memory of the data in float64, and of a (B, N) table that is computed in parts where it is large.

    Args:
        path: the forward process.
        data: (N, *shape).
        bandwidth: standard deviation of the smoothing; with 0 the data are the training set itself.
        labels: (N,) integers 0..C−1, the class of each sample. Every class must be used.
        prediction_type: as for :class:`ExactModel`.

    Raises:
        ConfigurationError: shapes or values that do not fit.
    """

    def __init__(
        self,
        path: NoisePath,
        data: Tensor,
        bandwidth: float,
        labels: Tensor | Sequence[int] | None = None,
        prediction_type: str | None = None,
    ) -> None:
        count = data.shape[0] if data.ndim else 0
        width = _per_component("bandwidth", bandwidth, count, one=True)
        super().__init__(path, data, width.square(), None, _classes(labels, count, None), prediction_type)


def _per_component(where: str, values: Any, count: int, one: bool = False) -> Tensor:
    """Numbers ≥ 0, on the CPU in float64, shape (count,); with ``one`` also a single number."""
    given = as_double(values)
    fits = given.shape == (count,) or (one and given.ndim == 0)
    if not (fits and torch.isfinite(given).all() and (given >= 0.0).all() and (one or given.sum() > 0.0)):
        raise ConfigurationError(
            f"got shape {tuple(given.shape)} with values from {_extremes(given)}",
            where=where,
            suggestion=f"give {'one number or ' if one else ''}{count} finite numbers, not below 0",
        )
    return given


def _classes(labels: Tensor | Sequence[int] | None, count: int, weights: Tensor | None) -> Tensor | None:
    """The class of each component, on the CPU in int64."""
    if labels is None:
        return None
    given = tensor_of(labels).detach().cpu()
    integers = not (given.is_floating_point() or given.dtype == torch.bool)
    if integers and given.shape == (count,) and count and int(given.min()) >= 0:
        given = given.to(torch.int64)
        if (torch.bincount(given, weights) > 0).all():
            return given
    raise ConfigurationError(
        f"got shape {tuple(given.shape)} and {given.dtype} with values from {_extremes(given)}",
        where="labels",
        why="every class 0..C−1 needs a component with a weight above 0",
        suggestion=f"give {count} integers that use every class from 0 on",
    )


def _extremes(values: Tensor) -> str:
    return f"{values.min().item():g} to {values.max().item():g}" if values.numel() else "none"
