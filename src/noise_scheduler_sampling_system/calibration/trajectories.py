"""The trajectories that a plan is fitted to, from fine runs of the model, and the errors of other runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from ..plans.plan import SamplingPlan
from ..samplers.factory import SamplerFactory
from ..schedules.path import NoisePath
from .student import Student, end_of
from .table import Table

__all__ = ["Errors", "Trajectories", "each_error", "errors_of", "teach"]

#: The fine run: a third-order sampler on the spacing that is best for many calls (docs/accuracy.md).
_SAMPLER, _SPACING, _ORDER = "adams", "kl_optimal", 3
#: With fewer trajectories than this, a single one may dominate the root mean square.
_MANY = 256


class Errors(NamedTuple):
    """A summary of the errors of many trajectories, in units of one number of a sample.

    Attributes:
        rms: the root mean square over trajectories. A few trajectories that end in another basin dominate it.
        median: the median over trajectories.
    """

    rms: float
    median: float

    @classmethod
    def of(cls, each: Tensor) -> Errors:
        """Summarise the error of each trajectory, shape (n,)."""
        return cls(float(each.square().mean().sqrt()), float(each.median()))

    def score(self, count: int) -> float:
        """Return the number by which a search compares plans on the way; smaller is better.

        The root mean square of few trajectories depends on which of them happen to end in another basin. So the score
        is rms^⅙·median^⅚ below 256 trajectories, and :attr:`weighed` from there on.

        Args:
            count: the number of trajectories that the errors summarise.
        """
        return self.weighed if count >= _MANY else float(self.rms ** (1 / 6) * self.median ** (5 / 6))

    @property
    def weighed(self) -> float:
        """rms^⅚·median^⅙, by which the returned plan is chosen.

        A few trajectories in another basin must not hide that all others are ten times as good.
        """
        return float(self.rms ** (5 / 6) * self.median ** (1 / 6))


def errors_of(end: Tensor, solution: Tensor) -> Errors:
    """Return the errors of samples, both of shape (n, ...)."""
    return Errors.of(each_error(end, solution))


def each_error(end: Tensor, solution: Tensor) -> Tensor:
    """Return the root-mean-square difference of each sample, shape (n,), float64 on the CPU."""
    return (end - solution).flatten(1).cpu().double().square().mean(1).sqrt()


@final
@dataclass(frozen=True)
class Trajectories:
    """Unit noise, and the samples to which the exact flow of the model takes it.

    Attributes:
        noise: unit noise, shape (n, ...).
        solution: the samples, shape (n, ...), on the noise's device.
        rows: the row of the conditions for each trajectory, shape (n,), on the CPU.
    """

    noise: Tensor
    solution: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.noise)

    def part(self, start: int, stop: int) -> Trajectories:
        """Return the trajectories from ``start`` to ``stop``, without the last."""
        return Trajectories(self.noise[start:stop], self.solution[start:stop], self.rows[start:stop])

    def picked(self, numbers: Tensor) -> Trajectories:
        """Return the trajectories with these numbers, shape (k,), on the CPU."""
        there = numbers.to(self.noise.device)
        return Trajectories(self.noise[there], self.solution[there], self.rows[numbers])

    def errors(self, student: Student, table: Table) -> Tensor:
        """Run a table from the noise and return each run's error, shape (n,), on the CPU.

        Raises:
            NoiseSamplingError: a run overflows.
        """
        return each_error(end_of(table, student.columns(table, self.noise, self.rows)), self.solution)


def teach(student: Student, noise: Tensor, calls: int, checked: int) -> tuple[Trajectories, float]:
    """Follow trajectories with many model calls.

    The estimate of the error is the distance that the ends moved when the calls doubled, divided by 2³ − 1 for a
    third-order method. It is the median over trajectories, because one that is about to change basins says nothing
    about the others.

    Args:
        student: the model.
        noise: unit noise, shape (n, ...).
        calls: the model calls of each trajectory.
        checked: the number of trajectories that are also followed with half as many calls.

    Returns:
        The trajectories, and the estimated root-mean-square error per number of their ends.
    """
    path = student.pipeline.scheduler
    rows = torch.arange(len(noise))
    fine = student.run(_plan(path, calls), noise, rows)
    coarse = student.run(_plan(path, max(calls // 2, 1)), noise[:checked], rows[:checked])
    moved = errors_of(fine[:checked], coarse).median
    return Trajectories(noise, fine, rows), moved / (2**_ORDER - 1)


def _plan(path: NoisePath, calls: int) -> SamplingPlan:
    return SamplerFactory.create(_SAMPLER, path.spaced(_SPACING)).plan(calls)
