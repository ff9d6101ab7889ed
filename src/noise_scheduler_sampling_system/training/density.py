"""The base of densities of noise levels, and a density as one of the times of a path."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, final

import torch
from torch import Tensor

from ..config.options import Option
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from ..support.values import ByValue
from .choice import Choice
from .noise_axis import NoiseAxis, checked_path

__all__ = ["Density", "DensityOnPath"]

#: Multiplies σ/α of every level.
Shift = Annotated[float | None, Option(kind=float, minimum=1e-4, maximum=1e4)]
#: log(σ/α) is kept in ± this, where a density of it has a value: σ/α from 1e-35 to 1e35.
_FINITE = 80.0


@dataclass(frozen=True, eq=False)
class Density(Choice):
    """A density of noise levels. A subclass is a frozen dataclass that writes three functions of y.

    Levels outside the path are left out: the density is that of a level under the condition that it is on the path.

    Attributes:
        shift: multiplies σ/α of every level, as σ ↦ s·σ/(1 + (s − 1)·σ) does on the straight path (Esser et al. 2024,
            arXiv 2403.03206); :func:`~..schedules.resolution_shift` gives that of an image size. None: the
            shift of the path's own evenly spaced levels (``FlowPath(shift=3)``), so that training and sampling agree;
            1 on other paths.
    """

    shift: Shift = field(default=None, kw_only=True)

    @abstractmethod
    def _cdf(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        """The probability of a level below y, without shift."""

    @abstractmethod
    def _quantile(self, u: Tensor, axis: NoiseAxis) -> Tensor:
        """The inverse of :meth:`_cdf`."""

    @abstractmethod
    def _log_density(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        """The logarithm of the density per unit of y, without shift."""

    def refuse_path(self, axis: NoiseAxis) -> None:
        """Check that the density exists on a path.

        Raises:
            ConfigurationError: it has no levels there.
        """
        low, high = self._ends(axis)
        if not high - low > 1e-300:
            raise ConfigurationError(
                f"{self!r} has no levels between log SNR {-2 * axis.ends[1]:.4g} and {-2 * axis.ends[0]:.4g}",
                where="density",
                suggestion=f"choose one that reaches the levels of {axis.path!r}",
            )

    @final
    def cdf(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        """The probability of a level below y on the path."""
        low, high = self._ends(axis)
        return (self._cdf(y - self._move(axis), axis) - low) / (high - low)

    @final
    def quantile(self, u: Tensor, axis: NoiseAxis) -> Tensor:
        """y of uniform numbers in (0, 1)."""
        low, high = self._ends(axis)
        y = self._quantile(low + (high - low) * u, axis) + self._move(axis)
        return y.clamp(axis.ends[0], axis.ends[1])

    @final
    def log_density(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        """The logarithm of the density per unit of y on the path."""
        low, high = self._ends(axis)
        return self._log_density(y - self._move(axis), axis) - (high - low).log()

    def _move(self, axis: NoiseAxis) -> float:
        return math.log(axis.path.spacing_shift if self.shift is None else self.shift)

    def _ends(self, axis: NoiseAxis) -> tuple[Tensor, Tensor]:
        low, high = self._cdf(axis.ends - self._move(axis), axis)
        return low, high

    @final
    def on(self, path: NoisePath) -> DensityOnPath:
        """The density as one of the times of a path.

        Raises:
            ConfigurationError: not a path, or the density does not exist on it.
        """
        return DensityOnPath(self, path)


@final
@dataclass(frozen=True, eq=False)
class DensityOnPath(ByValue):
    """A density as one of the times of a path: draws of them, and their exact log-density.

    Attributes:
        density: what the levels are drawn from.
        path: the forward process.

    Raises:
        ConfigurationError: not a path, or the density has no levels on it.
    """

    density: Density
    path: NoisePath

    def __post_init__(self) -> None:
        checked_path(self.path)
        self.density.refuse_path(self.axis)

    @functools.cached_property
    def axis(self) -> NoiseAxis:
        """The levels of the path by log(σ/α)."""
        return NoiseAxis(self.path)

    @functools.cached_property
    def probabilities(self) -> Tensor:
        """The probability of each of T whole timesteps, shape (T,): the density's part in its bin."""
        return self.density.cdf(self.axis.edges, self.axis).diff().clamp_min(0.0)

    def times(self, u: Tensor) -> Tensor:
        """The times of uniform numbers in (0, 1), of their shape, float64; they rise with u."""
        if not self.path.discrete:
            return self.axis.time(self.density.quantile(u.double(), self.axis))
        ends = self.probabilities.cumsum(0)
        return torch.searchsorted(ends, u.double() * ends[-1], right=True).clamp(max=len(ends) - 1).double()

    def log_density(self, t: Tensor) -> Tensor:
        """The logarithm of the density per unit of time, or of the probability of whole timesteps; shape of t, float64.

        Raises:
            ConfigurationError: a time outside the path.
        """
        y = self.axis.place(t)
        if self.path.discrete:
            return self.probabilities[t.long()].log()
        return self.density.log_density(y, self.axis) + self.axis.log_slope(y)

    def log_density_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The logarithm of the density per unit of log SNR, before timesteps are made whole; float64."""
        return self.density.log_density(log_snr.double() / -2.0, self.axis) - math.log(2.0)

    def log_ratio(self, other: DensityOnPath, t: Tensor) -> Tensor:
        """The logarithm of this density over another of the same path, at times; float64."""
        if self.path.discrete:
            return self.log_density(t) - other.log_density(t)
        y = self.axis.place(t).clamp(-_FINITE, _FINITE)
        return self.density.log_density(y, self.axis) - other.density.log_density(y, self.axis)
