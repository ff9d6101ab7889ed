"""The fit: Levenberg-Marquardt on all free numbers of a table, against the errors at the ends of trajectories.

The derivatives are differences of runs; there are no gradients through the model.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...analysis.solution import each_error
from ...running.model_adapter import ModelAdapter
from ...support.errors import ModelOutputError, NumericsError
from ..level_range import LevelRange
from ..student import Student
from ..table import Table
from ..trajectories import Errors, Trajectories
from .damped_steps import Bound, damped_step
from .free_numbers import FreeNumbers
from .normal_equations import NormalEquations
from .robust_loss import CauchyLoss, informative
from .units import units_of

__all__ = ["Fit", "cost_of_iteration", "enough", "fit"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

#: A fit, and the errors and ends of all trajectories with its table.
Reached = tuple["Fit", Tensor, Tensor]

#: The scale of the loss in each phase, in medians. In the first phase, trajectories in another basin hardly count; in
#: the second one they count enough to be brought back.
_MEDIANS = (3.0, 300.0)
#: The least and the most trajectories of a Jacobian, and the numbers of all their samples together that are enough.
#: More trajectories are drawn only while they cost no more than a run of all.
_FEWEST, _MOST, _NUMBERS = 8, 256, 1 << 11
#: The number of damped steps that are tried with one Jacobian.
_TRIES = 4
#: What they cost, in runs of all trajectories: one step is taken, and some are refused before.
_TRIALS = 1.5
#: A phase ends after _SLOW iterations in a row of which each gains less than _LITTLE of the loss.
_SLOW, _LITTLE = 3, 0.01
#: Levenberg's μ at the start of each phase.
_DAMPING = 1.0
#: The step of finite differences for networks in float32, and in half precision, in units and in log(σ/α). Near a
#: boundary of basins derivatives change within 1e-3. Clean samples that are predicted from noise in float32 have
#: rounding errors of some 1e-5.
_STEP, _COARSE_STEP = 1e-4, 3e-2


@final
@dataclass(frozen=True)
class Fit:
    """The state of a fit after an iteration.

    Attributes:
        table: the best table so far.
        loss: its loss on the trajectories that the iteration took.
        errors: its errors on them.
        count: the number of these trajectories.
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
    damping: float = _DAMPING
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
    counts: Callable[[int], int] | None = None,
) -> Iterator[Fit]:
    """Improve a table until it no longer gets better.

    An iteration takes derivatives for some of the trajectories, others each time, and a damped step if the loss of all
    trajectories falls. The model is only run: the derivatives are differences.

    Args:
        student: the model.
        table: the start. Its rows are made consistent.
        span: the range of the levels.
        taught: the trajectories.
        max_gain: the largest :attr:`Table.gain` of a table that may be accepted.
        drawn: the number of trajectories of a Jacobian. None: as many as cost a run of all, but enough.
        resume: the fit to continue, in place of a new one from ``table``.
        counts: from the number of trajectories whose ends are known, 0 at first, to the number that the next iteration
            takes: the first ones, and no fewer than are known. A fit that has converged on a part goes on with all.
            None: all.

    Yields:
        The state after every iteration.

    Raises:
        NoiseSamplingError: the start overflows.
    """
    begun = FreeNumbers.of(span, table).table if resume is None else resume.table
    wanted = counts or (lambda known: len(taught))
    part = taught.part(0, wanted(0 if resume is None else resume.count))
    ends = part.ends(student, begun)
    each = each_error(ends, part.solution)
    equations = NormalEquations(student, taught, _step_for(student))
    few = part.part(0, enough(part))
    units = units_of(begun, student.columns(begun, few.noise, few.rows))
    if resume is not None:  # it may have converged on other trajectories, and its end must be yielded again
        resume = replace(resume, errors=Errors.of(each), count=len(part), stalled=0, converged=False)
    now = resume or Fit(begun, CauchyLoss().loss(each), Errors.of(each), len(part))
    while now.errors.rms > 0.0:
        count = len(taught) if now.converged else wanted(len(part))
        others = taught.part(len(part), count)
        further = _ends_if_finite(student, now.table, others) if len(others) else None
        if further is not None:
            part, ends = taught.part(0, count), torch.cat([ends, further])
            each = each_error(ends, part.solution)
            now = replace(now, errors=Errors.of(each), count=count, stalled=0, converged=False)
        elif now.converged:
            return
        robust = CauchyLoss.at(_MEDIANS[now.phase], now.errors, now.robust)
        now = replace(now, robust=robust, loss=robust.loss(each))
        numbers = FreeNumbers(span, now.table, units)
        chosen, shares = informative(each, robust, drawn or _drawn(numbers, part), now.iterations)
        weights = robust.weights(each)
        square, slope = equations.at(numbers, chosen, shares, ends, weights.__getitem__)

        bound = Bound(numbers.squared_weights, functools.partial(_bears, numbers, max_gain))
        attempt = functools.partial(_tried, student, now, numbers, part, max_gain)
        found, damping = damped_step(square, slope, now.damping, attempt, tries=_TRIES, bound=bound)
        better, each, ends = (now, each, ends) if found is None else found
        gained = better.loss < (1.0 - _LITTLE) * now.loss
        stalled = 0 if gained else now.stalled + 1
        now = replace(better, damping=damping, stalled=stalled, iterations=now.iterations + 1)
        last_phase = now.phase + 1 == len(_MEDIANS)
        now = replace(now, converged=last_phase and now.stalled == _SLOW)
        yield now
        if now.stalled == _SLOW and not last_phase:
            now = replace(now, phase=now.phase + 1, stalled=0, damping=_DAMPING, robust=CauchyLoss())


