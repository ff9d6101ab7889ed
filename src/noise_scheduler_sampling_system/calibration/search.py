"""The search for the plan of one number of model calls: starts, trials, the fit, and the gate at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from ..plans.plan import SamplingPlan
from .climb import Climb
from .contest import Contest
from .fit import Fit
from .gate import Gate
from .limits import Clock, Limits
from .measure import Errors
from .refine import refine
from .starts import designed, grown, ranked
from .student import Student
from .table import Table
from .teacher import Trajectories

__all__ = ["STAGES", "Found", "search"]

logger = logging.getLogger(__name__)

#: What a search may do, in this order; each starts from what the one before it found.
STAGES: Final = ("design", "fit", "refine")
#: Of the budget, what judging the built-in samplers on the trajectories that are held out may take on top of it.
_FOR_GATE = 0.1
#: Starts from above are the design and so many built-in samplers.
_BUILT_IN = 4


class Found(NamedTuple):
    """What came of a search.

    Attributes:
        plan: the plan, without provenance.
        kind: "fit", "design", "refine", "grown" (what was found for fewer calls), or the name of the built-in sampler
            that nothing beat.
        training, held_out: its errors.
        built_in: the best built-in samplers with their held-out errors, by root mean square, best first.
        fitted: the best of what was found, by root mean square, with its kind; None: nothing that runs was found.
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
    fitted: tuple[str, Errors] | None
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
    before: tuple[str, Table] | None = None,
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
        before: what was returned for as many, within a smaller budget, and its kind.
    """
    clock = Clock.start(student, len(taught) * nfe, limits)
    span = limits.levels(student.pipeline.scheduler)
    known, interrupted = ranked(student, nfe, taught, clock)
    designs = designed(student, nfe, taught, limits) if "design" in limits.stages else []
    starts = designs + [b.table.limited(limits.history) for b in known if b.table is not None][:_BUILT_IN]
    tables = [("design", table) for table in designs]
    tables += [] if smaller is None else [("grown", grown(smaller, nfe, span)[0])]
    tables += [] if before is None else [before]
    fits: dict[tuple[str, int, int], Fit] = {}  # by stage, number of the start, and phase
    try:
        if "fit" in limits.stages and not interrupted:
            contest = Contest(student, taught, span, clock)
            below = Climb(student, contest.few, span, clock, report).to(nfe, smaller) if resume is None else []
            for number, now in contest.of(below, starts) if resume is None else contest.final({0: resume}, [0]):
                fits["fit", number, now.phase] = now
                report("fit", now)
        ahead = sorted(fits.values(), key=lambda now: (-now.count, now.score))
        candidates = [now.table for now in ahead] or starts
        if "refine" in limits.stages and candidates and not interrupted:
            for now in refine(student, candidates[0], taught, max_gain=limits.max_gain, until=clock.out):
                fits["refine", 0, 0] = now
                report("refine", now)
    except KeyboardInterrupt:
        logger.warning("interrupted: going on with the best so far")
        interrupted = True
    tables += [(stage, now.table) for (stage, _, _), now in fits.items()]
    iterations = sum({key[:2]: now.iterations for key, now in fits.items()}.values())
    gate = Gate(student, taught, held_out)
    built_in = gate.built_in(known, clock.anew(_FOR_GATE))
    ours = gate.found(tables)
    best, training = gate.best(built_in, ours)
    nearest = min(ours, key=lambda each: each.errors.rms, default=None)
    fitted = None if nearest is None else (nearest.kind, nearest.errors)
    leaders = tuple((each.kind, each.errors) for each in built_in)
    return Found(
        best.plan, best.kind, training, best.errors, leaders, fitted, best.table, clock.passes, iterations, interrupted
    )
