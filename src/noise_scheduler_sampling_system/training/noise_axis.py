"""The levels of a path on one axis, y = log(σ/α)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from ..support.values import ByValue

__all__ = ["NoiseAxis", "checked_path"]


def checked_path(path: Any) -> NoisePath:
    """A path, or an error that says what to give.

    Raises:
        ConfigurationError: not a path.
    """
    if not isinstance(path, NoisePath):
        raise ConfigurationError(
            f"got {type(path).__name__}",
            where="path",
            suggestion="give a noise schedule: FlowPath(), pipeline.scheduler, NoiseSchedulerFactory.create(...)",
        )
    return path


@final
@dataclass(frozen=True, eq=False)
class NoiseAxis(ByValue):
    """The levels of a path by y = log(σ/α) = −log SNR/2, which rises with the time.

    Every path has this axis, so a density that is defined on it is defined on every path. All numbers are float64.

    A path of T whole timesteps is cut into T bins: bin i ends half a timestep below and above i. The outer bins reach
    as far out as in, and to ∞ where the last timestep has no signal.

    Attributes:
        path: the forward process.
    """

    path: NoisePath

    def place(self, t: Tensor) -> Tensor:
        """y of times."""
        return self.path.log_snr(t.double()) / -2.0

    def time(self, y: Tensor) -> Tensor:
        """The times of places, clamped to those of the path."""
        return self.path.time(-2.0 * y)

    @functools.cached_property
    def ends(self) -> Tensor:
        """The first and the last y, shape (2,); for whole timesteps the outer edges of the bins."""
        if self.path.discrete:
            return self.edges[[0, -1]]
        return self.place(torch.tensor([self.path.t_min, self.path.t_max], dtype=torch.float64))

    @functools.cached_property
    def edges(self) -> Tensor:
        """The edges of the bins of T whole timesteps, shape (T + 1,)."""
        last = int(self.path.t_max)
        between = self.place(torch.arange(last, dtype=torch.float64) + 0.5)
        first, end = self.place(torch.tensor([0.0, float(last)], dtype=torch.float64))
        if not last:
            return torch.stack([first - 0.5, end + 0.5])
        return torch.cat([(2.0 * first - between[0])[None], between, (2.0 * end - between[-1])[None]])

    def fraction(self, y: Tensor) -> Tensor:
        """The part of the times that is cleaner than y, from 0 to 1. A timestep's share lies in its bin, evenly."""
        if not self.path.discrete:
            low, high = self.path.t_min, self.path.t_max
            return (self.time(y) - low) / (high - low)
        bins, width = self._bins_of(y)
        inside = torch.where(torch.isinf(width), torch.isposinf(y).double(), (y - self.edges[bins]) / width)
        return (bins + inside.clamp(0.0, 1.0)) / (len(self.edges) - 1)

    def log_fraction_slope(self, y: Tensor) -> Tensor:
        """The logarithm of the slope of :meth:`fraction`."""
        if not self.path.discrete:
            return -self.log_slope(y) - math.log(self.path.t_max - self.path.t_min)
        return -self._bins_of(y)[1].log() - math.log(len(self.edges) - 1)

    def _bins_of(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The bin of each place, and the width of that bin."""
        bins = (torch.searchsorted(self.edges, y.contiguous(), right=True) - 1).clamp(0, len(self.edges) - 2)
        return bins, self.edges[bins + 1] - self.edges[bins]

    def at_fraction(self, u: Tensor) -> Tensor:
        """The inverse of :meth:`fraction`."""
        if not self.path.discrete:
            low, high = self.path.t_min, self.path.t_max
            return self.place((low + (high - low) * u).clamp(low, high))
        edges = self.edges
        position = u * (len(edges) - 1)
        bins = position.floor().clamp(0, len(edges) - 2).long()
        width = edges[bins + 1] - edges[bins]
        return edges[bins] + torch.where(torch.isinf(width), 0.0, (position - bins) * width)

    def log_slope(self, y: Tensor) -> Tensor:
        """log(dy/dt) at places inside the path."""
        with torch.enable_grad():
            t = self.time(y).detach().requires_grad_()
            slope = torch.autograd.grad(self.place(t).sum(), t)[0]
        return slope.log()
