"""The search for the plan of one number of model calls: starts, trials, the fit, and the gate at the end."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from ..errors import NoiseSamplingError
from ..plan import SamplingPlan
from .climb import Climb
from .fit import Fit, cost_of_iteration, enough, fit, step_for
from .limits import Clock, Limits
from .measure import Errors, errors_of
from .refine import refine
from .starts import best_starts, designed, grown, ranked
from .student import Student
from .table import LevelRange, Table
from .teacher import Trajectories

__all__ = ["STAGES", "Found", "search"]

logger = logging.getLogger(__name__)

#: What a search may do, in this order; each starts from what the one before it found.
STAGES: Final = ("design", "fit", "refine")
#: So many built-in samplers are judged on the trajectories that are held out.
_LEADERS = 8
#: Starts are the design, so many built-in samplers, and what was found for fewer calls; each as it is or with its
#: rows regressed, what is better. So many are tried for so many iterations, on a part of the trajectories, at most so
#: many.
_BUILT_IN, _STARTS, _TRIAL, _PART, _TRIED_ON = 4, 6, 3, 0.25, 512
#: The best of each kind, if not worse than the other by more than a factor, are fitted to all for so many iterations;
#: the better one goes on to the end, then the others.
_WORSE, _HEAT = 1.5, 6
#: Of the budget, what may be gone after the trials, and after the fit where it is refined.
_FOR_TRIALS, _FOR_FIT = 0.4, 0.7


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
    fitted: list[Table] = []
    interrupted = False
    fits: dict[tuple[str, int, int], Fit] = {}  # by stage, number of the start, and phase
    try:
        if "fit" in limits.stages:
            if resume is None:
                fitted = Climb(student, _some(taught), span, clock, report).to(nfe, smaller)
            for number, now in _fits(student, fitted, starts, taught, span, clock, resume):
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


def _fits(
    student: Student,
    climbed: list[Table],
    starts: list[Table],
    taught: Trajectories,
    span: LevelRange,
    clock: Clock,
    resume: Fit | None,
) -> Iterator[tuple[int, Fit]]:
    """Short fits of the best starts on some of the trajectories, then fits on all, from the best of them on, as long
    as the limits allow: where one ends is a local minimum. Yields the number of the start and its fit."""
    limits, step = clock.limits, step_for(student)
    latest: dict[int, Fit] = {}
    for number, now in (
        _trials(student, climbed, starts, taught, span, clock, step) if resume is None else [(0, resume)]
    ):
        latest[number] = now
        yield number, now
    order = sorted(latest, key=lambda number: latest[number].errors.weighed)
    limit = _WORSE * min((now.errors.weighed for now in latest.values()), default=0.0)
    kinds = [[number for number in order if (number < len(climbed)) is kind] for kind in (True, False)]
    finalists = [kind[0] for kind in kinds if kind and latest[kind[0]].errors.weighed <= limit]
    runs = {
        number: fit(student, now.table, span, taught, max_gain=limits.max_gain, step=step, resume=resume)
        for number, now in latest.items()
    }
    share = _FOR_FIT if "refine" in limits.stages else 1.0

    def over() -> bool:
        cost = cost_of_iteration(latest[order[0]].table, span, taught)
        return clock.out(share) or clock.passes + cost > share * limits.passes

    def turn(number: int, count: int | None) -> Iterator[tuple[int, Fit]]:
        for now in itertools.islice(runs[number], 0 if over() else count):
            latest[number] = now
            yield number, now
            if over():
                return

    for number in finalists:
        yield from turn(number, _HEAT)
    finalists.sort(key=lambda number: latest[number].errors.weighed)
    for number in finalists + [number for number in order if number not in finalists]:
        yield from turn(number, None)


def _trials(
    student: Student,
    climbed: list[Table],
    starts: list[Table],
    taught: Trajectories,
    span: LevelRange,
    clock: Clock,
    step: float,
) -> Iterator[tuple[int, Fit]]:
    """Short fits of the best of both kinds in turns; their numbers are those in climbed, then in starts."""
    few = _some(taught)
    ordered = best_starts(student, starts, few, span, clock)
    numbers = list(range(len(climbed) + len(ordered)))
    turns = itertools.chain(*itertools.zip_longest(numbers[: len(climbed)], numbers[len(climbed) :]))
    for turn, number in enumerate([number for number in turns if number is not None][:_STARTS]):
        if turn and clock.out(_FOR_TRIALS):
            return
        start = [*climbed, *ordered][number]
        for now in fit(student, start, span, few, max_gain=clock.limits.max_gain, step=step):
            yield number, now
            if now.iterations >= _TRIAL or clock.out(_FOR_TRIALS):
                break


def _some(taught: Trajectories) -> Trajectories:
    """Enough of them to tell a good start from a bad one."""
    return taught.part(0, max(enough(taught), min(_TRIED_ON, int(_PART * len(taught)))))


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
