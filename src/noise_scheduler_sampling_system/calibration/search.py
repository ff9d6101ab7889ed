"""The search for the plan of one number of model calls: starts, trials, the fit, and the gate at the end."""

from __future__ import annotations

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
from .fit import Errors, Fit, cost_of_iteration, errors_of, fit, step_for
from .refine import refine
from .spectrum import Spectrum
from .student import Student
from .table import LevelRange, Table
from .teacher import Trajectories

__all__ = ["STAGES", "Found", "Limits", "search"]

logger = logging.getLogger(__name__)

#: What a search may do, in this order; each starts from what the one before it found.
STAGES: Final = ("design", "fit", "refine")
#: Built-in samplers are ranked on so many trajectories, the best of them on all that are held out.
_RANKED, _LEADERS = 16, 8
#: So many starts are tried for so many iterations, on this share of the trajectories.
_STARTS, _TRIAL, _SHARE = 4, 3, 0.25
#: Of the budget, what the trials may take.
_FOR_TRIALS = 0.3


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
    """

    passes: float
    deadline: float
    stages: tuple[str, ...]
    history: int | None
    first: str
    max_gain: float


class Found(NamedTuple):
    """What came of a search.

    Attributes:
        plan: the plan, without provenance.
        kind: "fit", "design", "refine", or the name of the built-in sampler that nothing beat.
        training, held_out: its errors.
        built_in: the best built-in samplers with their held-out errors, best first.
        gain: :attr:`Table.gain`, NaN where the plan is no table.
        passes: runs of all trajectories that it took.
        iterations: of the fit.
    """

    plan: SamplingPlan
    kind: str
    training: Errors
    held_out: Errors
    built_in: tuple[tuple[str, Errors], ...]
    gain: float
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
    """
    clock = _Clock.start(student, len(taught) * nfe, limits)
    known = baselines(student.pipeline.scheduler, nfe)
    ranked = _ranked(student, known, taught.part(0, min(_RANKED, len(taught))))
    tables: list[tuple[str, Table]] = []
    if "design" in limits.stages:
        tables = _designed(student, nfe, taught, limits)
    best: Fit | None = resume
    try:
        if "fit" in limits.stages:
            starts = [table for _, table in tables[:1]]
            starts += [b.table.limited(limits.history) for b in ranked if b.table is not None][: _STARTS - len(starts)]
            for best in _fits(student, starts, taught, limits, clock, resume):
                report("fit", best)
        if "refine" in limits.stages:
            start = best.table if best is not None else (tables[0][1] if tables else None)
            if start is not None:
                for best in refine(student, start, taught, max_gain=limits.max_gain, until=clock.out):
                    report("refine", best)
    except KeyboardInterrupt:
        logger.warning("interrupted: going on with the best so far")
    if best is not None:
        tables.insert(0, ("refine" if limits.stages[-1] == "refine" else "fit", best.table))
    return _gate(student, tables, ranked[:_LEADERS], taught, held_out, clock, best)


@dataclass(frozen=True)
class _Clock:
    """How much of the limits is left."""

    student: Student
    began: int
    unit: float
    limits: Limits

    @classmethod
    def start(cls, student: Student, unit: float, limits: Limits) -> _Clock:
        return cls(student, student.tally.samples, unit, limits)

    @property
    def passes(self) -> float:
        return (self.student.tally.samples - self.began) / self.unit

    def out(self, share: float = 1.0) -> bool:
        return time.monotonic() > self.limits.deadline or self.passes >= share * self.limits.passes


def _ranked(student: Student, known: list[Baseline], few: Trajectories) -> list[Baseline]:
    """Built-in samplers, best first, by the errors of a few trajectories: the mean of logarithms, for one that ends in
    another basin would decide alone."""

    def score(baseline: Baseline) -> float:
        try:
            end = student.run(baseline.plan, few.noise, few.rows)
        except NoiseSamplingError:
            return math.inf
        each = (end - few.solution).flatten(1).double().square().mean(1)
        return float(each.clamp_min(1e-30).log().mean()) + float(each.mean().clamp_min(1e-30).log())

    scores = {id(baseline): score(baseline) for baseline in known}
    return sorted((b for b in known if scores[id(b)] < math.inf), key=lambda b: scores[id(b)])


def _designed(student: Student, nfe: int, taught: Trajectories, limits: Limits) -> list[tuple[str, Table]]:
    """The tables that are best for Gaussian data with the spectrum of the samples."""
    spectrum = Spectrum.of(taught.solution.double().cpu())
    first = "free" if limits.first == "free" else "noisiest"
    made = []
    for mean_safe in (True, False):
        try:
            found = design_table(
                spectrum, nfe, student.pipeline.scheduler, mean_safe=mean_safe, first=first, history=limits.history
            )
        except NoiseSamplingError as error:
            logger.info("no design (mean_safe=%s): %s", mean_safe, error)
            continue
        if found.table.gain <= limits.max_gain:
            made.append(("design", found.table))
    return made


def _fits(
    student: Student, starts: list[Table], taught: Trajectories, limits: Limits, clock: _Clock, resume: Fit | None
) -> Iterator[Fit]:
    """Short fits of all starts on a share of the trajectories, then a fit of the best of them on all."""
    path = student.pipeline.scheduler
    span = LevelRange(path, first_fixed=limits.first != "free")
    step = step_for(student.model)
    best: Fit | None = resume
    if best is None:
        few = taught.part(0, max(min(len(taught), 64), int(_SHARE * len(taught))))
        for start in starts:
            start = replace(start, start=path.level(path.t_max))
            for now in fit(student, start, span, few, max_gain=limits.max_gain, step=step):
                done = now.iterations >= _TRIAL or clock.out(_FOR_TRIALS)
                if best is None or now.loss < best.loss:
                    best = now
                    yield best
                if done:
                    break
    if best is None:
        return
    table = best.table
    cost = cost_of_iteration(table, span)
    for now in fit(student, table, span, taught, max_gain=limits.max_gain, step=step, resume=resume):
        yield now
        if clock.out() or clock.passes + cost > limits.passes:
            return


def _gate(
    student: Student,
    tables: list[tuple[str, Table]],
    leaders: list[Baseline],
    taught: Trajectories,
    held_out: Trajectories,
    clock: _Clock,
    best: Fit | None,
) -> Found:
    """Of everything that was found, and of the best built-in samplers, what is best on held-out trajectories."""
    judged = [(_judge(student, b.plan, held_out), b.name, b.plan, math.nan) for b in leaders]
    built_in = tuple(sorted(((name, errors) for errors, name, _, _ in judged), key=lambda pair: pair[1].rms))
    for kind, table in tables:
        plan = table.plan(start="query", sampler="calibrated")
        judged.append((_judge(student, plan, held_out), kind, plan, table.gain))
    errors, kind, plan, gain = min(judged, key=lambda entry: entry[0].rms)
    training = _judge(student, plan, taught)
    iterations = 0 if best is None else best.iterations
    return Found(plan, kind, training, errors, built_in, gain, clock.passes, iterations)


def _judge(student: Student, plan: SamplingPlan, on: Trajectories) -> Errors:
    return errors_of(student.run(plan, on.noise, on.rows), on.solution)
