"""Starts for fits: forecasts of outlines, and rehearsals of the best ones, in turns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, final

from ...support.errors import NoiseSamplingError
from ..budget import Budget
from ..fit.fit import Fit
from ..fit.robust_loss import CauchyLoss
from ..goal import Goal
from ..level_range import LevelRange
from ..student import Student
from ..trajectories import Trajectories
from .forecast import Forecast, Outline
from .recording import LEVELS, Recording
from .rehearsal import Rehearsal, rehearse
from .response import Response

__all__ = ["Insight", "Rehearsed"]

logger = logging.getLogger(__name__)

#: The trajectories that are recorded, at most and at least.
_FEW: Final = 64
_FEWEST: Final = 8
#: The share of the budget that a recording may take, the share after which no third round begins, and the share after
#: which the rehearsals end.
_FOR_RECORDING: Final = 0.25
_FOR_MORE: Final = 0.25
_FOR_ALL: Final = 0.5
#: The numbers of queries that are tried after the first round.
_COUNTS: Final = 3
#: The rounds of forecasts, at most and where the budget is short, and the rehearsals after each.
_ROUNDS: Final = 4
_FEWEST_ROUNDS: Final = 2
_EACH: Final = 2


@final
@dataclass(frozen=True)
class Insight:
    """What a search knows of the network near a few trajectories. The searches of further budgets go on from it.

    Attributes:
        student: the network.
        few: the recorded trajectories.
        span: the range of the levels.
        response: how predictions answer to errors, with the recording.
    """

    student: Student
    few: Trajectories
    span: LevelRange
    response: Response

    @staticmethod
    def cost(student: Student, goal: Goal, taught: Trajectories) -> float:
        """Return the evaluations of a recording of as many trajectories as are useful; 0 where there is none."""
        return _of_each(student, goal) * min(_FEW, len(taught)) if _possible(goal) else 0.0

    @classmethod
    def of(cls, student: Student, goal: Goal, taught: Trajectories, span: LevelRange, budget: Budget) -> Insight | None:
        """Record the first trajectories.

        Returns:
            None where that would cost too much, the goal has too many queries, or fine runs are impossible.
        """
        own = _FOR_RECORDING * budget.left() * budget.of_a_pass
        room = max(own, budget.limits.recording) / _of_each(student, goal)
        if min(room, len(taught)) < _FEWEST or not _possible(goal):
            return None
        few = taught.part(0, int(min(_FEW, room)))
        try:
            return cls(student, few, span, Response(Recording.of(student, goal, few, span)))
        except NoiseSamplingError as error:
            logger.info("no outlines: %s", error)
            return None

    def explored(self, goal: Goal, budget: Budget, report: Callable[[Fit], None]) -> Insight:
        """Rehearse the most promising outlines of a goal; return what is known afterwards.

        Args:
            goal: the budget and the scale.
            budget: of which a share may be spent.
            report: takes every table that may begin a fit, with its errors on the recorded trajectories.
        """
        known = self
        for each in self.rehearsals(goal, budget):
            known, found = each.known, each.found
            if found.table.gain <= budget.limits.max_gain:
                report(Fit(found.table, CauchyLoss().loss(found.each), found.errors, len(self.few)))
        return known

    def rehearsals(self, goal: Goal, budget: Budget) -> Iterator[Rehearsed]:
        """Yield the rehearsals of the most promising outlines of a goal, each when it is done; arguments as above."""
        tried: set[Outline] = set()
        known, counts, ahead = self, _possible(goal), dict[Outline, float]()
        for number in range(_ROUNDS):
            if number >= _FEWEST_ROUNDS and budget.spent(_FOR_MORE):
                break
            forecast = Forecast(known.response.recording, known.response, self.span.first_fixed)
            ahead = forecast.outlines(counts, goal.budget, ahead)
            counts = tuple(dict.fromkeys(len(outline.at) for outline in ahead))[:_COUNTS]
            for outline in [each for each in ahead if each not in tried][:_EACH]:
                if budget.spent(_FOR_ALL):
                    break
                tried.add(outline)
                found = self._rehearsed(outline, goal.scale, budget.limits.history)
                if found is None:
                    continue
                known = replace(known, response=known.response.with_measured(found.predictions, found.differences))
                yield Rehearsed(number + 1, outline, ahead[outline], found, known)

    def _rehearsed(self, outline: Outline, scale: float | None, history: int | None) -> Rehearsal | None:
        try:
            return rehearse(
                self.student, self.response.recording, outline, self.few, self.span, scale=scale, history=history
            )
        except NoiseSamplingError as error:
            logger.info("an outline is left out: %s", error)
            return None


@final
class Rehearsed(NamedTuple):
    """An outline that ran with the network.

    Attributes:
        round: of the forecasts, from 1.
        outline: the outline.
        promised: the root mean square of its errors, by the forecast.
        found: what the rehearsal gave.
        known: what is known after it.
    """

    round: int
    outline: Outline
    promised: float
    found: Rehearsal
    known: Insight


def _of_each(student: Student, goal: Goal) -> float:
    """The evaluations of the recording of a trajectory."""
    return LEVELS * (student.branches if goal.scale is None else 2.0)


def _possible(goal: Goal) -> tuple[int, ...]:
    """The numbers of queries of a goal for which a recording has enough levels to choose from."""
    return tuple(count for count in goal.levels if count <= LEVELS // 2)
