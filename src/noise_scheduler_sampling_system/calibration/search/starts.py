"""The tables that fits start from: the design, and tables of fewer calls that grow by one query at a time."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt

from ...schedules.path import CLEAN
from ...support.errors import NoiseSamplingError
from ..design.design_table import design_table
from ..design.spectrum import Spectrum
from ..fit.fit import Fit, enough, fit
from ..fit.free_numbers import FreeNumbers
from ..level_range import LevelRange
from ..student import Student
from ..table import Table
from ..trajectories import Errors, Trajectories
from .budget import Budget, Limits

__all__ = ["Climb", "Trial", "best_first", "designed", "grown", "widened", "with_query"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

#: A new query is at least this far from the others, in log(σ/α).
_APART = 0.05
#: A query above the first one, or below the last one, is put half as far away as this, in log(σ/α).
_REACH = 3.0
#: The number of levels that are tried for the single query with which a climb begins.
_FIRST = 4
#: The iterations with the new query at every place, the number of places that stay, the iterations with each of these,
#: and with the best one.
_TRIAL, _KEPT, _SECOND, _ITERATIONS = 1, 2, 3, 5
#: The most trajectories of a Jacobian during a climb.
_DRAWN = 64
#: The steps that an iteration tries on average.
_TRIES = 1.5
#: The climb ends after this share of the budget.
_FOR_CLIMB = 0.3


def designed(student: Student, nfe: int, taught: Trajectories, limits: Limits) -> list[Table]:
    """Return the best table for Gaussian data with the spectrum of the samples, or an empty list if there is none."""
    try:
        spectrum = Spectrum.of(taught.solution.cpu().double())
        found = design_table(
            spectrum, nfe, student.pipeline.scheduler, mean_safe=True, first=limits.first, history=limits.history,
            max_gain=limits.max_gain,
        )  # fmt: skip
    except NoiseSamplingError as error:  # there is a single trajectory, or all samples are alike
        logger.info("no design: %s", error)
        return []
    return [found.table] if found.table.gain <= limits.max_gain else []


def best_first(
    student: Student, starts: list[Table], few: Trajectories, span: LevelRange, max_gain: float
) -> list[Table]:
    """Return the starts in the order of their errors on a few trajectories, made consistent and put in range.

    Starts that overflow or whose gain is too large are left out.
    """
    noisiest = span.path.level(span.path.t_max)
    scored: list[tuple[float, Table]] = []
    for start in starts:
        table = FreeNumbers.of(span, replace(start, start=noisiest, end=CLEAN)).table
        try:
            error = Errors.of(few.errors(student, table)).score(len(few))
        except NoiseSamplingError:
            continue
        if table.gain <= max_gain:
            scored.append((error, table))
    return [table for _, table in sorted(scored, key=lambda pair: pair[0])]


def places_of_new_queries(table: Table, span: LevelRange) -> Array:
    """Return log(σ/α) of the places for one more query, from above the first one to below the last, shape (N + 1,)."""
    return np.convolve(_with_neighbours(table, span), [0.5, 0.5], mode="valid")


def _with_neighbours(table: Table, span: LevelRange) -> Array:
    """Return log(σ/α) of the queries, with one place above and one below them, shape (N + 2,)."""
    queries = np.minimum(np.log([level.noise_to_signal for level in table.levels]), span.ends[0])
    above, below = min(span.ends[0], queries[0] + _REACH), max(span.ends[1], queries[-1] - _REACH)
    return np.array([above, *queries, below])


def with_query(table: Table, at: int, span: LevelRange) -> Table:
    """Return the table with one more query, whose prediction no other row reads: a start for a fit of N + 1 calls.

    The samples do not change, except where the new query comes first: the state that was x_T scaled then reads the new
    prediction, so that it reproduces constant data. With limited history the rows are the nearest that it allows.

    Args:
        table: a consistent table of N calls.
        at: the new query's place, from 0, before the first query, to N, after the last one.
        span: the range of the levels.
    """
    level = span.level(float(places_of_new_queries(table, span)[at]))
    levels = (*table.levels[:at], level, *table.levels[at:])
    known = table.made[at]  # the number of columns that are made before the new query
    wide = np.insert(table.rows, known, 0.0, axis=1)
    between = np.where(np.arange(wide.shape[1]) < known, 0.5 * (wide[max(at - 1, 0)] + wide[at]), 0.0)
    both = tuple(j + (j >= at) for j in table.both)
    full = replace(table, levels=levels, rows=np.insert(wide, at, between, axis=0), both=both, history=None)
    full = full.with_weights(full.weights)
    return full if table.history is None else full.limited(table.history)


def widened(table: Table, span: LevelRange) -> list[Table]:
    """Return the tables with one more query, one for each place that is far enough from the other queries."""
    distances = -0.5 * np.diff(_with_neighbours(table, span))
    return [with_query(table, at, span) for at in range(span.first_fixed, table.nfe + 1) if distances[at] > _APART]


def grown(table: Table, nfe: int, span: LevelRange) -> Table:
    """Return a table of N calls with the samples of a smaller one: each new query is put in the widest gap."""
    while table.nfe < nfe:
        between = -np.diff(_with_neighbours(table, span))[1:-1]
        table = with_query(table, 1 + int(np.argmax(between)) if len(between) else 1, span)
    return table


@final
@dataclass(frozen=True)
class Climb:
    """The search for a start that adds one query at a time.

    With few queries a fit finds the levels that matter. Then one more query is tried at every place, while the others
    stay near where they were. A fit that begins with all queries often ends with some of them at low noise, where
    nothing is left to learn and no derivative moves them.

    Attributes:
        student: the model.
        few: the trajectories to fit to.
        span: the range of the levels.
        budget: a share of it may be spent.
        report: called after every iteration.
    """

    student: Student
    few: Trajectories
    span: LevelRange
    budget: Budget
    report: Callable[[str, Fit], None]

    def to(self, nfe: int, smaller: Table | None) -> list[Table]:
        """Return the best start of N calls.

        Args:
            nfe: N.
            smaller: the table that was found for fewer calls, to begin with. None: a single query.

        Returns:
            The start. Where the climb would cost more than its share of the budget: the smaller table with all
            queries added at once, or an empty list if there is none.
        """
        tables = self._single() if smaller is None else widened(smaller, self.span)
        best = smaller
        if tables and self._cost(tables[0].nfe, nfe) <= self.budget.left(_FOR_CLIMB):
            while tried := self._tried(tables, _TRIAL):
                better = self._tried([now.table for now in tried[:_KEPT]], _SECOND) or tried
                if better[0].table.nfe == nfe:
                    return [better[0].table]
                best = (self._tried([better[0].table], _ITERATIONS) or better)[0].table
                tables = widened(best, self.span)
        return [] if best is None else [grown(best, nfe, self.span)]

    def _single(self) -> list[Table]:
        """Return tables of one query at several levels, whose prediction is the result."""
        start, (top, bottom) = self.span.path.level(self.span.path.t_max), self.span.ends
        places = [start]
        if not self.span.first_fixed:
            places = [self.span.level(top + (bottom - top) * k / _FIRST) for k in range(_FIRST)]
        return [Table(start, (level,), np.eye(2), history=self.budget.limits.history) for level in places]

    def _cost(self, first: int, last: int) -> float:
        """Estimate the cost of a climb between two numbers of calls, in passes."""
        calls = 0.0
        for nfe in range(first, last + 1):
            runs = 1.0 + sum((nfe - i) * (1 + max(i, 1)) for i in range(nfe)) / nfe  # a trajectory's derivatives
            iterations = max(nfe, _FIRST * (nfe == 1)) + _KEPT * _SECOND + _ITERATIONS * (nfe < last)
            calls += iterations * nfe * (runs * self._drawn + _TRIES * len(self.few))
        return calls / self.budget.of_a_pass

    @property
    def _drawn(self) -> int:
        return min(_DRAWN, enough(self.few))

    def _tried(self, tables: list[Table], iterations: int) -> list[Fit]:
        """Fit each of the tables for some iterations; return the fits, best first."""
        trial = Trial(self.student, self.few, self.span, self.budget, _FOR_CLIMB, self.report)
        return trial.of(tables, iterations, self._drawn, "climb")


@final
@dataclass(frozen=True)
class Trial:
    """Short fits of several tables to a few trajectories.

    Attributes:
        student: the model.
        few: the trajectories.
        span: the range of the levels.
        budget: of which a share may be spent.
        share: the share.
        report: called after every iteration.
    """

    student: Student
    few: Trajectories
    span: LevelRange
    budget: Budget
    share: float
    report: Callable[[str, Fit], None]

    def of(self, tables: Iterable[Table], iterations: int, drawn: int, stage: str) -> list[Fit]:
        """Fit each of the tables for some iterations; return the fits, best first.

        Args:
            tables: the tables.
            iterations: of each, at most.
            drawn: the number of trajectories of a Jacobian.
            stage: for the report.
        """
        ends: list[Fit] = []
        gain = self.budget.limits.max_gain
        for table in tables:
            last: Fit | None = None
            try:
                steps = fit(self.student, table, self.span, self.few, max_gain=gain, drawn=drawn)
                for now in itertools.islice(steps, 0 if self.budget.spent(self.share) else iterations):
                    last = now
                    self.report(stage, now)
                    if self.budget.spent(self.share):
                        break
            except NoiseSamplingError:  # it overflows
                continue
            ends += [] if last is None else [last]
        return sorted(ends, key=lambda now: now.score)
