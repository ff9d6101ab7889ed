"""What is returned: the best on trajectories that no fit has seen, of what was found and of the built-in samplers.

One rule says which built-in sampler is the best, in the choice, the command's table and the plot: the root mean square
over trajectories. Nothing is returned whose root mean square is larger, however small its median: a few samples would
end elsewhere. Among what is not, :attr:`Errors.weighed` decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from ..plans.plan import SamplingPlan
from ..support.errors import ModelOutputError, NoiseSamplingError, NumericsError
from .baselines import Baseline
from .limits import Clock
from .measure import Errors, errors_of
from .student import Student
from .table import Table
from .teacher import Trajectories

__all__ = ["Candidate", "Gate"]

logger = logging.getLogger(__name__)

#: So many built-in samplers are judged in any case.
_LEADERS = 8


class Candidate(NamedTuple):
    """Something that may be returned, with its errors on held-out trajectories."""

    errors: Errors
    kind: str
    plan: SamplingPlan
    table: Table | None


@final
@dataclass(frozen=True)
class Gate:
    """Judges plans on trajectories that are held out.

    Attributes:
        student: the model.
        taught: the trajectories of the fit, on which a plan has to run, too.
        held_out: the others.
    """

    student: Student
    taught: Trajectories
    held_out: Trajectories

    def built_in(self, known: Iterable[Baseline], clock: Clock) -> list[Candidate]:
        """Built-in samplers in the order given, as many as the clock allows, but some; smallest errors first."""
        made: list[Candidate] = []
        for baseline in known:
            if len(made) >= _LEADERS and clock.out():
                break
            made += self._judged(baseline.name, baseline.plan, None)
        return sorted(made, key=lambda each: each.errors.rms)

    def found(self, tables: Iterable[tuple[str, Table]]) -> list[Candidate]:
        """Tables, each with what it came of; those that no plan can hold are left out."""
        made: list[Candidate] = []
        for kind, table in tables:
            try:
                plan = table.plan(start="query", sampler="calibrated")
            except NumericsError as error:
                logger.info("%s is left out: %s", kind, error)
                continue
            made += self._judged(kind, plan, table)
        return made

    def best(self, built_in: Sequence[Candidate], found: Sequence[Candidate]) -> tuple[Candidate, Errors]:
        """The best, and its errors on the trajectories of the fit. Nothing that was found has a larger root mean
        square than the best built-in sampler.

        Raises:
            ModelOutputError: the model overflows with all of them.
        """
        worst = min((each.errors.rms for each in built_in), default=math.inf)
        allowed = [each for each in (*built_in, *found) if each.errors.rms <= worst]
        for candidate in sorted(allowed, key=lambda each: each.errors.weighed):
            training = self._errors(candidate.kind, candidate.plan, self.taught)
            if training is not None:
                return candidate, training
        raise ModelOutputError(
            "overflows with every plan",
            where="model",
            suggestion="see with sample() that it runs with a built-in sampler",
        )

    def _judged(self, kind: str, plan: SamplingPlan, table: Table | None) -> list[Candidate]:
        errors = self._errors(kind, plan, self.held_out)
        return [] if errors is None else [Candidate(errors, kind, plan, table)]

    def _errors(self, kind: str, plan: SamplingPlan, on: Trajectories) -> Errors | None:
        """The errors of a plan; none if it overflows."""
        try:
            try:
                end = self.student.run(plan, on.noise, on.rows)
            except KeyboardInterrupt:  # everything is found, and would be lost
                logger.warning("interrupted while plans are judged: going on; interrupt again to end without a plan")
                end = self.student.run(plan, on.noise, on.rows)
        except NoiseSamplingError as error:
            logger.info("%s left out: %s", kind, error)
            return None
        return errors_of(end, on.solution)
