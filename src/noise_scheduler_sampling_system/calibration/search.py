"""The search for the plan of one number of model calls: starts, trials, the fit, and the gate at the end."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, final

from ..errors import NoiseSamplingError
from ..plan import SamplingPlan
from .baselines import Baseline, baselines
from .design import design_table
from .fit import Fit, Numbers, cost_of_iteration, drawn, fit, step_for
from .measure import Errors, errors_of
from .refine import refine
from .regress import regressed
from .spectrum import Spectrum
from .student import Student, end_of
from .table import LevelRange, Table
from .teacher import Trajectories

__all__ = ["STAGES", "Found", "Limits", "search"]

logger = logging.getLogger(__name__)

#: What a search may do, in this order; each starts from what the one before it found.
STAGES: Final = ("design", "fit", "refine")
#: Built-in samplers are ranked on so many trajectories, and so many of them go on, in the end to all that are held out.
_SCREENS, _LEADERS = ((4, 48), (32, 24)), 8
#: Starts are the design, so many built-in samplers, and what was found for fewer calls; each as it is or with its
#: rows regressed, what is better. So many are tried for so many iterations, on so many trajectories at most.
_BUILT_IN, _STARTS, _TRIAL, _TRIED_ON = 4, 4, 3, 96
#: So many of them, not worse than the best by more than a factor, are fitted to all for so many iterations;
#: the best goes on to the end, then the others.
_FINALISTS, _WORSE, _HEAT = 2, 1.5, 6
#: Of the budget, what may be gone after the ranking of the built-in samplers, and after the trials.
_FOR_RANKING, _FOR_TRIALS = 0.15, 0.4
#: So many built-in samplers are ranked in any case.
_AT_LEAST = 12


@final
@dataclass(frozen=True)
class Limits:
    """What a search may spend and what it may return.

    Attributes:
        passes: runs of all trajectories.
        deadline: in seconds of ``time.monotonic``.
        stages: of ``STAGES``.
        history: of :class:`Table`.
        first: "free", or "noisiest": the first query is at the path's noisiest level.
        max_gain: of :attr:`Table.gain`.
        teacher_calls: of a trajectory that is followed to the levels of a start.
    """

    passes: float
    deadline: float
    stages: tuple[str, ...]
    history: int | None
    first: str
    max_gain: float
    teacher_calls: int


class Found(NamedTuple):
    """What came of a search.

    Attributes:
        plan: the plan, without provenance.
        kind: "fit", "design", "refine", or the name of the built-in sampler that nothing beat.
        training, held_out: its errors.
        built_in: the best built-in samplers with their held-out errors, best first.
        table: the plan's, None for a built-in sampler.
        passes: runs of all trajectories that it took.
        iterations: of the fit.
    """

    plan: SamplingPlan
    kind: str
    training: Errors
    held_out: Errors
    built_in: tuple[tuple[str, Errors], ...]
    table: Table | None
    passes: float
    iterations: int


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
    clock = _Clock.start(student, len(taught) * nfe, limits)
    known = baselines(student.pipeline.scheduler, nfe)
    ranked = known
    for count, kept in _SCREENS:
        ranked = _ranked(student, ranked, taught.part(0, min(count, len(taught))), clock)[:kept]
    tables: list[tuple[str, Table]] = []
    if "design" in limits.stages:
        tables = _designed(student, nfe, taught, limits)
    fits: dict[tuple[str, int, int], Fit] = {}  # by stage, number of the start, and phase
    try:
        starts = [table for _, table in tables[:1]]
        starts += [b.table.limited(limits.history) for b in ranked if b.table is not None][:_BUILT_IN]
        if smaller is not None:
            starts.append(_grown(smaller, nfe, LevelRange(student.pipeline.scheduler, limits.first != "free")))
        if "fit" in limits.stages:
            for number, now in _fits(student, starts, taught, limits, clock, resume):
                fits["fit", number, now.phase] = now
                report("fit", now)
        if "refine" in limits.stages:
            start = min(fits.values(), key=lambda now: now.errors.typical).table if fits else starts[0]
            for now in refine(student, start, taught, max_gain=limits.max_gain, until=clock.out):
                fits["refine", 0, 0] = now
                report("refine", now)
    except KeyboardInterrupt:
        logger.warning("interrupted: going on with the best so far")
    tables += [(stage, now.table) for (stage, _, _), now in fits.items()]
    iterations = sum(now.iterations for now in fits.values())
    return _gate(student, tables, ranked[:_LEADERS], taught, held_out, clock, iterations)


@dataclass(frozen=True)
class _Clock:
    """How much of the limits is left."""

    student: Student
    began: int
    started: float
    unit: float
    limits: Limits

    @classmethod
    def start(cls, student: Student, unit: float, limits: Limits) -> _Clock:
        return cls(student, student.tally.samples, time.monotonic(), unit, limits)

    @property
    def passes(self) -> float:
        return (self.student.tally.samples - self.began) / self.unit

    def out(self, share: float = 1.0) -> bool:
        """Whether this share of the time or of the passes is gone."""
        seconds = self.limits.deadline - self.started
        return time.monotonic() - self.started > share * seconds or self.passes >= share * self.limits.passes


def _ranked(student: Student, known: list[Baseline], few: Trajectories, clock: _Clock) -> list[Baseline]:
    """Built-in samplers, best first, by the errors of a few trajectories; as many as the limits allow, but some."""

    def score(baseline: Baseline) -> float:
        try:
            end = student.run(baseline.plan, few.noise, few.rows)
        except NoiseSamplingError:
            return math.inf
        return errors_of(end, few.solution).typical

    scored: list[tuple[float, Baseline]] = []
    for baseline in known:
        if len(scored) >= _AT_LEAST and clock.out(_FOR_RANKING):
            break
        scored.append((score(baseline), baseline))
    return [b for value, b in sorted(scored, key=lambda pair: pair[0]) if value < math.inf]


def _designed(student: Student, nfe: int, taught: Trajectories, limits: Limits) -> list[tuple[str, Table]]:
    """The tables that are best for Gaussian data with the spectrum of the samples."""
    spectrum = Spectrum.of(taught.solution.double().cpu())
    made = []
    for mean_safe in (True, False):
        try:
            found = design_table(
                spectrum, nfe, student.pipeline.scheduler, mean_safe=mean_safe, first=limits.first,
                history=limits.history, max_gain=limits.max_gain,
            )  # fmt: skip
        except NoiseSamplingError as error:
            logger.info("no design (mean_safe=%s): %s", mean_safe, error)
            continue
        if found.table.gain <= limits.max_gain:
            made.append(("design", found.table))
    return made


def _grown(table: Table, nfe: int, span: LevelRange) -> Table:
    while table.nfe < nfe:
        table = table.grown(span)
    return table


def _fits(
    student: Student, starts: list[Table], taught: Trajectories, limits: Limits, clock: _Clock, resume: Fit | None
) -> Iterator[tuple[int, Fit]]:
    """Short fits of the best starts on some of the trajectories, then fits on all, from the best of them on, as long
    as the limits allow: where one ends is a local minimum. Yields the number of the start and its fit."""
    path = student.pipeline.scheduler
    span, step = LevelRange(path, first_fixed=limits.first != "free"), step_for(student.model)
    tried: dict[int, Fit] = {}
    if resume is None:
        few = taught.part(0, min(_TRIED_ON, drawn(taught)))
        for number, start in enumerate(_best_starts(student, starts, few, span, limits, clock)):
            if tried and clock.out(_FOR_TRIALS):
                break
            for now in fit(student, start, span, few, max_gain=limits.max_gain, step=step):
                tried[number] = now
                yield number, now
                if now.iterations >= _TRIAL or clock.out(_FOR_TRIALS):
                    break
    else:
        tried[0] = resume
        yield 0, resume
    order = sorted(tried, key=lambda number: tried[number].errors.typical)
    latest, runs = dict(tried), dict[int, Iterator[Fit]]()

    def over() -> bool:
        cost = cost_of_iteration(tried[order[0]].table, span, taught)
        return clock.out() or clock.passes + cost > limits.passes

    def turn(number: int, count: int | None) -> Iterator[tuple[int, Fit]]:
        if number not in runs:
            table = tried[number].table
            runs[number] = fit(student, table, span, taught, max_gain=limits.max_gain, step=step, resume=resume)
        for now in itertools.islice(runs[number], count):
            latest[number] = now
            yield number, now
            if over():
                return

    limit = _WORSE * tried[order[0]].errors.typical
    finalists = [number for number in order[:_FINALISTS] if tried[number].errors.typical <= limit]
    for number in finalists:
        if not over():
            yield from turn(number, _HEAT)
    best = sorted(finalists, key=lambda number: latest[number].errors.typical)
    for number in (*best, *order[len(finalists) :]):
        if not over():
            yield from turn(number, None)


def _best_starts(
    student: Student, starts: list[Table], few: Trajectories, span: LevelRange, limits: Limits, clock: _Clock
) -> list[Table]:
    """The starts with the smallest errors, each as it is or with rows fitted to exact trajectories."""
    noisiest = span.path.level(span.path.t_max)
    scored: list[tuple[float, Table]] = []
    for start in starts:
        table = Numbers.of(span, replace(start, start=noisiest)).table
        variants = [table]
        if not clock.out(_FOR_RANKING):
            variants.append(regressed(student, table, few, limits.teacher_calls))
        for variant in variants:
            if variant.gain <= limits.max_gain or variant is table:
                columns = student.columns(variant, few.noise, few.rows)
                scored.append((errors_of(end_of(variant, columns), few.solution).typical, variant))
    return [table for _, table in sorted(scored, key=lambda pair: pair[0])[:_STARTS]]


def _gate(
    student: Student,
    tables: list[tuple[str, Table]],
    leaders: list[Baseline],
    taught: Trajectories,
    held_out: Trajectories,
    clock: _Clock,
    iterations: int,
) -> Found:
    """Of everything that was found, and of the best built-in samplers, what is best on held-out trajectories."""
    judged: list[tuple[Errors, str, SamplingPlan, Table | None]] = []
    judged += [(_judge(student, b.plan, held_out), b.name, b.plan, None) for b in leaders]
    built_in = tuple(sorted(((name, errors) for errors, name, _, _ in judged), key=lambda pair: pair[1].rms))
    for kind, table in tables:
        plan = table.plan(start="query", sampler="calibrated")
        judged.append((_judge(student, plan, held_out), kind, plan, table))
    errors, kind, plan, found = min(judged, key=lambda entry: entry[0].rms)
    training = _judge(student, plan, taught)
    return Found(plan, kind, training, errors, built_in, found, clock.passes, iterations)


def _judge(student: Student, plan: SamplingPlan, on: Trajectories) -> Errors:
    return errors_of(student.run(plan, on.noise, on.rows), on.solution)
