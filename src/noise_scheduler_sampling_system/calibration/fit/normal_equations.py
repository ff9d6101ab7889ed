"""The normal equations of a fit, from derivatives of a draw of trajectories, and of recent draws where it is small.

Derivatives cost model calls, so a draw of images has few trajectories, and a step that fits these may make all others
worse. Derivatives change little from one iteration to the next, and the errors of all trajectories are known from the
last run. So small draws of earlier iterations count, too, with the present errors. Large draws do not need them: fresh
derivatives alone are then nearer to Newton's step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..student import Student, combined, end_of
from ..trajectories import Trajectories
from .free_numbers import FreeNumbers

__all__ = ["NormalEquations", "derivatives"]

Array = npt.NDArray[np.float64]

#: The most floating-point numbers of all difference columns in memory at a time: 256 MiB of float32.
_HELD: Final = 1 << 26
#: The most numbers of each column that are converted to double precision at a time.
_PIECE: Final = 1 << 18
#: Earlier draws are kept while all draws together have at most this number of trajectories. Each counts less than the
#: one after it by a factor.
_TOGETHER: Final = 96
_FADES: Final = 0.8


@final
@dataclass(frozen=True)
class _Part:
    """Derivatives by all numbers for some trajectories: their numbers, their shares, and J of shape (K, n, ...)."""

    chosen: Tensor
    shares: Tensor
    by_number: Tensor


@final
@dataclass
class NormalEquations:
    """JᵀWJ and JᵀWr of the differences r between ends and solutions.

    Attributes:
        student: the model.
        taught: all trajectories.
        step: of the finite differences.
    """

    student: Student
    taught: Trajectories
    step: float
    _draws: list[list[_Part]] = field(default_factory=list)

    def at(
        self, numbers: FreeNumbers, chosen: Tensor, shares: Tensor, ends: Tensor, weights: Callable[[Tensor], Tensor]
    ) -> tuple[Array, Array]:
        """Take derivatives for a draw of trajectories, and return the equations of this draw and the recent ones.

        Args:
            numbers: the K free numbers, at which the derivatives are taken.
            chosen: the numbers of the drawn trajectories, shape (n,).
            shares: their shares of the mean over all trajectories, shape (n,).
            ends: the ends of all trajectories at these numbers.
            weights: from numbers of trajectories to the weights of their squared errors.

        Returns:
            JᵀWJ, shape (K, K), and JᵀWr, shape (K,).
        """
        count = len(numbers.stages)
        square, slope, kept = np.zeros((count, count)), np.zeros(count), []
        size = max(1, _HELD // (count * self.taught.noise[0].numel()))
        for start in range(0, len(chosen), size):
            part = self._part(numbers, chosen[start : start + size], shares[start : start + size])
            self._add(part, 1.0, ends, weights, square, slope)
            kept.append(part)
            if len(chosen) > size:  # too large to keep
                kept.clear()
        total = 1.0
        for age, draw in enumerate(self._draws, 1):
            total += _FADES**age
            for part in draw:
                self._add(part, _FADES**age, ends, weights, square, slope)
        size = max(1, sum(part.by_number.numel() for part in kept))
        room = max(0, min(_TOGETHER // len(chosen), _HELD // size) - 1)
        self._draws = [kept, *self._draws][:room] if kept else []
        return square / total, slope / total

    def _part(self, numbers: FreeNumbers, chosen: Tensor, shares: Tensor) -> _Part:
        picked = self.taught.picked(chosen)
        columns = self.student.columns(numbers.table, picked.noise, picked.rows)
        end = end_of(numbers.table, columns)
        return _Part(chosen, shares, derivatives(self.student, numbers, picked, columns, end, self.step))

    def _add(
        self, part: _Part, factor: float, ends: Tensor, weights: Callable[[Tensor], Tensor], square: Array, slope: Array
    ) -> None:
        """Add what some trajectories contribute to both sides."""
        there = part.chosen.to(ends.device)
        residual = ends[there] - self.taught.solution[there].to(ends)
        weight = (factor * part.shares * weights(part.chosen)).sqrt().to(residual)
        weight = weight.reshape(-1, *[1] * (residual.ndim - 1))
        flat, rest = (part.by_number * weight).flatten(1), (residual * weight).flatten()
        for piece, errors in zip(torch.split(flat, _PIECE, 1), torch.split(rest, _PIECE), strict=True):
            wide = piece.cpu().double()  # the columns are nearly parallel, so their products need many digits
            square += (wide @ wide.T).numpy()
            slope += (wide @ errors.cpu().double()).numpy()


def derivatives(
    student: Student, numbers: FreeNumbers, part: Trajectories, columns: list[Tensor], end: Tensor, step: float
) -> Tensor:
    """Return the derivatives of the ends by all K numbers, shape (K, n, ...).

    A number of row i changes nothing before call i, so its run starts there. The runs of one row form one batch. The
    last row is linear and needs no model call.

    Args:
        student: the model.
        numbers: the K free numbers.
        part: n trajectories.
        columns: the columns of their runs (:meth:`Student.columns`).
        end: the ends of their runs, shape (n, ...).
        step: of the finite differences.
    """
    table, made = numbers.table, dict[int, Tensor]()
    last = numbers.of_last_row * table.radii[-1]
    stages = list(enumerate(numbers.stages))
    made |= {k: combined(row, columns) for (k, _), row in zip(stages[len(stages) - len(last) :], last, strict=True)}
    rest = stages[: len(stages) - len(last)]
    for (i, _), group in itertools.groupby(rest, key=lambda each: (each[1][0], each[1][1] < 0)):
        which, alike = zip(*group, strict=True)
        tables, changes = zip(*(numbers.nudged(stage, step) for stage in alike), strict=True)
        moved = student.ends(tables, columns[: table.made[i]], part.rows) - end
        made |= {k: each / change for k, each, change in zip(which, moved, changes, strict=True)}
    return torch.stack([made[k] for k in range(len(stages))])
