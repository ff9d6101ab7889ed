"""The search for the plan of one number of model calls: starts, trials, the fit, and the gate at the end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from ..errors import NoiseSamplingError
from ..plan import SamplingPlan
from .climb import Climb
from .contest import Contest
from .fit import Fit
from .limits import Clock, Limits
from .measure import Errors, errors_of
from .refine import refine
from .starts import designed, grown, ranked
from .student import Student
from .table import Table
from .teacher import Trajectories

__all__ = ["STAGES", "Found", "search"]

logger = logging.getLogger(__name__)

#: What a search may do, in this order; each starts from what the one before it found.
STAGES: Final = ("design", "fit", "refine")
#: So many built-in samplers are judged on the trajectories that are held out.
_LEADERS = 8
#: Starts from above are the design and so many built-in samplers.
_BUILT_IN = 4


class Found(NamedTuple):
    """What came of a search.

    Attributes:
        plan: the plan, without provenance.
        kind: "fit", "design", "refine", "grown" (what was found for fewer calls), or the name of the built-in sampler
            that nothing beat.
        training, held_out: its errors.
        built_in: the best built-in samplers with their held-out errors, best first.
        table: the plan's, None for a built-in sampler.
        passes: runs of all trajectories that it took.
        iterations: of all fits.
        interrupted: by the user; the fit is not done.
    """

    plan: SamplingPlan
    kind: str
    training: Errors
    held_out: Errors
    built_in: tuple[tuple[str, Errors], ...]
    table: Table | None
    passes: float
    iterations: int
    interrupted: bool


#: Told after every iteration: what is being done, and the table so far.
Report = Callable[[str, Fit], None]


def search(
    student: Student,
    nfe: int,
    taught: Trajectories,
    held_out: Trajectories,
    limits: Limits,
    report: Report,
    resume: Fit | None = None,
    smaller: Table | None = None,
) -> Found:
    """Find the plan of so many model calls that ends nearest to where the trajectories end.

    Args:
        student: the model.
        nfe: model calls.
        taught: the trajectories to fit to.
        held_out: others, to choose by.
        limits: what it may spend.
        report: told how it goes.
        resume: a fit to go on with, in place of the trials.
        smaller: what was found for fewer calls, another start.
    """
    clock = Clock.start(student, len(taught) * nfe, limits)
    span = limits.levels(student.pipeline.scheduler)
    known = ranked(student, nfe, taught, clock)
    designs = designed(student, nfe, taught, limits) if "design" in limits.stages else []
    starts = designs[:1] + [b.table.limited(limits.history) for b in known if b.table is not None][:_BUILT_IN]
    tables = [("design", table) for table in designs]
    tables += [] if smaller is None else [("grown", grown(smaller, nfe, span)[0])]
    interrupted = False
    fits: dict[tuple[str, int, int], Fit] = {}  # by stage, number of the start, and phase
    try:
        if "fit" in limits.stages:
            contest = Contest(student, taught, span, clock)
            below = Climb(student, contest.few, span, clock, report).to(nfe, smaller) if resume is None else []
            for number, now in contest.of(below, starts) if resume is None else contest.final({0: resume}, [0]):
                fits["fit", number, now.phase] = now
                report("fit", now)
        ahead = sorted(fits.values(), key=lambda now: (-now.count, now.errors.weighed))
        candidates = [now.table for now in ahead] or starts
        if "refine" in limits.stages and candidates:
            for now in refine(student, candidates[0], taught, max_gain=limits.max_gain, until=clock.out):
                fits["refine", 0, 0] = now
                report("refine", now)
    except KeyboardInterrupt:
        logger.warning("interrupted: going on with the best so far")
        interrupted = True
    tables += [(stage, now.table) for (stage, _, _), now in fits.items()]
    iterations = sum({key[:2]: now.iterations for key, now in fits.items()}.values())
    built_in = [_Candidate(_judge(student, b.plan, held_out), b.name, b.plan, None) for b in known[:_LEADERS]]
    built_in.sort(key=lambda each: each.errors.rms)
    judged = [_judged(student, kind, table, held_out) for kind, table in tables]
    best = _gate(built_in, [each for each in judged if each is not None])
    training = _judge(student, best.plan, taught)
    leaders = tuple((each.kind, each.errors) for each in built_in)
    return Found(
        best.plan, best.kind, training, best.errors, leaders, best.table, clock.passes, iterations, interrupted
    )


class _Candidate(NamedTuple):
    """Something that may be returned, with its errors on held-out trajectories."""

    errors: Errors
    kind: str
    plan: SamplingPlan
    table: Table | None


def _judged(student: Student, kind: str, table: Table, held_out: Trajectories) -> _Candidate | None:
    """A table as a candidate; None if it overflows on new noise."""
    try:
        plan = table.plan(start="query", sampler="calibrated")
        return _Candidate(_judge(student, plan, held_out), kind, plan, table)
    except NoiseSamplingError as error:
        logger.info("%s left out: %s", kind, error)
        return None


def _gate(built_in: list[_Candidate], found: list[_Candidate]) -> _Candidate:
    """The best of all, but nothing with a larger root mean square than the best built-in sampler's."""
    worst = min((each.errors.rms for each in built_in), default=math.inf)
    allowed = [each for each in (*built_in, *found) if each.errors.rms <= worst]
    return min(allowed or [*built_in, *found], key=lambda each: each.errors.weighed)


def _judge(student: Student, plan: SamplingPlan, on: Trajectories) -> Errors:
    return errors_of(student.run(plan, on.noise, on.rows), on.solution)
