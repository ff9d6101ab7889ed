"""Where the trajectories really end: a fine run of the model, with an estimate of its own error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..plans.plan import SamplingPlan
from ..samplers.factory import SamplerFactory
from ..schedules.path import NoisePath
from .measure import each_error, errors_of
from .student import Student, end_of
from .table import Table

__all__ = ["Trajectories", "teach"]

#: The fine run: third order on the spacing that is best for many calls (docs/accuracy.md).
_SAMPLER, _SPACING, _ORDER = "adams", "kl_optimal", 3


@final
@dataclass(frozen=True)
class Trajectories:
    """Noise to start from, and where the exact flow of the model takes it.

    Attributes:
        noise: unit noise, shape (n, ...).
        solution: the samples, shape (n, ...), on the noise's device.
        rows: which rows of the conditions are theirs, shape (n,), on the CPU.
    """

    noise: Tensor
    solution: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.noise)

    def part(self, start: int, stop: int) -> Trajectories:
        """Those from start to stop."""
        return Trajectories(self.noise[start:stop], self.solution[start:stop], self.rows[start:stop])

    def errors(self, student: Student, table: Table) -> Tensor:
        """How far from the solutions the runs of a table end, each one's, shape (n,), on the CPU.

        Raises:
            NoiseSamplingError: a run overflows.
        """
        return each_error(end_of(table, student.columns(table, self.noise, self.rows)), self.solution)

    def picked(self, numbers: Tensor) -> Trajectories:
        """Those with these numbers, shape (k,), on the CPU."""
        there = numbers.to(self.noise.device)
        return Trajectories(self.noise[there], self.solution[there], self.rows[numbers])


def teach(student: Student, noise: Tensor, calls: int, checked: int) -> tuple[Trajectories, float]:
    """Follow trajectories with many model calls.

    Args:
        student: the model.
        noise: unit noise, shape (n, ...).
        calls: model calls of each trajectory.
        checked: how many of the trajectories are followed with half as many calls, too.

    Returns:
        The trajectories, and an estimate of the root-mean-square error of their ends (per number, median over
        trajectories, for one that is about to change basins says nothing of the others): what they moved when
        the calls doubled, over 2³ − 1 for a method of third order.
    """
    path = student.pipeline.scheduler
    rows = torch.arange(len(noise))
    fine = student.run(_plan(path, calls), noise, rows)
    coarse = student.run(_plan(path, max(calls // 2, 1)), noise[:checked], rows[:checked])
    moved = errors_of(fine[:checked], coarse).median
    return Trajectories(noise, fine, rows), moved / (2**_ORDER - 1)


def _plan(path: NoisePath, calls: int) -> SamplingPlan:
    return SamplerFactory.create(_SAMPLER, path.spaced(_SPACING)).plan(calls)
