"""Fits from several starts: short ones on some of the trajectories, then longer ones from the best of them."""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from ..support.errors import NoiseSamplingError
from .fit import Fit, cost_of_iteration, enough, fit
from .limits import Clock
from .measure import Errors
from .starts import best_starts
from .student import Student
from .table import LevelRange, Table
from .teacher import Trajectories

__all__ = ["Contest"]

logger = logging.getLogger(__name__)

#: So many starts are tried for so many iterations, on a part of the trajectories, at most so many.
_STARTS, _TRIAL, _PART, _MOST = 6, 3, 0.25, 512
#: A fit is made on so many trajectories that the budget allows so many iterations, if that is not too few.
_AFFORDED = 8
#: The best of each kind, if not worse than the other by more than a factor, are fitted for so many iterations;
#: the better one goes on to the end, then the others.
_WORSE, _HEAT = 1.5, 6
#: Of the budget, what may be gone after the trials, after trials of so many starts, and after the fit where it is
#: refined. One iteration tells more of a start than its errors do.
_FOR_TRIALS, _AT_LEAST, _FOR_FIRST_TRIALS, _FOR_FIT = 0.4, 3, 0.6, 0.7


@final
@dataclass(frozen=True)
class Contest:
    """Which start ends best is seen by fitting: where a fit ends is a local minimum.

    Attributes:
        student: the model.
        taught: the trajectories to fit to.
        span: the levels that may be asked for.
        clock: the budget.
    """

    student: Student
    taught: Trajectories
    span: LevelRange
    clock: Clock

    @functools.cached_property
    def few(self) -> Trajectories:
        """Enough of the trajectories to tell a good start from a bad one."""
        return self.taught.part(0, max(enough(self.taught), min(_MOST, int(_PART * len(self.taught)))))

    def of(self, below: Sequence[Table], above: list[Table]) -> Iterator[tuple[int, Fit]]:
        """Fits of the best starts of two kinds, as long as the budget lasts.

        Args:
            below: starts that were fitted for fewer calls, best first.
            above: built-in samplers and designs; taken as they are, or with their rows regressed.

        Yields:
            The number of the start, and its fit after every iteration.
        """
        starts = [*below, *best_starts(self.student, above, self.few, self.span, self.clock)]
        numbers = list(range(len(starts)))
        kinds = [kind for kind in (numbers[: len(below)], numbers[len(below) :]) if kind]
        kinds.sort(key=lambda kind: self._error(starts[kind[0]]))  # the budget may end with the first
        turns = [number for pair in itertools.zip_longest(*kinds) for number in pair if number is not None]
        latest: dict[int, Fit] = {}
        for number, now in self._trials({number: starts[number] for number in turns[:_STARTS]}):
            latest[number] = now
            yield number, now
        tried = [[number for number in kind if number in latest] for kind in kinds]
        best = [min(kind, key=lambda number: latest[number].score) for kind in tried if kind]
        limit = _WORSE * min((latest[number].score for number in best), default=0.0)
        yield from self.final(latest, [number for number in best if latest[number].score <= limit])

    def _error(self, start: Table) -> float:
        try:
            return Errors.of(self.few.errors(self.student, start)).score(len(self.few))
        except NoiseSamplingError:  # it overflows
            return math.inf

    def _trials(self, starts: Mapping[int, Table]) -> Iterator[tuple[int, Fit]]:
        """An iteration of each start in turn, then another, as long as the trials may last."""
        runs = {number: self._fit(start, self.few) for number, start in starts.items()}
        tried = set[int]()
        for _ in range(_TRIAL):
            for number, run in runs.items():
                if tried and self.clock.out(_FOR_TRIALS if len(tried) >= _AT_LEAST else _FOR_FIRST_TRIALS):
                    return
                for now in itertools.islice(run, 1):
                    tried.add(number)
                    yield number, now

    def final(self, begun: Mapping[int, Fit], finalists: list[int]) -> Iterator[tuple[int, Fit]]:
        """Go on with fits on as many trajectories as the budget allows iterations of.

        Args:
            begun: fits by the numbers of their starts. One of as many trajectories goes on from where it was.
            finalists: those that are fitted in turn before one goes on to its end.
        """
        latest = dict(begun)
        order = sorted(latest, key=lambda number: latest[number].score)
        if not order:
            return
        share = _FOR_FIT if "refine" in self.clock.limits.stages else 1.0
        example = latest[order[0]].table
        on = self._affordable(example, share)
        seen = {number: now if now.count == len(on) else None for number, now in latest.items()}
        runs = {number: self._fit(latest[number].table, on, now) for number, now in seen.items()}

        def over() -> bool:
            return self.clock.room(share) < self._cost(example, on)

        def turn(number: int, count: int | None) -> Iterator[tuple[int, Fit]]:
            for now in itertools.islice(runs[number], 0 if over() else count):
                latest[number] = now
                yield number, now
                if over():
                    return

        for number in sorted(finalists, key=lambda number: latest[number].score):
            yield from turn(number, _HEAT)
        heats = sorted(finalists, key=lambda number: latest[number].score)
        for number in heats + [number for number in order if number not in finalists]:
            yield from turn(number, None)

    def _cost(self, table: Table, on: Trajectories) -> float:
        """Of an iteration, in passes."""
        return cost_of_iteration(table, self.span, on) * len(on) / len(self.taught)

    def _affordable(self, table: Table, share: float) -> Trajectories:
        """All trajectories, or, where the budget is short, so many that there are some iterations on them."""
        room = self.clock.room(share) / _AFFORDED
        if self._cost(table, self.taught) <= room:
            return self.taught
        # two runs of all of them an iteration, and the Jacobian, which costs the same with fewer
        least, most = self._cost(table, self.few), self._cost(table, self.taught)
        part = (room - least) / max(most - least, 1e-9)
        return self.taught.part(0, len(self.few) + int(max(part, 0.0) * (len(self.taught) - len(self.few))))

    def _fit(self, start: Table, on: Trajectories, resume: Fit | None = None) -> Iterator[Fit]:
        """A fit, which ends where the table overflows on these trajectories."""
        gain = self.clock.limits.max_gain
        try:
            yield from fit(self.student, start, self.span, on, max_gain=gain, resume=resume)
        except NoiseSamplingError as error:
            logger.info("a start is left out: %s", error)
