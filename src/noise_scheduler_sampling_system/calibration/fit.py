"""Gauss-Newton on all numbers of a table, against the error at the end of trajectories; the model is only run."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ModelOutputError, NumericsError
from ..model import ModelAdapter
from .measure import Errors, each_error
from .student import Student, combined, end_of
from .table import LevelRange, Table
from .teacher import Trajectories

__all__ = ["Fit", "cost_of_iteration", "fit", "step_for"]

Array = npt.NDArray[np.float64]

#: Numbers of all finite-difference columns that are held at a time: 256 MiB of float32.
_HELD = 1 << 26
#: Trajectories whose error is beyond so many medians count linearly, not squared: they are in another basin.
_HUBER = 10.0
#: But not below this share of the root mean square, where most errors are rounding.
_LINEAR = 1e-3
#: Numbers of each column that are brought to double precision at a time.
_PIECE = 1 << 18
#: A step of the damped system is tried so often, with more damping each time.
_TRIES = 8
#: A gap between levels shrinks to no less than this share of itself in one step, nor below _LEAST of the range.
_SHRINK, _LEAST = 0.2, 1e-5
#: Steps of finite differences for networks in float32, and in half precision.
_STEP, _COARSE_STEP = 1e-3, 3e-2


@final
@dataclass(frozen=True)
class Fit:
    """A table on its way, and how the search stands.

    Attributes:
        table: the best so far.
        loss: its loss on the trajectories.
        errors: its errors there.
        damping: Levenberg's μ for the next step.
        threshold: the error beyond which a trajectory counts linearly.
        iterations: how many there were.
        converged: whether the last ones brought next to nothing.
    """

    table: Table
    loss: float
    errors: Errors
    damping: float = 0.1
    threshold: float = math.inf
    iterations: int = 0
    converged: bool = False


@final
@dataclass(frozen=True)
class Numbers:
    """The free numbers of a table: log(σ/α) of its levels, then the weights of its rows.

    Attributes:
        range: of the levels.
        table: whose rows say which weights there are.
    """

    range: LevelRange
    table: Table

    @property
    def places(self) -> Array:
        # no signal is as far as levels go
        return np.minimum(np.log([level.noise_to_signal for level in self.table.levels]), self.range.ends[0])

    @functools.cached_property
    def stages(self) -> list[tuple[int, int]]:
        """For each number, the row or level that it belongs to, and −1 for a level or its place in the weights."""
        count = self.table.nfe
        of_levels = [(i, -1) for i in range(self.range.first_fixed, count)]
        sizes = [len(self.table.frame(i).directions) for i in range(count + 1)]
        rows = [i for i, size in enumerate(sizes) for _ in range(size)]
        return of_levels + [(i, k) for k, i in enumerate(rows)]

    @classmethod
    def of(cls, span: LevelRange, table: Table) -> Numbers:
        """Those of a table whose first level may be free: it is then a little below the noisiest level at least."""
        top, bottom = span.ends
        if not span.first_fixed:
            highest = span.level(top - _LEAST * (top - bottom))
            if table.levels[0].noise_to_signal > highest.noise_to_signal:
                table = replace(table, levels=(highest, *table.levels[1:]))
        return cls(span, table.with_weights(table.weights))

    def nudged(self, stage: tuple[int, int], step: float) -> tuple[Table, float]:
        """The table with one number changed and nothing else, and by how much it was."""
        i, place = stage[0], self.places
        if stage[1] >= 0:
            change = np.zeros(len(self.table.weights))
            change[stage[1]] = step
            return self.table.with_weights(self.table.weights + change), step
        step = -step if place[i] + step > self.range.ends[0] else step
        levels = list(self.table.levels)
        levels[i] = self.range.level(float(place[i] + step))
        return self.table.with_levels(levels), step

    def moved(self, changes: Array) -> Table:
        """The table with all numbers changed; the levels stay in order and in range, whatever the changes."""
        free = self.table.nfe - self.range.first_fixed
        top, bottom = self.range.ends
        ends = np.concatenate([[top], self.places, [bottom]])
        gaps = np.maximum(-np.diff(ends), _LEAST * (top - bottom))
        shift = np.concatenate([np.zeros(1 + self.range.first_fixed), changes[:free], [0.0]])
        if self.range.first_fixed:
            gaps, shift = gaps[1:], shift[1:]
        gaps = np.maximum.reduce([gaps - np.diff(shift), _SHRINK * gaps, np.full(len(gaps), _LEAST * (top - bottom))])
        top = float(ends[int(self.range.first_fixed)])
        places = top - np.cumsum(gaps)[:-1] * ((top - bottom) / gaps.sum())
        kept = self.table.levels[: self.range.first_fixed]
        levels = (*kept, *(self.range.level(float(place)) for place in places))
        return replace(self.table, levels=levels).with_weights(self.table.weights + changes[free:])


def fit(
    student: Student,
    table: Table,
    span: LevelRange,
    taught: Trajectories,
    *,
    max_gain: float,
    step: float = _STEP,
    resume: Fit | None = None,
) -> Iterator[Fit]:
    """Improve a table until nothing more comes of it, yielding after every iteration.

    Levenberg-Marquardt on the robust loss (Huber) of the error at the end of every trajectory. The Jacobian is
    made of forward differences: a number of row i changes nothing before call i, so that all columns together cost
    about a quarter of a run each, those of the last row nothing.

    Args:
        student: the model.
        table: where to start; consistent.
        span: the levels that may be asked for.
        taught: the trajectories.
        max_gain: tables with a larger :attr:`Table.gain` are not taken.
        step: of the finite differences.
        resume: go on from here instead.
    """
    now = resume or _start(student, Numbers.of(span, table).table, taught)
    slow = 0
    while not now.converged and now.errors.rms > 0.0:
        numbers = Numbers(span, now.table)
        square, slope, now = _normal_equations(student, numbers, taught, now, step)
        scale = np.diag(square) + 1e-12 * np.diag(square).max()
        damping, better = now.damping, None
        for _ in range(_TRIES):
            changes = -np.linalg.solve(square + damping * np.diag(scale), slope)
            trial = numbers.moved(changes)
            if trial.gain <= max_gain:
                try:
                    loss, errors = _loss(student, trial, taught, now.threshold)
                except (NumericsError, ModelOutputError):  # too far: the model overflows there
                    loss, errors = math.inf, now.errors
                if loss < now.loss:
                    better = replace(now, table=trial, loss=loss, errors=errors)
                    break
            damping *= 4.0
        slow = slow + 1 if better is None or better.loss > 0.99 * now.loss else 0
        done = better is None or slow > 2
        now = replace(better or now, damping=max(damping / 4.0, 1e-7), iterations=now.iterations + 1, converged=done)
        yield now


def cost_of_iteration(table: Table, span: LevelRange) -> float:
    """Model calls of an iteration, in runs of all trajectories: the Jacobian, the run itself, and two trials."""
    stages = Numbers.of(span, table).stages
    return sum(table.nfe - i for i, _ in stages) / table.nfe + 3.0


def step_for(model: Any) -> float:
    """The step of finite differences that the precision of a model allows."""
    dtype = ModelAdapter(model).dtype if model is not None else None
    return _COARSE_STEP if dtype is not None and dtype.itemsize < 4 else _STEP


def _start(student: Student, table: Table, taught: Trajectories) -> Fit:
    loss, errors = _loss(student, table, taught, math.inf)
    return Fit(table, loss, errors)


def _loss(student: Student, table: Table, taught: Trajectories, threshold: float) -> tuple[float, Errors]:
    columns = student.columns(table, taught.noise, taught.rows)
    each = each_error(end_of(table, columns), taught.solution)
    return _huber(each, threshold), Errors.of(each)


def _huber(each: Tensor, threshold: float) -> float:
    linear = threshold * (each - 0.5 * threshold) if math.isfinite(threshold) else each
    return float(torch.where(each <= threshold, 0.5 * each.square(), linear).mean())


def _normal_equations(
    student: Student, numbers: Numbers, taught: Trajectories, now: Fit, step: float
) -> tuple[Array, Array, Fit]:
    """JᵀWJ and JᵀWr of the residuals at the end, and where the search stands with the threshold of their weights."""
    table, stages = numbers.table, numbers.stages
    threshold = min(now.threshold, max(_HUBER * now.errors.median, _LINEAR * now.errors.rms))
    size = max(1, _HELD // (len(stages) * taught.noise[0].numel()))
    square, slope = np.zeros((len(stages),) * 2), np.zeros(len(stages))
    loss = 0.0
    for start in range(0, len(taught), size):
        part = taught.part(start, min(start + size, len(taught)))
        columns = student.columns(table, part.noise, part.rows)
        end = end_of(table, columns)
        each = each_error(end, part.solution)
        weight = (threshold / each.clamp_min(1e-30)).clamp(max=1.0).sqrt().to(end.dtype)
        weight = weight.reshape(-1, *[1] * (end.ndim - 1))
        derivatives = torch.stack([
            (_derivative(student, numbers, part, columns, end, k, step) * weight).flatten() for k in range(len(stages))
        ])  # fmt: skip
        residual = ((end - part.solution.to(end)) * weight).flatten()
        for piece, rest in zip(torch.split(derivatives, _PIECE, 1), torch.split(residual, _PIECE), strict=True):
            wide = piece.cpu().double()  # sums of squares of nearly parallel columns
            square += (wide @ wide.T).numpy()
            slope += (wide @ rest.cpu().double()).numpy()
        loss += _huber(each, threshold) * len(part) / len(taught)
    return square, slope, replace(now, threshold=threshold, loss=loss)


def _derivative(
    student: Student, numbers: Numbers, part: Trajectories, columns: list[Tensor], end: Tensor, k: int, step: float
) -> Tensor:
    """The derivative of the end of a run by number k: a difference, from the call on that it changes."""
    table, stage = numbers.table, numbers.stages[k]
    if stage[0] == table.nfe:  # the last row is linear
        first = len(numbers.stages) - len(table.frame(table.nfe).directions)
        return combined(table.frame(table.nfe).directions[k - first] * table.radii[-1], columns)
    nudged, change = numbers.nudged(stage, step)
    changed = student.columns(nudged, part.noise, part.rows, columns[: 1 + stage[0]])
    return (end_of(nudged, changed) - end) / change
