"""Tables that fits may start from beside outlines: the design, and tables of fewer calls with more queries."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ...schedules.path import CLEAN
from ...support.errors import NoiseSamplingError
from ..budget import Limits
from ..design.design_table import design_table
from ..design.spectrum import Spectrum
from ..fit.free_numbers import FreeNumbers
from ..level_range import LevelRange
from ..student import Student
from ..table import Table
from ..trajectories import Errors, Trajectories

__all__ = ["BUILT_IN", "GROWN", "OUTLINE", "Start", "best_first", "designed", "grown", "with_query", "worth_judging"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

#: The kinds of starts that are a built-in sampler's table, the plan of fewer calls with more queries, and a rehearsal.
BUILT_IN: Final = "built-in"
GROWN: Final = "grown"
OUTLINE: Final = "outline"
#: A start whose error on a quarter of the trajectories is this many times the least one is far from the best.
_CLOSE: Final = 1.25
#: A query above the first one, or below the last one, is put half as far away as this, in log(σ/α).
_REACH: Final = 3.0


class Start(NamedTuple):
    """A table that a fit may begin with.

    Attributes:
        kind: "design", :data:`OUTLINE`, :data:`GROWN` or :data:`BUILT_IN`.
        table: the table.
        errors: its errors on the few trajectories on which starts are compared; None: it did not run on all of them.
    """

    kind: str
    table: Table
    errors: Errors | None = None


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
    student: Student, starts: Sequence[Start], few: Trajectories, span: LevelRange, max_gain: float
) -> list[Start]:
    """Return the starts in the order of their errors on a few trajectories, made consistent and put in range.

    A quarter of the trajectories drops those that are far from the best one, which come last. Starts that overflow or
    whose gain is too large are left out.

    Args:
        student: the model.
        starts: the starts. Errors that are known are those on these trajectories.
        few: the trajectories.
        span: the range of the levels.
        max_gain: the largest :attr:`Table.gain`.
    """
    known = sorted((each for each in starts if each.errors is not None), key=lambda each: _score(each, few))
    begun = [_within(start, span) for start in starts if start.errors is None]
    begun = [start for start in begun if start.table.gain <= max_gain]
    part = few.part(0, max(1, len(few) // 4))
    first = _compared(student, [*known[:1], *begun], part)
    bar = min((_CLOSE * _score(each, part) for each in first), default=0.0)
    first = [each for each in first if each.kind != OUTLINE]  # all of its trajectories are known
    near = [each._replace(errors=None) for each in first if _score(each, part) <= bar]
    far = sorted((each for each in first if _score(each, part) > bar), key=lambda each: _score(each, part))
    ahead = sorted([*known, *_compared(student, near, few)], key=lambda each: _score(each, few))
    return [*ahead, *(each._replace(errors=None) for each in far)]


def _within(start: Start, span: LevelRange) -> Start:
    """The start with a consistent table whose levels are in range."""
    noisiest = span.path.level(span.path.t_max)
    return start._replace(table=FreeNumbers.of(span, replace(start.table, start=noisiest, end=CLEAN)).table)


def _compared(student: Student, starts: Iterable[Start], few: Trajectories) -> list[Start]:
    """The starts with their errors on some trajectories, without those that overflow."""
    found: list[Start] = []
    for start in starts:
        with contextlib.suppress(NoiseSamplingError):
            found.append(start._replace(errors=Errors.of(few.errors(student, start.table))))
    return found


def _score(start: Start, few: Trajectories) -> float:
    return math.inf if start.errors is None else start.errors.score(len(few))


def worth_judging(starts: Sequence[Start], *, fitted: bool) -> list[Start]:
    """Return the starts that may be the plan to return.

    After a fit they are the first one, and the plan of fewer calls with more queries unless it is known to be far from
    the best one, so that more calls are not worse. Each further start would take a run of the held-out trajectories,
    which is a good part of a small budget. Without a fit they are the best of each kind. Built-in samplers are judged
    as such.

    Args:
        starts: the starts, best first if they are compared.
        fitted: whether there is a fit.
    """
    own = [start for start in starts if start.kind != BUILT_IN]
    if fitted:
        compared = any(start.errors is not None for start in starts)  # not where a fit is resumed
        return [
            start
            for i, start in enumerate(own)
            if i == 0 or (start.kind == GROWN and not (compared and start.errors is None))
        ]
    best = sorted(own, key=lambda start: math.inf if start.errors is None else start.errors.rms)
    return list({start.kind: start for start in reversed(best)}.values())


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


def grown(table: Table, nfe: int, span: LevelRange) -> Table:
    """Return a table of N calls with the samples of a smaller one: each new query is put in the widest gap."""
    while table.nfe < nfe:
        between = -np.diff(_with_neighbours(table, span))[1:-1]
        table = with_query(table, 1 + int(np.argmax(between)) if len(between) else 1, span)
    return table
