"""Gauss-Newton on all numbers of a table, against the error at the end of trajectories; the model is only run."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ModelOutputError, NumericsError
from ..model import ModelAdapter
from .measure import Errors, each_error
from .robust import Robust, informative
from .student import Student, combined, end_of
from .table import LevelRange, Table
from .teacher import Trajectories

__all__ = ["Fit", "cost_of_iteration", "enough", "fit", "step_for"]

Array = npt.NDArray[np.float64]

#: Numbers of all finite-difference columns that are held at a time: 256 MiB of float32.
_HELD = 1 << 26
#: Phases: errors beyond so many medians hardly count; in the end those count, too, that can be brought back.
_MEDIANS = (3.0, 300.0)
#: A Jacobian is made of so many trajectories, the fewer the more numbers a sample has; of more while it costs no more
#: than a run of all.
_FEWEST, _MOST, _NUMBERS = 8, 256, 1 << 13
#: Numbers of each column that are brought to double precision at a time.
_PIECE = 1 << 18
#: A step of the damped system is tried so often, with more damping each time; then another Jacobian is made.
_TRIES = 4
#: A phase ends after so many iterations in a row with less than this share of the loss gained.
_SLOW, _LITTLE = 3, 0.01
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
        count: how many trajectories they are of.
        damping: Levenberg's μ for the next step.
        robust: what an error counts.
        phase: of the fit, from 0.
        stalled: how many of the last iterations brought next to nothing.
        iterations: how many there were.
        converged: whether all phases have ended.
    """

    table: Table
    loss: float
    errors: Errors
    count: int
    damping: float = 0.1
    robust: Robust = field(default_factory=Robust)
    phase: int = 0
    stalled: int = 0
    iterations: int = 0
    converged: bool = False

    @property
    def score(self) -> float:
        """What to choose a fit by."""
        return self.errors.score(self.count)


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

    @property
    def runs(self) -> float:
        """What the derivatives of a trajectory's end by all numbers cost, in runs of it."""
        return 1.0 + sum(self.table.nfe - i for i, _ in self.stages) / self.table.nfe

    @classmethod
    def of(cls, span: LevelRange, table: Table) -> Numbers:
        """Those of a table whose first level may be free: it is then a little below the noisiest level at least."""
        top, bottom = span.ends
        if span.first_fixed:
            table = replace(table, levels=(span.path.level(span.path.t_max), *table.levels[1:]))
        else:
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
    drawn: int | None = None,
    resume: Fit | None = None,
) -> Iterator[Fit]:
    """Improve a table until nothing more comes of it, yielding after every iteration.

    Levenberg-Marquardt on a robust loss of the error at the end of every trajectory, whose scale is first small, then
    large (robust.py). The Jacobian is made of forward differences on the trajectories that tell most, others each
    time; a step is taken if the loss of all falls. A number of row i changes nothing before call i, so that all columns
    together cost about a quarter of a run each, those of the last row nothing.

    Args:
        student: the model.
        table: where to start; consistent.
        span: the levels that may be asked for.
        taught: the trajectories.
        max_gain: tables with a larger :attr:`Table.gain` are not taken.
        step: of the finite differences.
        drawn: how many trajectories a Jacobian is made of; default as many as cost a run of all, but enough.
        resume: go on from here instead.
    """
    begun = Numbers.of(span, table).table if resume is None else resume.table
    each = _ends(student, begun, taught)
    if resume is not None:  # even if it had converged: it may be of other trajectories, and has to be handed out again
        resume = replace(resume, errors=Errors.of(each), count=len(taught), stalled=0, converged=False)
    now = resume or Fit(begun, Robust().loss(each), Errors.of(each), len(taught))
    while not now.converged and now.errors.rms > 0.0:
        robust = Robust.at(_MEDIANS[now.phase], now.errors, now.robust)
        now = replace(now, robust=robust, loss=robust.loss(each))
        numbers = Numbers(span, now.table)
        chosen, shares = informative(each, robust, drawn or _drawn(numbers, taught), now.iterations)
        square, slope = _normal_equations(
            student, numbers, taught.picked(chosen), (shares * robust.weights(each[chosen])).sqrt(), step
        )
        scale = np.diag(square) + 1e-12 * np.diag(square).max()
        damping, better = now.damping, None
        for _ in range(_TRIES):
            changes = -np.linalg.solve(square + damping * np.diag(scale), slope)
            trial = numbers.moved(changes)
            if trial.gain <= max_gain:
                try:
                    reached = _ends(student, trial, taught)
                    loss = robust.loss(reached)
                except (NumericsError, ModelOutputError):  # too far: the model overflows there
                    loss = math.inf
                if loss < now.loss:
                    each, better = reached, replace(now, table=trial, loss=loss, errors=Errors.of(reached))
                    break
            damping *= 4.0
        gained = better is not None and better.loss < (1.0 - _LITTLE) * now.loss
        now = replace(
            better or now,
            damping=max(damping / 4.0, 1e-7),
            stalled=0 if gained else now.stalled + 1,
            iterations=now.iterations + 1,
        )
        if now.stalled == _SLOW and now.phase + 1 < len(_MEDIANS):
            yield now
            now = replace(now, phase=now.phase + 1, stalled=0, damping=0.1, robust=Robust())
        else:
            now = replace(now, converged=now.stalled == _SLOW)
            yield now


def enough(taught: Trajectories) -> int:
    """How many trajectories tell the derivatives well enough to go on."""
    return min(len(taught), max(_FEWEST, min(_MOST, _NUMBERS // taught.noise[0].numel())))


def cost_of_iteration(table: Table, span: LevelRange, taught: Trajectories) -> float:
    """Model calls of an iteration, in runs of all trajectories: the Jacobian of some, and two trials."""
    numbers = Numbers.of(span, table)
    return numbers.runs * _drawn(numbers, taught) / len(taught) + 2.0


def _drawn(numbers: Numbers, taught: Trajectories) -> int:
    """How many trajectories a Jacobian is made of."""
    return max(enough(taught), min(_MOST, int(len(taught) / numbers.runs)))


def step_for(student: Student) -> float:
    """The step of finite differences that the precision of a model and of its states allows."""
    dtype = student.request.get("dtype") or (None if student.model is None else ModelAdapter(student.model).dtype)
    return _COARSE_STEP if dtype is not None and dtype.itemsize < 4 else _STEP


def _ends(student: Student, table: Table, taught: Trajectories) -> Tensor:
    """The error of every trajectory, shape (n,), on the CPU."""
    columns = student.columns(table, taught.noise, taught.rows)
    return each_error(end_of(table, columns), taught.solution).cpu()


def _normal_equations(
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
        derivatives = _derivatives(student, numbers, part, columns, end, step)
        derivatives = (derivatives * weight).flatten(1)
        residual = ((end - part.solution.to(end)) * weight).flatten()
        for piece, rest in zip(torch.split(derivatives, _PIECE, 1), torch.split(residual, _PIECE), strict=True):
            wide = piece.cpu().double()  # sums of squares of nearly parallel columns
            square += (wide @ wide.T).numpy()
            slope += (wide @ rest.cpu().double()).numpy()
    return square, slope


def _derivatives(
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
