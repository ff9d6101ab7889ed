"""A few-step sampler as free numbers, to be designed or fitted: the levels of its queries, and full-history rows."""

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

#: A query above this σ/α tells nothing about data of unit size. A path that starts without signal has no other limit.
_NOISIEST = 1e3
#: The least gap between two queries, as a share of the range of log(σ/α), so that gaps have a logarithm.
_LEAST_GAP = 1e-6


def check_history(history: int | None) -> None:
    """Raise ConfigurationError unless ``history`` is a whole number ≥ 0 or None."""
    if history is not None and (isinstance(history, bool) or not isinstance(history, int) or history < 0):
        raise ConfigurationError(
            f"got {history!r}", where="history", suggestion="give a whole number ≥ 0, or None for all"
        )


class Frame(NamedTuple):
    """All rows that a table may have at one place: offset + weights @ directions.

    Attributes:
        offset: shape (1 + N,).
        directions: shape (number of weights, 1 + N).
    """

    offset: Array
    directions: Array

    def row(self, weights: Array) -> Array:
        """Return the row with these weights, shape (1 + N,)."""
        row: Array = self.offset + weights @ self.directions
        return row

    def weights(self, row: Array) -> Array:
        """Return the weights of a row, or of the nearest row that the frame holds."""
        if not len(self.directions):
            return np.zeros(0)
        weights: Array = np.linalg.lstsq(self.directions.T, row - self.offset, rcond=None)[0]
        return weights


