"""The choice of the plan to return: the best on held-out trajectories, of the tables found and the built-in samplers.

The best built-in sampler is the one with the least root mean square over trajectories; the command's table and the plot
use the same rule. A plan with a larger root mean square than that is not returned, however small its median, because
a few of its samples would end elsewhere. Where the held-out trajectories cannot tell, because the difference of the
mean squares is below its own standard error, the trajectories of the fit are counted, too. Among the others
:attr:`Errors.weighed` decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from torch import Tensor

from ...analysis.solution import each_error
from ...plans.plan import SamplingPlan
from ...support.errors import ModelOutputError, NoiseSamplingError, NumericsError
from ..budget import Budget
from ..fit.fit import Fit
from ..goal import Goal
from ..measurement import Measurement
from ..student import Student
from ..table import Table
from ..trajectories import Errors, Trajectories, errors_of
from .built_in import Baseline

__all__ = ["Candidate", "Choice", "Gate", "Pooled"]

logger = logging.getLogger(__name__)

#: The number of built-in samplers that are judged whatever the budget.
_LEADERS = 5


class Candidate(NamedTuple):
    """A plan that may be returned.

    Attributes:
        each: its error on each held-out trajectory, shape (n,).
        measured: these errors with their standard errors.
        kind: what made it: a stage, "outline", "grown", or a built-in sampler's name.
        plan: the plan.
        table: its table, None for a built-in sampler.
        training: its errors on the trajectories of the fit, where a fit has measured them.
    """

    each: Tensor
    measured: Measurement
    kind: str
    plan: SamplingPlan
    table: Table | None
    training: Errors | None = None

    @property
    def errors(self) -> Errors:
        """Its errors on the held-out trajectories."""
        return Errors(self.measured.rms, self.measured.median)


class Pooled(NamedTuple):
    """A comparison on the trajectories of the fit and the held-out ones together.

    Attributes:
        trajectories: their number.
        rms: the root mean square of the returned plan over all of them.
        built_in: the name of the sampler with the least root mean square on the held-out ones.
        built_in_rms: that of this sampler over all of them.
    """

    trajectories: int
    rms: float
    built_in: str
    built_in_rms: float


class Choice(NamedTuple):
    """What a gate chose.

    Attributes:
        best: the plan.
        training: its errors on the trajectories of the fit.
        pooled: the comparison that decided where the held-out trajectories could not tell, or None.
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
        """Judge built-in samplers in the given order, at least 5 and as many as the budget allows.

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
        rival = min(built_in, key=lambda each: each.errors.rms, default=None)
        for candidate in sorted((*built_in, *found), key=lambda each: each.errors.weighed):
            doubtful = rival is not None and candidate.errors.rms > rival.errors.rms
            if doubtful and (candidate.table is None or not _undecided(candidate, rival)):
                continue
            training = self._training(candidate)
            if training is None:
                continue
            pooled = self._pooled(candidate, training, rival) if doubtful else None
            if doubtful and (pooled is None or pooled.rms > pooled.built_in_rms):
                continue
            return Choice(candidate, training, pooled)
        raise ModelOutputError(
            "overflows with every plan",
            where="model",
            suggestion="see with sample() that it runs with a built-in sampler",
        )

    def _pooled(self, candidate: Candidate, training: Errors, rival: Candidate) -> Pooled | None:
        """Compare a candidate and a built-in sampler on all trajectories; None if the sampler overflows on some."""
        theirs = self._training(rival)
        if theirs is None:
            return None
        counts = (len(self.held_out), len(self.taught))

        def rms(*parts: Errors) -> float:
            squares = sum(count * errors.rms**2 for count, errors in zip(counts, parts, strict=True))
            return math.sqrt(squares / sum(counts))

        ours, built_in = rms(candidate.errors, training), rms(rival.errors, theirs)
        logger.info(
            "held-out trajectories cannot tell %s from %s; root mean squares over all: %.3g and %.3g",
            candidate.kind, rival.kind, ours, built_in,
        )  # fmt: skip
        return Pooled(sum(counts), ours, rival.kind, built_in)

    def _training(self, candidate: Candidate) -> Errors | None:
        """The errors of a candidate on the trajectories of the fit; None if it overflows there."""
        if candidate.training is not None:
            return candidate.training
        end = self._run(candidate.kind, candidate.plan, self.taught)
        return None if end is None else errors_of(end, self.taught.solution)

    def _judged(
        self, kind: str, plan: SamplingPlan, table: Table | None = None, training: Errors | None = None
    ) -> list[Candidate]:
        end, exact = self._run(kind, plan, self.held_out), self.held_out.solution
        if end is None:
            return []
        return [Candidate(each_error(end, exact), Measurement.of(end, exact), kind, plan, table, training)]

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
    """Tell whether the difference of the mean squares of two plans is below its standard error.

    Both ran on the same trajectories, and most of what they share cancels. Fewer than 4 trajectories tell nothing.
    """
    difference = candidate.each.double().square() - rival.each.double().square()
    count = len(difference)
    return count >= 4 and float(difference.mean()) < float(difference.std()) / math.sqrt(count)
