"""The trajectories that a plan is fitted to, from fine runs of the model, and the errors of other runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from ..analysis.solution import each_error, error_by_halving, fine_plan
from .student import Student, end_of
from .table import Table

__all__ = ["Errors", "Trajectories", "errors_of", "teach"]

#: With fewer trajectories than this, a single one may dominate the root mean square.
_MANY = 256
#: The number of trajectories that are also followed with half as many calls, to estimate the teacher's error.
_CHECKED = 32


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

    def ends(self, student: Student, table: Table) -> Tensor:
        """Run a table from the noise and return the samples, shape (n, ...).

        Raises:
            NoiseSamplingError: a run overflows.
        """
        return end_of(table, student.columns(table, self.noise, self.rows))

    def errors(self, student: Student, table: Table) -> Tensor:
        """Run a table from the noise and return each run's error, shape (n,), on the CPU.

        Raises:
            NoiseSamplingError: a run overflows.
        """
        return each_error(self.ends(student, table), self.solution)


def teach(student: Student, noise: Tensor, calls: int, *, first: int = 0) -> tuple[Trajectories, float]:
    """Follow trajectories with many model calls.

    Args:
        student: the model.
        noise: unit noise, shape (n, ...).
        calls: the model calls of each trajectory.
        first: the row of the conditions for the first trajectory; the others take the rows after it.

    Returns:
        The trajectories, and the estimated root-mean-square error per number of their ends.
    """
    path = student.pipeline.scheduler
    rows = torch.arange(first, first + len(noise))
    fine = student.run(fine_plan(path, calls), noise, rows)
    coarse = student.run(fine_plan(path, max(calls // 2, 1)), noise[:_CHECKED], rows[:_CHECKED])
    return Trajectories(noise, fine, rows), error_by_halving(fine[:_CHECKED], coarse)
