"""Derivatives of where trajectories end by the numbers of a table: differences of runs, none through the model."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..running.model_adapter import ModelAdapter
from .coordinates import Numbers
from .student import Student, combined, end_of
from .teacher import Trajectories

__all__ = ["derivatives", "normal_equations", "step_for"]

Array = npt.NDArray[np.float64]

#: Numbers of all finite-difference columns that are held at a time: 256 MiB of float32.
_HELD = 1 << 26
#: Numbers of each column that are brought to double precision at a time.
_PIECE = 1 << 18
#: Steps of finite differences for networks in float32, and in half precision.
_STEP, _COARSE_STEP = 1e-3, 3e-2


def step_for(student: Student) -> float:
    """The step of finite differences that the precision of a model and of its states allows."""
    dtype = student.request.get("dtype") or (None if student.model is None else ModelAdapter(student.model).dtype)
    return _COARSE_STEP if dtype is not None and dtype.itemsize < 4 else _STEP


def normal_equations(
    student: Student, numbers: Numbers, taught: Trajectories, weights: Tensor, step: float
) -> tuple[Array, Array]:
    """JᵀWJ and JᵀWr of the residuals at the end; the weights' roots of the trajectories have shape (n,)."""
    table, stages = numbers.table, numbers.stages
    size = max(1, _HELD // (len(stages) * taught.noise[0].numel()))
    square, slope = np.zeros((len(stages),) * 2), np.zeros(len(stages))
    for start in range(0, len(taught), size):
        part = taught.part(start, min(start + size, len(taught)))
        columns = student.columns(table, part.noise, part.rows)
        end = end_of(table, columns)
        weight = weights[start : start + len(part)].to(end).reshape(-1, *[1] * (end.ndim - 1))
        by_number = (derivatives(student, numbers, part, columns, end, step) * weight).flatten(1)
        residual = ((end - part.solution.to(end)) * weight).flatten()
        for piece, rest in zip(torch.split(by_number, _PIECE, 1), torch.split(residual, _PIECE), strict=True):
            wide = piece.cpu().double()  # sums of squares of nearly parallel columns
            square += (wide @ wide.T).numpy()
            slope += (wide @ rest.cpu().double()).numpy()
    return square, slope


def derivatives(
    student: Student, numbers: Numbers, part: Trajectories, columns: list[Tensor], end: Tensor, step: float
) -> Tensor:
    """The derivatives of the ends of runs by all numbers, shape (numbers, n, ...): differences, from the call on that
    a number changes, those of a row in one batch."""
    table, made = numbers.table, dict[int, Tensor]()
    last = table.frame(table.nfe).directions * table.radii[-1]  # the last row is linear
    stages = list(enumerate(numbers.stages))
    made |= {k: combined(row, columns) for (k, _), row in zip(stages[len(stages) - len(last) :], last, strict=True)}
    rest = stages[: len(stages) - len(last)]
    for (i, _), group in itertools.groupby(rest, key=lambda each: (each[1][0], each[1][1] < 0)):
        which, alike = zip(*group, strict=True)
        tables, changes = zip(*(numbers.nudged(stage, step) for stage in alike), strict=True)
        moved = student.ends(tables, columns[: 1 + i], part.rows) - end
        made |= {k: each / change for k, each, change in zip(which, moved, changes, strict=True)}
    return torch.stack([made[k] for k in range(len(stages))])
