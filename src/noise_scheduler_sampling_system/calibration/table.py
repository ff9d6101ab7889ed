"""A few-step sampler as free numbers: query levels and full-history rows, to be designed or calibrated."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from ..config.prediction import conversion
from ..plans.plan import SamplingPlan
from ..schedules.path import CLEAN, Level, NoisePath
from ..support.errors import ConfigurationError

__all__ = ["Frame", "LevelRange", "Table", "check_history"]

Array = npt.NDArray[np.float64]

#: A query above this σ/α says nothing of data of unit size, and a path without signal has no other limit.
_NOISIEST = 1e3
#: A query is put before the first one or after the last one by half of this, in log(σ/α).
_REACH = 3.0
#: The least share of the range of levels between two queries, so that gaps have a logarithm.
_LEAST_GAP = 1e-6


def check_history(history: int | None) -> None:
    """Raises ConfigurationError unless it is a whole number ≥ 0, or None."""
    if history is not None and (isinstance(history, bool) or not isinstance(history, int) or history < 0):
        raise ConfigurationError(
            f"got {history!r}", where="history", suggestion="give a whole number ≥ 0, or None for all"
        )


class Frame(NamedTuple):
    """The rows that a table may have at one place: offset + weights @ directions.

    Attributes:
        offset: shape (1 + N,).
        directions: shape (number of weights, 1 + N).
    """

    offset: Array
    directions: Array

    def row(self, weights: Array) -> Array:
        """The row with these weights, shape (1 + N,)."""
        row: Array = self.offset + weights @ self.directions
        return row

    def weights(self, row: Array) -> Array:
        """The weights of a row; of the nearest one where the frame does not hold it."""
        if not len(self.directions):
            return np.zeros(0)
        weights: Array = np.linalg.lstsq(self.directions.T, row - self.offset, rcond=None)[0]
        return weights


@final
@dataclass(frozen=True, eq=False)
class Table:
    """N queries and N + 1 rows: every state against x_T and the clean samples predicted so far. Immutable.

    States are counted in units of r = √(α² + σ²) of their level, u = x/r, so that all numbers are of order
    one on every path, also where α = 0 or σ/α is 80 or 20,000. With D_j the clean sample predicted at query j,

        u_i = rows[i, 0]·u_T + Σ_{j<i} rows[i, 1 + j]·D_j,        i = 0 … N,

    where u_i, i < N, is the state that the model is asked about at ``levels[i]``, and u_N the result at
    ``end``. Row 0 has no prediction to go by: it scales x_T to the first query's level.

    A row is *consistent* if it reproduces constant data, D_j = k and x_T = α_T·k (+ noise), which then is
    α_i·k (+ noise): rows[i, 0]·α_T/r_T + Σ_j rows[i, 1 + j] = α_i/r_i ("rows sum to one" in x/α). Row 0 cannot be,
    unless it stays at the start's level.

    Attributes:
        start: the level of x_T, the path's noisiest.
        levels: those of the N queries.
        rows: shape (N + 1, N + 1), zero where 1 + j > i.
        end: where the run ends, usually the clean sample.
        history: the most earlier predictions that a row of the execution form may read beside the newest one,
            which limits the memory of a run; None: all.

    Raises:
        ConfigurationError: rows of another shape, that read predictions not yet made, or that are not finite.
    """

    start: Level
    levels: tuple[Level, ...]
    rows: Array
    end: Level = CLEAN
    history: int | None = None

    def __post_init__(self) -> None:
        rows = np.array(self.rows, dtype=np.float64)
        rows.flags.writeable = False
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "levels", tuple(Level(*level) for level in self.levels))
        size = 1 + self.nfe
        if self.nfe < 1 or rows.shape != (size, size) or not np.isfinite(rows).all() or np.triu(rows, 1).any():
            raise ConfigurationError(
                f"rows of shape {rows.shape} for {self.nfe} queries",
                where="table",
                why="every state has a row, and reads x_T and the predictions made before it",
                suggestion=f"give a finite lower-triangular matrix of shape ({size}, {size})",
            )
        check_history(self.history)

    @property
    def nfe(self) -> int:
        """N, the number of model calls."""
        return len(self.levels)

    @functools.cached_property
    def radii(self) -> Array:
        """r = √(α² + σ²) of the N queries and of the end, shape (N + 1,): the model is asked about r_i·u_i."""
        return np.array([math.hypot(level.alpha, level.sigma) for level in (*self.levels, self.end)])

    @property
    def start_radius(self) -> float:
        """r_T: a run starts at u_T = x_T/r_T."""
        return math.hypot(self.start.alpha, self.start.sigma)

    @property
    def moves_first(self) -> bool:
        """Whether the first query is at another level than x_T, to which row 0 scales it."""
        return self.levels[0][1:] != self.start[1:]

    @functools.cached_property
    def signals(self) -> Array:
        """What a consistent row makes of constant data 1: α/r of the N queries and of the end, shape (N + 1,)."""
        return np.array([level.alpha for level in (*self.levels, self.end)]) / self.radii

    @functools.cached_property
    def of_constant(self) -> Array:
        """What constant data 1 makes of u_T and the D_j: (α_T/r_T, 1, …, 1), shape (N + 1,)."""
        return np.array([self.start.alpha / self.start_radius, *[1.0] * self.nfe])

    @property
    def constant_residual(self) -> Array:
        """By how much each row fails to reproduce constant data, shape (N + 1,); row 0 where it scales x_T does."""
        residual: Array = self.rows @ self.of_constant - self.signals
        return residual

    @property
    def gain(self) -> float:
        """The largest Σ_j |rows[i, 1 + j]|/(α_i/r_i): by how much errors of the predictions are multiplied at most.

        1 where all weights are positive and rows consistent.
        """
        scale = np.maximum(self.signals, 1e-3)
        return float((np.abs(self.rows[:, 1:]).sum(axis=1) / scale).max())

    def frame(self, i: int, *, consistent: bool = True, rows: Array | None = None) -> Frame:
        """The rows that state i may have, given those before it.

        Its columns are u_T (with limited history: the state before) and the predictions that it may read, oldest first,
        the newest last. For consistent rows the newest prediction's weight follows from the others', so that the
        directions are u_T − (α_T/r_T)·D_new and D_j − D_new.

        Args:
            i: 0 … N. Row 0 has one weight, the factor of u_T, or none where the first query is at the start.
            consistent: only rows that reproduce constants.
            rows: in place of the table's own, of which those before i are read.
        """
        given = self.rows if rows is None else rows
        unit = np.eye(1 + self.nfe)
        if i == 0:
            return Frame(np.zeros(1 + self.nfe), unit[:1]) if self.moves_first else Frame(unit[0], unit[:0])
        oldest, head = 0, unit[0]
        if self.history is not None and i - 1 > self.history:
            oldest, head = i - 1 - self.history, given[i - 1]
        columns = np.stack([head, *unit[1 + oldest : 1 + i]])
        if not consistent:
            return Frame(np.zeros(1 + self.nfe), columns)
        newest, others = columns[-1], columns[:-1]
        return Frame(self.signals[i] * newest, others - np.outer(others @ self.of_constant, newest))

    def with_row(self, i: int, row: Array) -> Table:
        """The same with another row; rows after it stay as they are."""
        rows = np.array(self.rows)
        rows[i] = row
        return replace(self, rows=rows)

    def with_levels(self, levels: Iterable[Level]) -> Table:
        """The same weights (:attr:`weights`) at other query levels: consistent there, too, if it is here."""
        moved = replace(self, levels=tuple(levels))
        if not self.is_consistent:
            return moved
        scaling = self.weights[: self.moves_first] if self.moves_first else np.ones(1)  # of x_T: 1 in these units
        return moved.with_weights(np.append(scaling[: moved.moves_first], self.weights[self.moves_first :]))

    @property
    def is_consistent(self) -> bool:
        """Whether all rows but the first reproduce constants, to rounding."""
        scale = 1.0 + np.abs(self.rows).sum(axis=1)
        return bool((np.abs(self.constant_residual) <= 1e-9 * scale)[1:].all())

    @property
    def weights(self) -> Array:
        """The free numbers of all consistent rows (:meth:`frame`) from row 0 on, one after the other."""
        return np.concatenate([self.frame(i).weights(self.rows[i]) for i in range(1 + self.nfe)])

    def with_weights(self, weights: Array) -> Table:
        """The consistent table with these weights at the same levels."""
        table, at = self, 0
        for i in range(1 + self.nfe):
            frame = table.frame(i)
            size = len(frame.directions)
            table = table.with_row(i, frame.row(np.asarray(weights[at : at + size], dtype=np.float64)))
            at += size
        return table

    def limited(self, history: int | None) -> Table:
        """This table with rows that read so few earlier predictions: a start for fits, no equal of it."""
        bounded = replace(self, history=history)
        return bounded.with_weights(bounded.weights)

    def room(self, span: LevelRange) -> Array:
        """How far in log(σ/α) a new query is from its neighbours at each place (:meth:`grown`), shape (N + 1,)."""
        return -0.5 * np.diff(self._around(span))

    def _around(self, span: LevelRange) -> Array:
        """log(σ/α) of the queries, and of a place above and one below them."""
        places = np.minimum(np.log([level.noise_to_signal for level in self.levels]), span.ends[0])
        above, below = min(span.ends[0], places[0] + _REACH), max(span.ends[1], places[-1] - _REACH)
        return np.array([above, *places, below])

    def grown(self, span: LevelRange, at: int) -> Table:
        """This table with one more query, which no other row reads yet: a start for a fit with one call more.

        Args:
            span: the levels that may be asked for.
            at: the new query's place: 0, before the first one, to N, after the last one. The samples stay the same,
                but for 0: the state that was x_T scaled then reads the new prediction, to be consistent.

        Returns:
            The table; with limited history its rows are the nearest such.
        """
        around = self._around(span)
        new = span.level(float(0.5 * (around[at] + around[at + 1])))
        levels = (*self.levels[:at], new, *self.levels[at:])
        wide = np.insert(self.rows, at + 1, 0.0, axis=1)
        between = np.where(np.arange(self.nfe + 2) <= at, 0.5 * (wide[max(at - 1, 0)] + wide[at]), 0.0)
        full = replace(self, levels=levels, rows=np.insert(wide, at, between, axis=0), history=None)
        full = full.with_weights(full.weights)
        return full if self.history is None else full.limited(self.history)

    @classmethod
    def of_plan(cls, plan: SamplingPlan, *, start: Level | None = None, history: int | None = None) -> Table:
        """The table of any deterministic plan, whatever space it keeps its history in.

        Args:
            plan: the plan.
            start: the level of x_T; default the plan's first. A plan with an analytic first step does not hold it: give
                ``sampler.grid(...).levels[0]``.
            history: as :attr:`history`; the rows are then the nearest such.

        Raises:
            ConfigurationError: the plan adds noise, reads unconditional predictions or scales what the network sees;
                or its first state is not of the start's level.
        """
        if plan.stochastic or plan.null is not None or plan.input_scale is not None:
            raise ConfigurationError(
                f"the plan of {plan.sampler!r} has more than states and predictions",
                where="plan",
                why="it adds noise, reads unconditional predictions, or scales what the network sees",
                suggestion="give a deterministic plan without CFG++, e.g. of 'dpmpp_2m', 'ipndm' or 'unipc'",
            )
        asked = [i for i in range(len(plan)) if plan.asked[i]]
        column = {row: 1 + j for j, row in enumerate(asked)}
        state, ys, rows = np.eye(1 + plan.nfe)[0], [], []
        for i in range(len(plan)):
            y, after = np.zeros(1 + plan.nfe), plan.a[i] * state
            if i in column:
                rows.append(state)
                of_x, of_clean = conversion("sample", plan.space_of(i), float(plan.alpha[i]), float(plan.sigma[i]))
                y = of_x * state
                y[column[i]] += of_clean
            ys.append(y)
            after = after + plan.raw[i] * y
            for k in range(min(i + 1, plan.b.shape[1])):
                after = after + plan.b[i, k] * ys[i - k]
            state = after
        level = [Level(*map(float, at)) for at in zip(plan.time, plan.alpha, plan.sigma, strict=False)]
        end = Level(math.nan, float(plan.alpha[-1]), float(plan.sigma[-1]))
        begin = level[0] if start is None else start
        if not math.isclose(math.hypot(begin.alpha, begin.sigma), plan.prior_scale, rel_tol=1e-6):
            raise ConfigurationError(
                f"its first state is {plan.prior_scale:g} times unit noise, the start {math.hypot(*begin[1:]):g} times",
                where="start",
                why="a plan with an analytic first step does not hold the level that it starts from",
                suggestion="give start=sampler.grid(...).levels[0]",
            )
        empty = cls(begin, tuple(level[i] for i in asked), np.zeros((1 + plan.nfe,) * 2), end)
        table = np.array([*rows, state]) / empty.radii[:, None]
        table[:, 0] *= empty.start_radius
        table[np.abs(table) <= 1e-14 * np.abs(table).max(axis=1, keepdims=True)] = 0.0
        full = replace(empty, rows=table)
        return full if history is None else full.limited(history)

    def plan(
        self,
        *,
        start: str = "noisiest",
        sampler: str = "custom",
        options: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> SamplingPlan:
        """The plan that runs this table: N model calls in N steps.

        Args:
            start: the level of the first state: "noisiest", x_T itself, so that row 0 is a leading row that
                asks no model; or "query", that of the first query, the scaling being part of ``prior_scale`` (for
                programs that run no leading row; only runs from pure noise are the same then).
            sampler, options, provenance: what the plan says of itself.

        Raises:
            ConfigurationError: another ``start``.
            NumericsError: coefficients that cannot be run.
        """
        if start not in ("noisiest", "query"):
            raise ConfigurationError(f"got {start!r}", where="start", suggestion="give 'noisiest' or 'query'")
        rows = self.rows * self.radii[:, None]
        rows[:, 0] /= self.start_radius
        leads = self.moves_first and start == "noisiest"
        scale = self.start_radius
        if self.moves_first and not leads:
            scale, rows[:, 0] = scale * rows[0, 0], rows[:, 0] / rows[0, 0]
        asked = list(self.levels)
        levels = [self.start, *asked] if leads else asked
        count = len(levels)
        state, of_y = np.zeros(count + 1), np.zeros((count + 1, count))
        state[0] = 1.0
        state[leads:], of_y[leads:, leads:] = rows[:, 0], rows[:, 1:]
        times, alphas, sigmas = (np.array(column) for column in zip(*levels, strict=True))
        empty = SamplingPlan(
            space="sample",
            time=times,
            alpha=np.append(alphas, self.end.alpha),
            sigma=np.append(sigmas, self.end.sigma),
            step=np.maximum(np.arange(count) - leads, 0),
            a=np.ones(count),
            b=np.zeros((count, 1)),
            raw=np.zeros(count),
            c=np.zeros((count, 1)),
            noise_key=np.full((count, 2), -1, dtype=np.int64),
            asks=(np.arange(count) >= 1).astype(np.int64) if leads else None,
            prior_scale=scale,
            carries=("data",) if self.is_consistent and not self.moves_first else (),
            sampler=sampler,
            options=options or {},
            provenance=provenance or {},
        )
        return empty.with_canonical(state, of_y, np.zeros((count + 1, count)))


@final
@dataclass(frozen=True)
class LevelRange:
    """Query levels of a path as free numbers: any vector is a strictly falling grid inside the trained range.

    With N + 1 gaps of log(σ/α), from the noisiest level to the first query, between queries, and from the last one
    to the cleanest level: gap_j/Σ gap = exp(z_j)/Σ exp(z), with z = (vector, 0).

    Attributes:
        path: the noise schedule.
        first_fixed: the first query is at the path's noisiest level and has no number.
    """

    path: NoisePath
    first_fixed: bool = False

    @functools.cached_property
    def ends(self) -> tuple[float, float]:
        """log(σ/α) of the noisiest and of the cleanest level that may be asked for."""
        low, high = (level.noise_to_signal for level in self.path.levels([self.path.t_min, self.path.t_max]))
        return math.log(min(high, max(_NOISIEST, 10.0 * low))), math.log(low)

    def level(self, log_noise: float) -> Level:
        """The path's level with this log(σ/α), or the nearest one in the range."""
        top, bottom = self.ends
        inside = min(max(log_noise, bottom), top)
        if inside == bottom:
            return self.path.level(self.path.t_min)
        if inside == top and math.exp(top) < _NOISIEST:
            return self.path.level(self.path.t_max)
        return self.path.level_at(-2.0 * inside)

    def levels(self, vector: Array) -> tuple[Level, ...]:
        """The N levels of a vector: of N numbers, or N − 1 with the first fixed."""
        top, bottom = self.ends
        z = np.append(np.asarray(vector, dtype=np.float64), 0.0)
        gaps = np.exp(z - z.max())
        places = top + (bottom - top) * np.cumsum(gaps / gaps.sum())[:-1]
        inner = tuple(self.level(float(place)) for place in places)
        return (self.path.level(self.path.t_max), *inner) if self.first_fixed else inner

    def vector(self, levels: Sequence[Level]) -> Array:
        """The vector of these levels; where they are at the range's ends or coincide, that of levels very near.

        Raises:
            ConfigurationError: levels that rise.
        """
        top, bottom = self.ends
        places = [math.log(level.noise_to_signal) for level in levels[self.first_fixed :]]
        gaps = -np.diff([top, *np.clip(places, bottom, top), bottom])
        if gaps.min() < 0.0:
            raise ConfigurationError(
                "the query levels rise",
                where="levels",
                why="free levels are numbered from the noisiest to the cleanest",
                suggestion="start from a sampler with one query a step, e.g. 'dpmpp_2m', 'ipndm' or 'unipc'",
            )
        shares = np.log(np.maximum(gaps / (top - bottom), _LEAST_GAP))
        vector: Array = shares[:-1] - shares[-1]
        return vector
