"""Starts from below: a table fitted for one call, grown by a query and fitted again, until it has them all."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

from ..support.errors import NoiseSamplingError
from .fit import Fit, enough, fit
from .limits import Clock
from .starts import grown, widened
from .student import Student
from .table import LevelRange, Table
from .teacher import Trajectories

__all__ = ["Climb"]

#: Levels of the single query that a climb begins with, evenly in log(σ/α).
_FIRST = 4
#: Iterations with every place of the new query; with so many of them that are best; with the best.
_TRIAL, _KEPT, _SECOND, _ITERATIONS = 1, 2, 3, 5
#: A Jacobian on the way is made of so many trajectories at most.
_DRAWN = 64
#: Steps that an iteration tries, about.
_TRIES = 1.5
#: Of the budget, what may be gone after the climb.
_SHARE = 0.3


@final
@dataclass(frozen=True)
class Climb:
    """The search for starts that adds one query at a time.

    With few queries a fit finds the levels that matter. One more is tried at every place, above the first query,
    in every gap and below the last; the others stay near where they were. A fit that begins with all queries at the
    levels of a built-in sampler ends elsewhere, often with queries at low noise where nothing is left to learn, and no
    derivative moves them.

    Attributes:
        student: the model.
        few: the trajectories to fit to on the way.
        span: the levels that may be asked for.
        clock: the budget.
        report: told after every iteration.
    """

    student: Student
    few: Trajectories
    span: LevelRange
    clock: Clock
    report: Callable[[str, Fit], None]

    def to(self, nfe: int, smaller: Table | None) -> list[Table]:
        """Starts for nfe calls, best first.

        Args:
            nfe: their number of calls.
            smaller: what was found for fewer calls, to begin with; None: one query.

        Returns:
            The starts. Where the climb would take more than its share of the budget there is none, and all queries are
            added to the smaller table at once.
        """
        tables = self._single() if smaller is None else widened(smaller, self.span)
        best = smaller
        if tables and self._cost(tables[0].nfe, nfe) <= self.clock.room(_SHARE):
            while tried := self._tried(tables, _TRIAL):
                better = self._tried([now.table for now in tried[:_KEPT]], _SECOND) or tried
                if better[0].table.nfe == nfe:
                    return [now.table for now in (*better, *tried[len(better) :])]
                best = (self._tried([better[0].table], _ITERATIONS) or better)[0].table
                tables = widened(best, self.span)
        return [] if best is None else grown(best, nfe, self.span)

    def _single(self) -> list[Table]:
        """One query at several levels, whose prediction is the result."""
        start, (top, bottom) = self.span.path.level(self.span.path.t_max), self.span.ends
        places = [start]
        if not self.span.first_fixed:
            places = [self.span.level(top + (bottom - top) * k / _FIRST) for k in range(_FIRST)]
        return [Table(start, (level,), np.eye(2), history=self.clock.limits.history) for level in places]

    def _cost(self, first: int, last: int) -> float:
        """About what it takes, in passes."""
        calls = 0.0
        for nfe in range(first, last + 1):
            runs = 1.0 + sum((nfe - i) * (1 + max(i, 1)) for i in range(nfe)) / nfe  # for a trajectory's derivatives
            iterations = max(nfe, _FIRST * (nfe == 1)) + _KEPT * _SECOND + _ITERATIONS * (nfe < last)
            calls += iterations * nfe * (runs * self._drawn + _TRIES * len(self.few))
        return calls / self.clock.unit

    @property
    def _drawn(self) -> int:
        return min(_DRAWN, enough(self.few))

    def _tried(self, tables: list[Table], iterations: int) -> list[Fit]:
        """What a few iterations make of each of the tables, best first."""
        ends: list[Fit] = []
        gain = self.clock.limits.max_gain
        for table in tables:
            last: Fit | None = None
            try:
                steps = fit(self.student, table, self.span, self.few, max_gain=gain, drawn=self._drawn)
                for now in itertools.islice(steps, 0 if self.clock.out(_SHARE) else iterations):
                    last = now
                    self.report("climb", now)
                    if self.clock.out(_SHARE):
                        break
            except NoiseSamplingError:  # it overflows
                continue
            ends += [] if last is None else [last]
        return sorted(ends, key=lambda now: now.score)
