"""The search for the plan of one number of model calls: starts, fits, and the gate at the end."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from ...plans.plan import SamplingPlan
from ..budget import FOR_GATE, Budget, Limits
from ..fit.fit import Fit, enough
from ..fit.refine import refine
from ..goal import Goal
from ..outlines.insight import Insight
from ..student import Student
from ..table import Table
from ..trajectories import Errors, Trajectories
from .built_in import cached, ranked
from .fits import fits
from .gate import Gate, Pooled
from .starts import BUILT_IN, GROWN, OUTLINE, Start, best_first, designed, grown, worth_judging

__all__ = ["STAGES", "Found", "Learned", "search"]

logger = logging.getLogger(__name__)

#: The stages of a search, in the order in which they run.
STAGES: Final = ("design", "fit", "refine")
#: The number of built-in samplers among the starts.
_BUILT_IN = 2
#: Starts are compared on this part of the trajectories where none were recorded.
_PART = 0.25

#: Called after every iteration with the stage and the state of the fit.
Report = Callable[[str, Fit], None]


class Learned(NamedTuple):
    """What a search leaves for the searches of more calls or evaluations of the same model.

    Attributes:
        insight: what it knows of the model. None: nothing was recorded.
        leaders: the names of the built-in samplers that were ranked highest, best first.
    """

    insight: Insight | None = None
    leaders: tuple[str, ...] = ()


class Found(NamedTuple):
    """The result of a search.

    Attributes:
        plan: the plan, without provenance. With a goal in evaluations it holds its guidance.
        kind: "fit", "refine", "design", "outline" (a start of fits), "grown" (the plan of fewer calls with more
            queries), or the name of the built-in sampler that nothing beat.
        training: the plan's errors on the trajectories of the fit.
        held_out: its errors on the held-out trajectories.
        pooled: of :class:`Choice`.
        built_in: the best built-in samplers and their held-out errors, by root mean square, best first.
        fitted: the kind and the held-out errors of the best table that was found, by root mean square. None: no table
            runs without overflow.
        table: the plan's table, None for a built-in sampler.
        passes: the number of runs of all trajectories.
        iterations: of all fits.
        interrupted: whether the user interrupted the search.
        learned: for the searches of more calls.
    """

    plan: SamplingPlan
    kind: str
    training: Errors
    held_out: Errors
    pooled: Pooled | None
    built_in: tuple[tuple[str, Errors], ...]
    fitted: tuple[str, Errors] | None
    table: Table | None
    passes: float
    iterations: int
    interrupted: bool
    learned: Learned


def search(
    student: Student,
    goal: Goal,
    taught: Trajectories,
    held_out: Trajectories,
    limits: Limits,
    report: Report,
    resume: Fit | None = None,
    smaller: Table | None = None,
    before: tuple[str, Table] | None = None,
    learned: Learned | None = None,
) -> Found:
    """Find the plan of a number of model calls or evaluations whose runs end nearest to where the trajectories end.

    Args:
        student: the model.
        goal: the number of calls or evaluations.
        taught: the trajectories to fit to.
        held_out: other trajectories, to choose by.
        limits: what the search may spend.
        report: called after every iteration of a fit.
        resume: a fit to continue, in place of fits from new starts.
        smaller: the table that was found for fewer calls or evaluations, another start.
        before: the kind and the table of the plan of as many calls that was found within a smaller budget.
        learned: what the search for fewer calls or evaluations left.
    """
    budget, nfe = Budget.start(student, len(taught) * goal.budget, limits), goal.calls
    span = limits.levels(student.pipeline.scheduler)
    insight, leaders = learned or Learned()
    known, interrupted = ranked(student, nfe, taught, budget, leaders)
    designs = designed(student, nfe, taught, limits) if "design" in limits.stages else []
    starts = [Start("design", goal.folded(table)) for table in designs]
    if smaller is not None:
        starts.append(Start(GROWN, grown(smaller, smaller.nfe + goal.budget - smaller.evaluations, span)))
    tables = (goal.folded(each.table.limited(limits.history)) for each in known if each.table is not None)
    starts += [Start(BUILT_IN, table) for table in itertools.islice(tables, _BUILT_IN)]
    ends: dict[tuple[int, int], Fit] = {}  # by the number of the start and the phase
    refined: Fit | None = None

    def tell(now: Fit) -> None:
        starts.append(Start(OUTLINE, now.table, now.errors))
        report(OUTLINE, now)

    try:
        if "fit" in limits.stages and not interrupted:
            if resume is None:
                insight = insight or Insight.of(student, goal, taught, span, budget)
                few = taught.part(0, max(enough(taught), int(_PART * len(taught))))
                if insight is not None:
                    insight, few = insight.explored(goal, budget, tell), insight.few
                starts = best_first(student, starts, few, span, limits.max_gain)
            for number, now in fits(student, [start.table for start in starts], taught, span, budget, resume):
                ends[number, now.phase] = now
                report("fit", now)
        if "refine" in limits.stages and not interrupted:
            ahead = [now.table for now in sorted(ends.values(), key=lambda now: (-now.count, now.score))]
            ahead += [start.table for start in starts]
            for table in ahead[:1]:
                for now in refine(student, table, taught, max_gain=limits.max_gain, until=budget.spent):
                    refined = now
                    report("refine", now)
    except KeyboardInterrupt:
        logger.warning("interrupted: going on with the best so far")
        interrupted = True
    found: list[tuple[str, Table, Fit | None]] = [] if before is None else [(*before, None)]
    found += [(each.kind, each.table, None) for each in worth_judging(starts, fitted=bool(ends))]
    found += [("fit", now.table, now) for now in ends.values()]
    found += [] if refined is None else [("refine", refined.table, refined)]
    iterations = sum({number: now.iterations for (number, _), now in ends.items()}.values())
    iterations += 0 if refined is None else refined.iterations
    gate = Gate(student, taught, held_out)
    built_in = gate.built_in((*known[:1], *cached(known, student, goal, limits), *known[1:]), budget.another(FOR_GATE))
    ours = gate.found(found)
    best, training, pooled = gate.best(built_in, ours)
    nearest = min(ours, key=lambda each: each.errors.rms, default=None)
    fitted = None if nearest is None else (nearest.kind, nearest.errors)
    judged = tuple((each.kind, each.errors) for each in built_in)
    return Found(
        goal.holding(best.plan), best.kind, training, best.errors, pooled, judged, fitted, best.table,
        budget.passes, iterations, interrupted, Learned(insight, tuple(each.name for each in known)),
    )  # fmt: skip
