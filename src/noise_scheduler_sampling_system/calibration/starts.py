"""Where fits start: the best built-in samplers, the design, and what was found for fewer calls."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from ..schedules.path import CLEAN
from ..support.errors import NoiseSamplingError
from .baselines import Baseline, baselines
from .coordinates import Numbers
from .design import design_table
from .limits import Clock, Limits
from .measure import Errors, errors_of
from .regress import regressed
from .spectrum import Spectrum
from .student import Student
from .table import LevelRange, Table
from .teacher import Trajectories

__all__ = ["best_starts", "designed", "grown", "ranked", "widened"]

logger = logging.getLogger(__name__)

#: Built-in samplers are ranked on so many trajectories, and so many of them go on, in the end to all that are held out.
_SCREENS = ((4, 48), (32, 24))
#: So many built-in samplers are ranked in any case.
_AT_LEAST = 12
#: A new query is so far from the others at least, in log(σ/α).
_ROOM = 0.05
#: Of the budget, what may be gone after the ranking of the built-in samplers, and after the regressions.
_FOR_RANKING = 0.15


def ranked(student: Student, nfe: int, taught: Trajectories, clock: Clock) -> tuple[list[Baseline], bool]:
    """Built-in samplers of exactly so many calls, best first, by the errors of a few trajectories; as many as the
    limits allow, but some. And whether the user interrupted it, which ends it."""
    left = [b for b in baselines(student.pipeline.scheduler, nfe) if b.plan.nfe == nfe]  # what is returned has as many
    most, top = clock.limits.history, student.pipeline.scheduler.t_max
    left = [b for b in left if most is None or b.plan.history <= most]
    if clock.limits.first != "free":
        left = [b for b in left if b.plan.asked[0] and b.plan.time[0] == top]
    try:
        for count, kept in _SCREENS:
            left = _ordered(student, left, taught.part(0, min(count, len(taught))), clock)[:kept]
    except KeyboardInterrupt:
        logger.warning("interrupted: going on with the built-in samplers")
        return left, True
    return left, False


def _ordered(student: Student, known: list[Baseline], few: Trajectories, clock: Clock) -> list[Baseline]:
    """The best by their score and the best in root mean square, in turn: few trajectories do not tell which will be the
    better one on many."""
    scored: list[tuple[Errors, Baseline]] = []
    for baseline in known:
        if len(scored) >= _AT_LEAST and clock.out(_FOR_RANKING):
            break
        try:
            end = student.run(baseline.plan, few.noise, few.rows)
        except NoiseSamplingError:
            continue
        scored.append((errors_of(end, few.solution), baseline))
    by_score = sorted(scored, key=lambda pair: pair[0].score(len(few)))
    by_rms = sorted(scored, key=lambda pair: pair[0].rms)
    turns = (each for both in zip(by_score, by_rms, strict=True) for _, each in both)
    return list({id(each): each for each in turns}.values())


def designed(student: Student, nfe: int, taught: Trajectories, limits: Limits) -> list[Table]:
    """The table that is best for Gaussian data with the spectrum of the samples; none where there is none."""
    try:
        spectrum = Spectrum.of(taught.solution.cpu().double())
        found = design_table(
            spectrum, nfe, student.pipeline.scheduler, mean_safe=True, first=limits.first, history=limits.history,
            max_gain=limits.max_gain,
        )  # fmt: skip
    except NoiseSamplingError as error:  # a single trajectory, or all alike
        logger.info("no design: %s", error)
        return []
    return [found.table] if found.table.gain <= limits.max_gain else []


def grown(table: Table, nfe: int, span: LevelRange) -> list[Table]:
    """The same samples with more queries, as starts for so many: all between those there are, or one of them last."""
    made = []
    last = [table.grown(span, table.nfe)] if table.room(span)[-1] > _ROOM else []
    for start in (table, *last):
        while start.nfe < nfe:
            between = start.room(span)[1:-1]
            start = start.grown(span, 1 + int(np.argmax(between)) if len(between) else 1)
        made.append(start)
    return made


def widened(table: Table, span: LevelRange) -> list[Table]:
    """The table with one query more, at every place that has room for it."""
    room = table.room(span)
    return [table.grown(span, at) for at in range(span.first_fixed, table.nfe + 1) if room[at] > _ROOM]


def best_starts(
    student: Student, starts: list[Table], few: Trajectories, span: LevelRange, clock: Clock
) -> list[Table]:
    """The starts, each as it is and with rows fitted to exact trajectories; those with the smallest errors first."""
    noisiest = span.path.level(span.path.t_max)
    scored: list[tuple[float, Table]] = []
    for start in starts:
        table = Numbers.of(span, replace(start, start=noisiest, end=CLEAN)).table
        for regress in (False, True):
            if regress and clock.out(_FOR_RANKING):
                continue
            try:
                variant = regressed(student, table, few, clock.limits.teacher_calls) if regress else table
                error = Errors.of(few.errors(student, variant)).score(len(few))
            except NoiseSamplingError:  # it overflows
                continue
            if variant.gain <= clock.limits.max_gain:
                scored.append((error, variant))
    return [table for _, table in sorted(scored, key=lambda pair: pair[0])]
