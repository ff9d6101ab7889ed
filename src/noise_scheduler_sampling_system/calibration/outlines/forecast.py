"""The errors of outlines without the network, and the outlines with the least."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from .recording import Recording
from .regression import nearest_row
from .response import Response

__all__ = ["Forecast", "Outline"]

Array = npt.NDArray[np.float64]

#: A level moves by at most this share of all levels in a step of a descent.
_REACH: Final = 0.125
#: A sweep over the levels that gains less than this share of the error is the last one.
_LITTLE: Final = 1e-3
#: The masks of each size that lead to smaller ones, and the masks whose levels are sought.
_BEAM: Final = 8
_MASKS: Final = 3
#: The part of the range in which the levels lie where a first descent begins.
_FIRST: Final = 0.07
_LAST: Final = 0.72


class Outline(NamedTuple):
    """The queries of a plan.

    Attributes:
        at: the rising indices of their levels in a recording.
        both: the queries that evaluate both branches.
    """

    at: tuple[int, ...]
    both: tuple[int, ...]


@final
@dataclass(frozen=True)
class _Run:
    """Runs of B outlines with as many queries, up to some row.

    All vectors have d coordinates: u_T, the exact states, predictions and differences at the outline's levels, and a
    coordinate for what is new in each prediction and difference. A column is u_T, a D or a δ; the δ of a query that
    evaluates one branch is 0.

    Attributes:
        products: the mean products of the coordinates, shape (B, d, d).
        columns: the columns made so far, shape (B, n, d).
        seen: their mean products with the coordinates, shape (B, n, d).
        among: their mean products with each other, shape (B, n, n).
    """

    products: Array
    columns: Array
    seen: Array
    among: Array

    def only(self, which: int) -> _Run:
        """The run of one outline."""
        part = slice(which, which + 1)
        return _Run(self.products[part], self.columns[part], self.seen[part], self.among[part])

    def on(self, others: _Run) -> _Run:
        """The single run of this object, made on other outlines that are the same up to the row that comes next."""
        count = len(others.products)
        columns = np.repeat(self.columns, count, axis=0)
        return _Run(others.products, columns, columns @ others.products, np.repeat(self.among, count, axis=0))

    def with_column(self, column: Array) -> _Run:
        """The runs after another column of shape (B, d)."""
        seen = (column[:, None] @ self.products)[:, 0]
        columns = np.concatenate([self.columns, column[:, None]], axis=1)
        products = (columns @ seen[:, :, None])[..., 0]
        size = columns.shape[1]
        among = np.empty((len(columns), size, size))
        among[:, :-1, :-1] = self.among
        among[:, -1], among[:, :, -1] = products, products
        return _Run(self.products, columns, np.concatenate([self.seen, seen[:, None]], axis=1), among)


@final
@dataclass(frozen=True)
class Forecast:
    """A model of the network near the recorded trajectories, in which a plan costs some small regressions.

    A plan runs from row to row. Each row is the combination of what was predicted so far that is nearest to the exact
    state and gives constant data what they are there. What is left is the error e of the state. The prediction there is
    the recorded one, plus what :class:`Response` says of e, of which a part is new and like nothing else. The next rows
    see these predictions. Every row may read all of them, whatever the plan's history.

    Attributes:
        recording: the recorded trajectories.
        response: how predictions answer.
        first_fixed: whether the first query is at the noisiest level.
    """

    recording: Recording
    response: Response
    first_fixed: bool = False

    @functools.cached_property
    def _answers(self) -> tuple[Array, Array]:
        return self.response.smooth()

    @property
    def _kinds(self) -> int:
        """The columns of a query: D, and δ where the recording has differences."""
        return 1 + (len(self.recording.differences) > 0)

    def errors(self, outlines: Sequence[Outline]) -> Array:
        """Return the mean squares of the errors at the end of outlines with as many queries each."""
        return self._finished(self._begun(outlines), outlines, 0)

    def _begun(self, outlines: Sequence[Outline]) -> _Run:
        """Runs before their first row."""
        at, recording = np.array([outline.at for outline in outlines]), self.recording
        count, last = at.shape[1], np.full((len(at), 1), len(recording))
        used = [np.zeros_like(last), recording.state(np.hstack([at, last])), recording.prediction(at)]
        used += [recording.difference(at)] if self._kinds > 1 else []
        index = np.hstack(used)
        known = index.shape[1]
        size = known + count * self._kinds
        products = np.tile(np.eye(size), (len(at), 1, 1))
        products[:, :known, :known] = recording.gram[index[:, :, None], index[:, None, :]]
        noise = np.zeros((len(at), 1, size))
        noise[:, 0, 0] = 1.0
        return _Run(products, noise, noise @ products, products[:, :1, :1])

    def _advanced(self, run: _Run, outlines: Sequence[Outline], i: int) -> tuple[_Run, Array]:
        """Make row i of all runs and ask the network there; return the runs, and the mean squares of their errors."""
        recording, count = self.recording, len(outlines[0].at)
        at = np.array([(*outline.at, len(recording))[i] for outline in outlines])
        rows = self._rows(run, recording.signals[at], i)
        miss = (rows[:, None] @ run.columns)[:, 0]
        miss[:, 1 + i] -= 1.0
        square = np.maximum(((miss[:, None] @ run.products)[:, 0] * miss).sum(axis=1), 0.0)
        if i == count:
            return run, square
        first_new, size = run.products.shape[1] - count * self._kinds, np.sqrt(square)
        along, across = (answer[:, at] for answer in self._answers)
        for kind in range(self._kinds):
            column = along[kind][:, None] * miss
            column[:, 2 + count * (1 + kind) + i] += 1.0
            column[:, first_new + count * kind + i] += across[kind] * size
            if kind:
                column *= np.array([i in outline.both for outline in outlines])[:, None]
            run = run.with_column(column)
        return run, square

    def _rows(self, run: _Run, signals: Array, i: int) -> Array:
        """The factors of the columns in row i, shape (B, n)."""
        size = run.columns.shape[1]
        offset = np.zeros((len(signals), size))
        directions = np.eye(size)
        if i:  # the factor of the newest D follows from the others; row 0 scales u_T
            newest = size - self._kinds
            of_constant = np.zeros(size)
            of_constant[1 :: self._kinds], of_constant[0] = 1.0, self.recording.signals[0]
            offset[:, newest] = signals
            directions = np.delete(directions, newest, axis=0)
            directions[:, newest] -= np.delete(of_constant, newest)
        return nearest_row(run.among, run.seen[:, :, 1 + i], directions, offset, self.recording.size)

    def _finished(self, run: _Run, outlines: Sequence[Outline], first: int) -> Array:
        """Make the rows from ``first`` on."""
        square = np.zeros(len(outlines))
        for i in range(first, len(outlines[0].at) + 1):
            run, square = self._advanced(run, outlines, i)
        return square

    def outlines(self, counts: Iterable[int], budget: int, starts: Iterable[Outline] = ()) -> dict[Outline, float]:
        """Return outlines and the root mean squares of their errors, the least first.

        Args:
            counts: the numbers of queries.
            budget: the evaluations. A recording without differences evaluates one branch in every query.
            starts: outlines to begin with, the best first.
        """
        found: dict[Outline, float] = {}
        for count in counts:
            every = tuple(range(count)) if self._kinds > 1 else ()
            near = next((each.at for each in starts if len(each.at) == count), self._even(count))
            best = [self._descended(Outline(near, every))]
            if every and budget - count < count:
                best = [self._descended(mask) for mask in self._masks(best[0], budget - count)]
            found |= dict(zip(best, np.sqrt(self.errors(best)), strict=True))
        return dict(sorted(found.items(), key=lambda pair: pair[1]))

    def _even(self, count: int) -> tuple[int, ...]:
        """Levels at even distances, where most plans have theirs."""
        last = len(self.recording) - 1
        at = np.linspace(_FIRST * last, _LAST * last, count).round().astype(int)
        at = np.maximum(at, np.arange(count))  # a place for each
        return tuple(int(k) for k in ([0, *at[1:]] if self.first_fixed else at))

    def _descended(self, outline: Outline) -> Outline:
        """Move one level after the other to where the error is least, until nothing gains."""
        best, before = float(self.errors([outline])[0]), np.inf
        while before - best > _LITTLE * best:
            before, run = best, self._begun([outline])
            for query in range(len(outline.at)):
                if moved := self._moved(outline, query):
                    runs = run.on(self._begun(moved))
                    errors = self._finished(runs, moved, query)
                    least = int(np.argmin(errors))
                    if errors[least] < best:
                        best, outline, run = float(errors[least]), moved[least], runs.only(least)
                run, _ = self._advanced(run, [outline], query)
        return outline

    def _moved(self, outline: Outline, query: int) -> list[Outline]:
        """The outlines with a query at the other places between its neighbours that are not far."""
        if query == 0 and self.first_fixed:
            return []
        at, reach = outline.at, max(1, int(_REACH * len(self.recording)))
        low = at[query - 1] + 1 if query else 0
        high = at[query + 1] if query + 1 < len(at) else len(self.recording)
        places = range(max(low, at[query] - reach), min(high, at[query] + reach + 1))
        return [outline._replace(at=(*at[:query], k, *at[query + 1 :])) for k in places if k != at[query]]

    def _masks(self, whole: Outline, count: int) -> list[Outline]:
        """Return the outlines that evaluate both branches in ``count`` queries only, with the least errors first.

        The branches are left out one by one, and only the best masks of each size go on.
        """
        best = [whole]
        for _ in range(len(whole.both) - count):
            smaller = {each._replace(both=tuple(k for k in each.both if k != j)) for each in best for j in each.both}
            ordered = sorted(smaller)
            best = [ordered[k] for k in np.argsort(self.errors(ordered), kind="stable")[:_BEAM]]
        return best[:_MASKS]