def _ends_if_finite(student: Student, table: Table, others: Trajectories) -> Tensor | None:
    """Run a table on trajectories that it has not seen; return their ends, or None if one overflows."""
    try:
        ends = others.ends(student, table)
    except (NumericsError, ModelOutputError) as error:
        logger.info("the fit goes on without %d trajectories: %s", len(others), error)
        return None
    return ends if bool(ends.isfinite().all()) else None


def _bears(numbers: FreeNumbers, max_gain: float, changes: Array) -> bool:
    """Return whether changed numbers give a table that bears errors of predictions."""
    return numbers.moved(changes).gain <= max_gain


def _tried(
    student: Student, now: Fit, numbers: FreeNumbers, part: Trajectories, max_gain: float, changes: Array
) -> Reached | None:
    """Change the numbers of a table; return what that reached, or None if the loss is not smaller."""
    trial = numbers.moved(changes)
    if trial.gain > max_gain:
        return None
    try:
        there = part.ends(student, trial)
    except (NumericsError, ModelOutputError):  # the step is too long: the model overflows there
        return None
    reached = each_error(there, part.solution)
    better = replace(now, table=trial, loss=now.robust.loss(reached), errors=Errors.of(reached))
    return (better, reached, there) if better.loss < now.loss else None


def enough(taught: Trajectories) -> int:
    """Return the number of trajectories whose derivatives are good enough to go on."""
    return min(len(taught), max(_FEWEST, min(_MOST, _NUMBERS // taught.noise[0].numel())))


def cost_of_iteration(table: Table, span: LevelRange, taught: Trajectories) -> float:
    """Estimate the cost of an iteration in runs of all trajectories: the Jacobian of some, and the trial steps."""
    numbers = FreeNumbers.of(span, table)
    return numbers.runs * _drawn(numbers, taught) / len(taught) + _TRIALS


def _drawn(numbers: FreeNumbers, taught: Trajectories) -> int:
    """Return the number of trajectories of a Jacobian."""
    return max(enough(taught), min(_MOST, int(len(taught) / numbers.runs)))


def _step_for(student: Student) -> float:
    """Return the step of finite differences that the precision of the model and of its states allows."""
    dtype = student.request.get("dtype") or (None if student.model is None else ModelAdapter(student.model).dtype)
    return _COARSE_STEP if dtype is not None and dtype.itemsize < 4 else _STEP
