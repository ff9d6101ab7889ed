"""The fits of a search: from the best start first, on as many trajectories as the budget allows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, final

from ...support.errors import NoiseSamplingError
from ..budget import Budget
from ..fit.fit import Fit, cost_of_iteration, fit
from ..level_range import LevelRange
from ..student import Student
from ..table import Table
from ..trajectories import Trajectories

__all__ = ["fits"]

logger = logging.getLogger(__name__)

#: The share of the budget that the fit may spend where its result is refined.
_BEFORE_REFINEMENT: Final = 0.7
#: Where all trajectories leave fewer iterations than this, a fit begins with a part of them, at least so many, and ends
#: with so many iterations of all.
_ENOUGH: Final = 8
_FEWEST: Final = 64
_OF_ALL: Final = 1


@final
@dataclass(frozen=True)
class _Sizes:
    """How many trajectories the next iteration of a fit takes: a part while few passes are left, and all at the end.

    A small part finds most of the way in half the passes. The root mean square of all rests on the few trajectories
    that end elsewhere, so the last iteration sees all of them.

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
        few, left = len(taught), budget.left(share)
        while few >= 2 * _FEWEST and left < _ENOUGH * _cost(table, span, taught, few):
            few //= 2
        return cls(budget, share, table, span, taught, few)

    def cost(self, count: int) -> float:
        """The passes of an iteration."""
        return _cost(self.table, self.span, self.taught, count)

    def __call__(self) -> int:
        everything = len(self.taught)
        ahead = self.cost(self.few) + _OF_ALL * self.cost(everything)
        return self.few if self.budget.left(self.share) > ahead else everything


def _cost(table: Table, span: LevelRange, taught: Trajectories, count: int) -> float:
    """The passes of an iteration with some of the trajectories."""
    return cost_of_iteration(table, span, taught.part(0, count)) * count / len(taught)


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
        if number and budget.left(share) < sizes.cost(sizes.few):  # the first start has an iteration in any case
            return
        try:
            for now in fit(student, start, span, taught, max_gain=budget.limits.max_gain, resume=resume, counts=sizes):
                yield number, now
                if budget.left(share) < sizes.cost(now.count):
                    return
        except NoiseSamplingError as error:
            logger.info("a start is left out: %s", error)
