"""The fits of a search: from the best start first, on as many trajectories as the budget allows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

from ...support.errors import NoiseSamplingError
from ..budget import Budget
from ..fit.fit import Fit, cost_of_iteration, enough, fit
from ..level_range import LevelRange
from ..student import Student
from ..table import Table
from ..trajectories import Trajectories

__all__ = ["fits"]

logger = logging.getLogger(__name__)

#: The share of the budget that the fit may spend where its result is refined.
_BEFORE_REFINEMENT: Final = 0.7
#: Where all trajectories leave fewer iterations than this, a fit begins with a part of them.
_ENOUGH: Final = 8
#: The least trajectories of a part.
_FEWEST: Final = 64


@final
@dataclass(frozen=True)
class _Sizes:
    """How many trajectories the iterations of a fit take: a part while few passes are left, and all in the last one.

    An iteration with a part costs less. The root mean square of all rests on the few trajectories that end elsewhere,
    so the last iteration that the budget allows sees all of them.

    Attributes:
        budget: what may be spent.
        share: of the budget that the fit may spend.
        table: where the fit begins.
        span: the range of the levels.
        taught: all trajectories.
        few: the part.
    """

    budget: Budget
    share: float
    table: Table
    span: LevelRange
    taught: Trajectories
    few: int

    @classmethod
    def of(cls, budget: Budget, share: float, table: Table, span: LevelRange, taught: Trajectories) -> _Sizes:
        """Halve the trajectories until the budget is enough for the iterations."""
        made = cls(budget, share, table, span, taught, len(taught))
        left = budget.left(share)
        while made.few >= 2 * _FEWEST and left < _ENOUGH * made.cost(made.few, made.few):
            made = replace(made, few=made.few // 2)
        return made

    def cost(self, count: int, known: int) -> float:
        """Return the passes of an iteration, with the runs of the trajectories whose ends are not known yet.

        The first iteration also runs a few trajectories for the units of the numbers.
        """
        part = self.taught.part(0, count)
        of_iteration = cost_of_iteration(self.table, self.span, part) * count
        return (of_iteration + count - known + (0 if known else enough(part))) / len(self.taught)

    def after(self, known: int) -> int:
        """Return the trajectories of the next iteration, after those whose ends are known.

        It takes all where the budget has no room for another iteration with the part before one of all.
        """
        part, everything, left = max(self.few, known), len(self.taught), self.budget.left(self.share)
        last = self.cost(everything, part)
        return everything if last <= left < self.cost(part, known) + last else part

    def affords(self, count: int, known: int) -> bool:
        """Return whether an iteration is within the budget."""
        return self.cost(count, known) <= self.budget.left(self.share)


def fits(
    student: Student,
    starts: Sequence[Table],
    taught: Trajectories,
    span: LevelRange,
    budget: Budget,
    resume: Fit | None,
) -> Iterator[tuple[int, Fit]]:
    """Fit the best start until it no longer gets better, then the next one, while the next iteration fits the budget.

    The best start gets at least one iteration.

    Where a fit ends is a local minimum, so the start matters. Trials of several starts would take iterations from
    the fit (``benchmarks/calibration_ablation.py``, "trials of 4 starts").

    Args:
        student: the model.
        starts: the starts, best first.
        taught: the trajectories.
        span: the range of the levels.
        budget: what may be spent.
        resume: a fit to continue in place of all starts.

    Yields:
        The number of the start, and the state of its fit after every iteration.
    """
    share = _BEFORE_REFINEMENT if "refine" in budget.limits.stages else 1.0
    for number, start in enumerate(starts if resume is None else [resume.table]):
        sizes = _Sizes.of(budget, share, start, span, taught)
        if number and not sizes.affords(sizes.after(0), 0):  # the first start has an iteration in any case
            return
        made = fit(student, start, span, taught, max_gain=budget.limits.max_gain, resume=resume, counts=sizes.after)
        try:
            for now in made:
                yield number, now
                ahead = len(taught) if now.converged else sizes.after(now.count)
                if not sizes.affords(ahead, now.count):
                    return
        except NoiseSamplingError as error:
            logger.info("a start is left out: %s", error)
