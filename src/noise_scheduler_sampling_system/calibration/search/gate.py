"""The choice of the plan to return: the best on held-out trajectories, of the tables found and the built-in samplers.

The best built-in sampler is the one with the least root mean square over trajectories; the command's table and the plot
use the same rule. A plan with a larger root mean square than that is not returned, however small its median, because
a few of its samples would end elsewhere. Where the held-out trajectories cannot tell, because the difference of the
mean squares is below two of its own standard errors, the trajectories of the fit are counted, too. Among the others
:attr:`Errors.weighed` decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from torch import Tensor

from ...analysis.solution import each_error
from ...plans.plan import SamplingPlan
from ...support.errors import ModelOutputError, NoiseSamplingError, NumericsError
from ..budget import Budget
from ..fit.fit import Fit
from ..goal import Goal
from ..student import Student
from ..table import Table
from ..trajectories import Errors, Trajectories, errors_of
from .built_in import Baseline

__all__ = ["Candidate", "Choice", "Gate", "Pooled"]

logger = logging.getLogger(__name__)

#: The number of built-in samplers that are judged whatever the budget.
_LEADERS: Final = 3
#: Differences of fewer standard errors than this may be chance.
_DOUBT: Final = 2.0
#: The built-in samplers that a table is compared with on all trajectories, each for a run of those of the fit. The
#: least of several near ties on the held-out trajectories looks worse on others.
_RIVALS: Final = 2


class Candidate(NamedTuple):
    """A plan that may be returned.

    Attributes:
        each: its error on each held-out trajectory, shape (n,).
        kind: what made it: a stage, "outline", "grown", or a built-in sampler's name.
        plan: the plan.
        table: its table, None for a built-in sampler.
        training: its errors on the trajectories of the fit, where a fit has measured them.
    """

    each: Tensor
    kind: str
    plan: SamplingPlan
    table: Table | None
    training: Errors | None = None

    @property
    def errors(self) -> Errors:
        """Its errors on the held-out trajectories."""
        return Errors.of(self.each)


class Pooled(NamedTuple):
    """A comparison on the trajectories of the fit and the held-out ones together.

    Attributes:
        trajectories: their number.
        kind: of the table.
        rms: its root mean square over all of them. Where its median on the held-out ones is larger than on those of the
            fit, its errors on the latter count larger by this factor: a fit to few trajectories knows them too well.
        built_in: the name of the sampler with the least root mean square over all of them, of the best two on the
            held-out ones.
        built_in_rms: that of this sampler.
    """

    trajectories: int
    kind: str
    rms: float
    built_in: str
    built_in_rms: float

    @property
    def holds(self) -> bool:
        """Whether the table is not worse."""
        return self.rms <= self.built_in_rms


class Choice(NamedTuple):
    """What a gate chose.

    Attributes:
        best: the plan.
        training: its errors on the trajectories of the fit.
        pooled: the comparison that decided for a table, or against one for a built-in sampler, because the held-out
            trajectories could not tell them apart; None: they could.
    """

    best: Candidate
    training: Errors
    pooled: Pooled | None = None


@final
@dataclass(frozen=True)
class Gate:
    """Judges plans on trajectories that are held out.

    Attributes:
        student: the model.
        taught: the trajectories of the fit. A plan must run on them without overflow, too.
        held_out: the trajectories to choose by.
    """

    student: Student
    taught: Trajectories
    held_out: Trajectories

    @staticmethod
    def cost(goal: Goal, taught: Trajectories, held_out: Trajectories) -> float:
        """Estimate the evaluations of a choice: the leaders, as many tables, and the training errors of one.

        The last are known where a fit wins that took all trajectories, but not where a start wins.
        """
        return goal.budget * (2.0 * _LEADERS * len(held_out) + len(taught))

    def built_in(self, known: Iterable[Baseline], budget: Budget) -> list[Candidate]:
        """Judge built-in samplers in the given order, at least 3 and as many as the budget allows.

        Returns:
            The ones that do not overflow, by root mean square, best first.
        """
        made: list[Candidate] = []
        for baseline in known:
            if len(made) >= _LEADERS and budget.spent():
                break
            made += self._judged(baseline.name, baseline.plan)
        return sorted(made, key=lambda each: each.errors.rms)

    def found(self, tables: Iterable[tuple[str, Table, Fit | None]]) -> list[Candidate]:
        """Judge tables, each given with its kind and the fit that ended with it, if any.

        Tables that cannot be a plan, or that overflow, are left out.
        """
        made: list[Candidate] = []
        for kind, table, fitted in tables:
            training = fitted.errors if fitted is not None and fitted.count == len(self.taught) else None
            try:
                plan = table.plan(start="query", sampler="calibrated")
            except NumericsError as error:
                logger.info("%s is left out: %s", kind, error)
                continue
            made += self._judged(kind, plan, table, training)
        return made

    def best(self, built_in: Sequence[Candidate], found: Sequence[Candidate]) -> Choice:
        """Return the best candidate that is not worse than the best built-in sampler.

        Raises:
            ModelOutputError: the model overflows with every candidate.
        """
        training = self._remembered()
        rivals = sorted(built_in, key=lambda each: each.errors.rms)
        refused: Pooled | None = None
        for candidate in sorted((*built_in, *found), key=lambda each: each.errors.weighed):
            doubtful = bool(rivals) and candidate.errors.rms > rivals[0].errors.rms
            if doubtful and (candidate.table is None or not _undecided(candidate, rivals[0])):
                continue
            own = training(candidate)
            if own is None:
                continue
            pooled = self._pooled(candidate, own, rivals, training) if doubtful else None
            if doubtful and not (pooled is not None and pooled.holds):
                refused = refused or pooled
                continue
            return Choice(candidate, own, refused if candidate.table is None else pooled)
        if len(rivals) > 1:  # the best one overflows on the trajectories of the fit
            return self.best(rivals[1:], found)
        raise ModelOutputError(
            "overflows with every plan",
            where="model",
            suggestion="see with sample() that it runs with a built-in sampler",
        )

    def _pooled(
        self,
        table: Candidate,
        own: Errors,
        rivals: Sequence[Candidate],
        training: Callable[[Candidate], Errors | None],
    ) -> Pooled | None:
        """Compare a table on all trajectories with the built-in samplers that are best on the held-out ones.

        None: all of these overflow on the trajectories of the fit.
        """
        known = [
            (self._over_all(each.errors, theirs), each.kind) for each in rivals[:_RIVALS] if (theirs := training(each))
        ]
        if not known:
            return None
        optimism = max(1.0, table.errors.median / own.median) if own.median > 0.0 else 1.0
        rms, (least, name) = self._over_all(table.errors, own, optimism), min(known)
        logger.info(
            "held-out trajectories cannot tell %s from %s; root mean squares over all: %.3g and %.3g",
            table.kind, name, rms, least,
        )  # fmt: skip
        return Pooled(len(self.held_out) + len(self.taught), table.kind, rms, name, least)

    def _over_all(self, held_out: Errors, training: Errors, optimism: float = 1.0) -> float:
        """Return the root mean square over all trajectories."""
        counts = len(self.held_out), len(self.taught)
        squares = counts[0] * held_out.rms**2 + counts[1] * (optimism * training.rms) ** 2
        return math.sqrt(squares / sum(counts))

    def _remembered(self) -> Callable[[Candidate], Errors | None]:
        """Return a function that gives the errors of candidates on the trajectories of the fit, each run once.

        They are None for a candidate that overflows there.
        """
        known: dict[int, Errors | None] = {}

        def training(candidate: Candidate) -> Errors | None:
            if candidate.training is not None:
                return candidate.training
            if id(candidate) not in known:
                end = self._run(candidate.kind, candidate.plan, self.taught)
                known[id(candidate)] = None if end is None else errors_of(end, self.taught.solution)
            return known[id(candidate)]

        return training

    def _judged(
        self, kind: str, plan: SamplingPlan, table: Table | None = None, training: Errors | None = None
    ) -> list[Candidate]:
        end = self._run(kind, plan, self.held_out)
        return [] if end is None else [Candidate(each_error(end, self.held_out.solution), kind, plan, table, training)]

    def _run(self, kind: str, plan: SamplingPlan, on: Trajectories) -> Tensor | None:
        """Return the samples of a plan, or None if it overflows."""
        try:
            try:
                return self.student.run(plan, on.noise, on.rows)
            except KeyboardInterrupt:  # the search is done, and its result would be lost
                logger.warning("interrupted while plans are judged: going on; interrupt again to end without a plan")
                return self.student.run(plan, on.noise, on.rows)
        except NoiseSamplingError as error:
            logger.info("%s left out: %s", kind, error)
            return None


def _undecided(candidate: Candidate, rival: Candidate) -> bool:
    """Tell whether the difference of the mean squares of two plans is below two of its standard errors.

    Both ran on the same trajectories, so the errors that they share cancel. Fewer than 4 trajectories have no standard
    error, and then the held-out ones decide.
    """
    difference = candidate.each.double().square() - rival.each.double().square()
    count = len(difference)
    return count >= 4 and float(difference.mean()) < _DOUBT * float(difference.std()) / math.sqrt(count)
