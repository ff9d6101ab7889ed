"""Levenberg-Marquardt on all numbers of a table, against the errors at the end; the model is only run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..support.errors import ModelOutputError, NumericsError
from .coordinates import Numbers
from .damped_steps import damped_step
from .jacobian import normal_equations, step_for
from .measure import Errors
from .robust import Robust, informative
from .student import Student
from .table import LevelRange, Table
from .teacher import Trajectories

__all__ = ["Fit", "cost_of_iteration", "enough", "fit"]

Array = npt.NDArray[np.float64]

#: Phases: errors beyond so many medians hardly count; in the end those count, too, that can be brought back.
_MEDIANS = (3.0, 300.0)
#: A Jacobian is made of so many trajectories, the fewer the more numbers a sample has; of more while it costs no more
#: than a run of all.
_FEWEST, _MOST, _NUMBERS = 8, 256, 1 << 13
#: A step of the damped system is tried so often, with more damping each time; then another Jacobian is made.
_TRIES = 4
#: A phase ends after so many iterations in a row with less than this share of the loss gained.
_SLOW, _LITTLE = 3, 0.01


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
        drawn: how many trajectories a Jacobian is made of; default as many as cost a run of all, but enough.
        resume: go on from here instead.
    """
    begun = Numbers.of(span, table).table if resume is None else resume.table
    each = taught.errors(student, begun)
    if resume is not None:  # even if it had converged: it may be of other trajectories, and has to be handed out again
        resume = replace(resume, errors=Errors.of(each), count=len(taught), stalled=0, converged=False)
    now = resume or Fit(begun, Robust().loss(each), Errors.of(each), len(taught))
    while not now.converged and now.errors.rms > 0.0:
        robust = Robust.at(_MEDIANS[now.phase], now.errors, now.robust)
        now = replace(now, robust=robust, loss=robust.loss(each))
        numbers = Numbers(span, now.table)
        chosen, shares = informative(each, robust, drawn or _drawn(numbers, taught), now.iterations)
        square, slope = normal_equations(
            student, numbers, taught.picked(chosen), (shares * robust.weights(each[chosen])).sqrt(), step_for(student)
        )

        def attempt(changes: Array, now: Fit = now, numbers: Numbers = numbers) -> tuple[Fit, Tensor] | None:
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
        better = None
        if found is not None:
            better, each = found
        gained = better is not None and better.loss < (1.0 - _LITTLE) * now.loss
        now = replace(
            better or now,
            damping=damping,
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
