"""The choice of the plan to return: the best on held-out trajectories, of the tables found and the built-in samplers.

The best built-in sampler is the one with the least root mean square over trajectories; the command's table and the plot
use the same rule. A plan with a larger root mean square than that is never returned, however small its median, because
a few of its samples would end elsewhere. Among the others :attr:`Errors.weighed` decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from ...plans.plan import SamplingPlan
from ...support.errors import ModelOutputError, NoiseSamplingError, NumericsError
from ..budget import Budget
from ..fit.fit import Fit
from ..goal import Goal
from ..student import Student
from ..table import Table
from ..trajectories import Errors, Trajectories, errors_of
from .built_in import Baseline

__all__ = ["Candidate", "Gate"]

logger = logging.getLogger(__name__)

#: The number of built-in samplers that are judged whatever the budget.
_LEADERS = 5


class Candidate(NamedTuple):
    """A plan that may be returned.

    Attributes:
        errors: its errors on held-out trajectories.
        kind: what made it: a stage, "outline", "grown", or a built-in sampler's name.
        plan: the plan.
        table: its table, None for a built-in sampler.
        training: its errors on the trajectories of the fit, where a fit has measured them.
    """

    errors: Errors
    kind: str
    plan: SamplingPlan
    table: Table | None
    training: Errors | None = None


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

    def best(self, built_in: Sequence[Candidate], found: Sequence[Candidate]) -> tuple[Candidate, Errors]:
        """Return the best candidate and its errors on the trajectories of the fit.

        Its root mean square is at most that of the best built-in sampler.

        Raises:
            ModelOutputError: the model overflows with every candidate.
        """
        worst = min((each.errors.rms for each in built_in), default=math.inf)
        allowed = [each for each in (*built_in, *found) if each.errors.rms <= worst]
        for candidate in sorted(allowed, key=lambda each: each.errors.weighed):
            training = candidate.training or self._errors(candidate.kind, candidate.plan, self.taught)
            if training is not None:
                return candidate, training
        raise ModelOutputError(
            "overflows with every plan",
            where="model",
            suggestion="see with sample() that it runs with a built-in sampler",
        )

    def _judged(
        self, kind: str, plan: SamplingPlan, table: Table | None = None, training: Errors | None = None
    ) -> list[Candidate]:
        errors = self._errors(kind, plan, self.held_out)
        return [] if errors is None else [Candidate(errors, kind, plan, table, training)]

    def _errors(self, kind: str, plan: SamplingPlan, on: Trajectories) -> Errors | None:
        """Return the errors of a plan, or None if it overflows."""
        try:
            try:
                end = self.student.run(plan, on.noise, on.rows)
            except KeyboardInterrupt:  # the search is done, and its result would be lost
                logger.warning("interrupted while plans are judged: going on; interrupt again to end without a plan")
                end = self.student.run(plan, on.noise, on.rows)
        except NoiseSamplingError as error:
            logger.info("%s left out: %s", kind, error)
            return None
        return errors_of(end, on.solution)
