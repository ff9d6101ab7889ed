"""The fit: Levenberg-Marquardt on all free numbers of a table, against the errors at the ends of trajectories.

The derivatives are differences of runs; there are no gradients through the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...running.model_adapter import ModelAdapter
from ...support.errors import ModelOutputError, NumericsError
from ..student import Student, combined, end_of
from ..table import LevelRange, Table
from ..trajectories import Errors, Trajectories
from .damped_steps import damped_step
from .free_numbers import FreeNumbers
from .robust_loss import CauchyLoss, informative

__all__ = ["Fit", "cost_of_iteration", "derivatives", "enough", "fit"]

Array = npt.NDArray[np.float64]

#: The scale of the loss in each phase, in medians. In the first phase, trajectories in another basin hardly count; in
#: the second one they count enough to be brought back.
_MEDIANS = (3.0, 300.0)
#: The least and the most trajectories of a Jacobian, and the numbers of all their samples together that are enough.
#: More trajectories are drawn only while they cost no more than a run of all.
_FEWEST, _MOST, _NUMBERS = 8, 256, 1 << 13
#: The number of damped steps that are tried with one Jacobian.
_TRIES = 4
#: A phase ends after _SLOW iterations in a row of which each gains less than _LITTLE of the loss.
_SLOW, _LITTLE = 3, 0.01
#: The most floating-point numbers of all difference columns in memory at a time: 256 MiB of float32.
_HELD = 1 << 26
#: The most numbers of each column that are converted to double precision at a time.
_PIECE = 1 << 18
#: The step of finite differences for networks in float32, and in half precision.
_STEP, _COARSE_STEP = 1e-3, 3e-2


@final
@dataclass(frozen=True)
class Fit:
    """The state of a fit after an iteration.

    Attributes:
        table: the best table so far.
        loss: its loss on the trajectories.
        errors: its errors on them.
        count: the number of trajectories.
        damping: Levenberg's μ for the next step.
        robust: the loss function.
        phase: the index of the phase.
        stalled: the number of iterations in a row, up to the last one, that gained next to nothing.
        iterations: the number of iterations so far.
        converged: whether all phases have ended.
    """

    table: Table
    loss: float
    errors: Errors
    count: int
    damping: float = 0.1
    robust: CauchyLoss = field(default_factory=CauchyLoss)
    phase: int = 0
    stalled: int = 0
    iterations: int = 0
    converged: bool = False

    @property
    def score(self) -> float:
        """The number by which fits are compared; smaller is better."""
        return self.errors.score(self.count)


def fit(
    student: Student,
    table: Table,
    span: LevelRange,
    taught: Trajectories,
    *,
    max_gain: float,
    drawn: int | None = None,
    resume: Fit | None = None,
) -> Iterator[Fit]:
    """Improve a table until it no longer gets better.

    An iteration makes a Jacobian from some of the trajectories, others each time, and takes a damped step if the loss
    of all trajectories falls. The model is only run: the derivatives are differences.

    Args:
        student: the model.
        table: the start. Its rows are made consistent.
        span: the range of the levels.
        taught: the trajectories.
        max_gain: the largest :attr:`Table.gain` of a table that may be accepted.
        drawn: the number of trajectories of a Jacobian. None: as many as cost a run of all, but enough.
        resume: the fit to continue, in place of a new one from ``table``.

    Yields:
        The state after every iteration.

    Raises:
        NoiseSamplingError: the start overflows.
    """
    begun = FreeNumbers.of(span, table).table if resume is None else resume.table
    each = taught.errors(student, begun)
    if resume is not None:  # it may have converged on other trajectories, and its end must be yielded again
        resume = replace(resume, errors=Errors.of(each), count=len(taught), stalled=0, converged=False)
    now = resume or Fit(begun, CauchyLoss().loss(each), Errors.of(each), len(taught))
    while not now.converged and now.errors.rms > 0.0:
        robust = CauchyLoss.at(_MEDIANS[now.phase], now.errors, now.robust)
        now = replace(now, robust=robust, loss=robust.loss(each))
        numbers = FreeNumbers(span, now.table)
        chosen, shares = informative(each, robust, drawn or _drawn(numbers, taught), now.iterations)
        weights = (shares * robust.weights(each[chosen])).sqrt()
        square, slope = _normal_equations(student, numbers, taught.picked(chosen), weights, _step_for(student))

        def attempt(changes: Array, now: Fit = now, numbers: FreeNumbers = numbers) -> tuple[Fit, Tensor] | None:
            trial = numbers.moved(changes)
            if trial.gain > max_gain:
                return None
            try:
                reached = taught.errors(student, trial)
            except (NumericsError, ModelOutputError):  # the step is too long: the model overflows there
                return None
            better = replace(now, table=trial, loss=now.robust.loss(reached), errors=Errors.of(reached))
            return (better, reached) if better.loss < now.loss else None

        found, damping = damped_step(square, slope, now.damping, attempt, tries=_TRIES)
        better, each = (now, each) if found is None else found
        gained = better.loss < (1.0 - _LITTLE) * now.loss
        stalled = 0 if gained else now.stalled + 1
        now = replace(better, damping=damping, stalled=stalled, iterations=now.iterations + 1)
        last_phase = now.phase + 1 == len(_MEDIANS)
        now = replace(now, converged=last_phase and now.stalled == _SLOW)
        yield now
        if now.stalled == _SLOW and not last_phase:
            now = replace(now, phase=now.phase + 1, stalled=0, damping=0.1, robust=CauchyLoss())


def enough(taught: Trajectories) -> int:
    """Return the number of trajectories whose derivatives are good enough to go on."""
    return min(len(taught), max(_FEWEST, min(_MOST, _NUMBERS // taught.noise[0].numel())))


def cost_of_iteration(table: Table, span: LevelRange, taught: Trajectories) -> float:
    """Estimate the cost of an iteration in runs of all trajectories: the Jacobian of some, and two trial steps."""
    numbers = FreeNumbers.of(span, table)
    return numbers.runs * _drawn(numbers, taught) / len(taught) + 2.0


def _drawn(numbers: FreeNumbers, taught: Trajectories) -> int:
    """Return the number of trajectories of a Jacobian."""
    return max(enough(taught), min(_MOST, int(len(taught) / numbers.runs)))


def _step_for(student: Student) -> float:
    """Return the step of finite differences that the precision of the model and of its states allows."""
    dtype = student.request.get("dtype") or (None if student.model is None else ModelAdapter(student.model).dtype)
    return _COARSE_STEP if dtype is not None and dtype.itemsize < 4 else _STEP


def _normal_equations(
    student: Student, numbers: FreeNumbers, taught: Trajectories, weights: Tensor, step: float
) -> tuple[Array, Array]:
    """Return JᵀWJ, shape (K, K), and JᵀWr, shape (K,), of the differences r between the ends and the solutions.

    Args:
        student: the model.
        numbers: the K free numbers, at which the derivatives are taken.
        taught: the n trajectories.
        weights: the square roots of the trajectories' weights W, shape (n,).
        step: of the finite differences.
    """
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
            wide = piece.cpu().double()  # the columns are nearly parallel, so their products need many digits
            square += (wide @ wide.T).numpy()
            slope += (wide @ rest.cpu().double()).numpy()
    return square, slope


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
    last = table.frame(table.nfe).directions * table.radii[-1]
    stages = list(enumerate(numbers.stages))
    made |= {k: combined(row, columns) for (k, _), row in zip(stages[len(stages) - len(last) :], last, strict=True)}
    rest = stages[: len(stages) - len(last)]
    for (i, _), group in itertools.groupby(rest, key=lambda each: (each[1][0], each[1][1] < 0)):
        which, alike = zip(*group, strict=True)
        tables, changes = zip(*(numbers.nudged(stage, step) for stage in alike), strict=True)
        moved = student.ends(tables, columns[: 1 + i], part.rows) - end
        made |= {k: each / change for k, each, change in zip(which, moved, changes, strict=True)}
    return torch.stack([made[k] for k in range(len(stages))])