@final
@dataclass(frozen=True, eq=False)
class Table:
    """N queries of the model and N + 1 rows of coefficients. Immutable.

    A row writes a state as a combination of x_T and the clean samples predicted so far. States are counted in units
    of the radius r = √(α² + σ²) of their level, u = x/r. All numbers are then of order one on every path, also where
    α = 0, or where σ/α is 80 or 20,000. With D_j the clean sample predicted at query j,

        u_i = rows[i, 0]·u_T + Σ_{j<i} rows[i, 1 + j]·D_j,        i = 0 … N.

    For i < N, u_i is the state at which the model is evaluated, at the level ``levels[i]``. u_N is the result, at the
    level ``end``. Row 0 has no prediction to read: it scales x_T to the first query's level.

    A row is *consistent* if it reproduces constant data: D_j = k and x_T = α_T·k (+ noise) give α_i·k (+ noise). That
    means rows[i, 0]·α_T/r_T + Σ_j rows[i, 1 + j] = α_i/r_i ("rows sum to one" in x/α). Row 0 cannot be consistent,
    unless the first query is at the start's level.

    Attributes:
        start: the level of x_T, the path's noisiest.
        levels: the levels of the N queries.
        rows: shape (N + 1, N + 1), zero where 1 + j > i.
        end: the level at which the run ends, usually the clean sample.
        history: the number of earlier predictions that a row of the execution form may read beside the newest one.
            It limits the memory of a run. None: all of them.

    Raises:
        ConfigurationError: the rows have another shape, read predictions not yet made, or are not finite.
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
        """r = √(α² + σ²) of the N queries and of the end, shape (N + 1,). The model is evaluated at r_i·u_i."""
        return np.array([math.hypot(level.alpha, level.sigma) for level in (*self.levels, self.end)])

    @property
    def start_radius(self) -> float:
        """r_T, with which a run starts at u_T = x_T/r_T."""
        return math.hypot(self.start.alpha, self.start.sigma)

    @property
    def moves_first(self) -> bool:
        """Whether row 0 scales x_T to another level, because the first query is not at the start."""
        return self.levels[0][1:] != self.start[1:]

    @functools.cached_property
    def signals(self) -> Array:
        """α/r of the N queries and of the end, shape (N + 1,): what consistent rows give for constant data 1."""
        return np.array([level.alpha for level in (*self.levels, self.end)]) / self.radii

    @functools.cached_property
    def of_constant(self) -> Array:
        """u_T and the D_j for constant data 1: (α_T/r_T, 1, …, 1), shape (N + 1,)."""
        return np.array([self.start.alpha / self.start_radius, *[1.0] * self.nfe])

    @property
    def constant_residual(self) -> Array:
        """The error of each row for constant data 1, shape (N + 1,). Row 0 has one where it scales x_T."""
        residual: Array = self.rows @ self.of_constant - self.signals
        return residual

    @property
    def gain(self) -> float:
        """The largest factor by which a row multiplies errors of the predictions: max_i Σ_j |rows[i, 1 + j]|/(α_i/r_i).

        It is 1 where all weights are positive and the rows are consistent.
        """
        scale = np.maximum(self.signals, 1e-3)
        return float((np.abs(self.rows[:, 1:]).sum(axis=1) / scale).max())

    def frame(self, i: int, *, consistent: bool = True, rows: Array | None = None) -> Frame:
        """Return the frame of row i, given the rows before it.

        Row i combines u_T (with limited history: the state before) and the predictions that it may read, from the
        oldest to the newest. In a consistent row the weight of the newest prediction D_new follows from the other
        weights. The directions are then u_T − (α_T/r_T)·D_new and D_j − D_new.

        Args:
            i: 0 … N. Row 0 has one weight, the factor of u_T, or none where the first query is at the start.
            consistent: whether the frame holds only rows that reproduce constant data.
            rows: rows to use in place of the table's own; the ones before i are read.
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
        """Return the table with another row i. The rows after it do not change."""
        rows = np.array(self.rows)
        rows[i] = row
        return replace(self, rows=rows)

    def with_levels(self, levels: Iterable[Level]) -> Table:
        """Return the table with the same :attr:`weights` at other query levels. A consistent table stays consistent."""
        moved = replace(self, levels=tuple(levels))
        if not self.is_consistent:
            return moved
        # in these units the scaling of x_T is 1 where the first query does not move
        scaling = self.weights[: self.moves_first] if self.moves_first else np.ones(1)
        return moved.with_weights(np.append(scaling[: moved.moves_first], self.weights[self.moves_first :]))

    @property
    def is_consistent(self) -> bool:
        """Whether all rows but the first reproduce constant data, up to rounding."""
        scale = 1.0 + np.abs(self.rows).sum(axis=1)
        return bool((np.abs(self.constant_residual) <= 1e-9 * scale)[1:].all())

    @property
    def weights(self) -> Array:
        """The weights of all consistent rows (:meth:`frame`), from row 0 on, in one array."""
        return np.concatenate([self.frame(i).weights(self.rows[i]) for i in range(1 + self.nfe)])

    def with_weights(self, weights: Array) -> Table:
        """Return the consistent table with these :attr:`weights` at the same levels."""
        table, at = self, 0
        for i in range(1 + self.nfe):
            frame = table.frame(i)
            size = len(frame.directions)
            table = table.with_row(i, frame.row(np.asarray(weights[at : at + size], dtype=np.float64)))
            at += size
        return table

    def limited(self, history: int | None) -> Table:
        """Return the nearest table whose rows read at most ``history`` earlier predictions. Its samples differ."""
        bounded = replace(self, history=history)
        return bounded.with_weights(bounded.weights)

    @classmethod
    def of_plan(cls, plan: SamplingPlan, *, start: Level | None = None, history: int | None = None) -> Table:
        """Write a deterministic plan as a table, whatever the space of its history.

        Args:
            plan: the plan.
            start: the level of x_T; the default is the plan's first. A plan with an analytic first step does not hold
                it: give ``sampler.grid(...).levels[0]``.
            history: the table's :attr:`history`. The rows are then the nearest ones that it allows.

        Raises:
            ConfigurationError: the plan adds noise, reads unconditional predictions, or scales the network's input;
                or its first state is not at the start's level.
        """
        if plan.stochastic or plan.null is not None or plan.delta is not None or plan.input_scale is not None:
            raise ConfigurationError(
                f"the plan of {plan.sampler!r} has more than states and predictions",
                where="plan",
                why="it adds noise, reads unconditional predictions, or scales the network's input",
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
        """Return the plan that runs this table, with N model calls in N steps.

        Args:
            start: the level of the first state. "noisiest": the first state is x_T, and row 0 becomes a leading row
                without a model call. "query": the first state is at the first query's level, and the scaling is part of
                ``prior_scale``. Programs that run no leading row need the latter; runs from a given sample then
                start at another level.
            sampler, options, provenance: for the fields of these names of the plan.

        Raises:
            ConfigurationError: ``start`` is another value.
            NumericsError: a coefficient is not finite or too large to run.
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
    """The levels of a path at which the model may be evaluated, and query levels as free numbers.

    Any vector of real numbers stands for strictly falling levels inside the trained range. N queries leave N + 1 gaps
    of log(σ/α): from the noisiest level to the first query, between queries, and from the last query to the cleanest
    level. With z = (vector, 0), gap_j/Σ gap = exp(z_j)/Σ exp(z).

    Attributes:
        path: the noise schedule.
        first_fixed: whether the first query stays at the path's noisiest level and has no number.
    """

    path: NoisePath
    first_fixed: bool = False

    @functools.cached_property
    def ends(self) -> tuple[float, float]:
        """log(σ/α) of the noisiest and of the cleanest level of the range."""
        low, high = (level.noise_to_signal for level in self.path.levels([self.path.t_min, self.path.t_max]))
        return math.log(min(high, max(_NOISIEST, 10.0 * low))), math.log(low)

    def level(self, log_noise: float) -> Level:
        """Return the path's level with this log(σ/α), or the nearest level of the range."""
        top, bottom = self.ends
        inside = min(max(log_noise, bottom), top)
        if inside == bottom:
            return self.path.level(self.path.t_min)
        if inside == top and math.exp(top) < _NOISIEST:
            return self.path.level(self.path.t_max)
        return self.path.level_at(-2.0 * inside)

    def levels(self, vector: Array) -> tuple[Level, ...]:
        """Return the N levels of a vector of shape (N,), or (N − 1,) with the first level fixed."""
        top, bottom = self.ends
        z = np.append(np.asarray(vector, dtype=np.float64), 0.0)
        gaps = np.exp(z - z.max())
        places = top + (bottom - top) * np.cumsum(gaps / gaps.sum())[:-1]
        inner = tuple(self.level(float(place)) for place in places)
        return (self.path.level(self.path.t_max), *inner) if self.first_fixed else inner

    def vector(self, levels: Sequence[Level]) -> Array:
        """Return the vector of these N levels, shape (N,), or (N − 1,) with the first level fixed.

        Levels that coincide or lie at the range's ends have no vector; the result is then that of levels very near.

        Raises:
            ConfigurationError: the levels rise.
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
