"""A few-step sampler as free numbers, to be designed or fitted: the levels of its queries, and full-history rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from ..config.prediction import conversion
from ..plans.canonical_form import execution_form
from ..plans.plan import SamplingPlan
from ..schedules.path import CLEAN, Level
from ..support.errors import ConfigurationError

__all__ = ["Frame", "Table", "check_history"]

Array = npt.NDArray[np.float64]

#: A coefficient below this fraction of its row's largest one is rounding.
_ROUNDING = 1e-12


def check_history(history: int | None) -> None:
    """Raise ConfigurationError unless ``history`` is a whole number ≥ 0 or None."""
    if history is not None and (isinstance(history, bool) or not isinstance(history, int) or history < 0):
        raise ConfigurationError(
            f"got {history!r}", where="history", suggestion="give a whole number ≥ 0, or None for all"
        )


class Frame(NamedTuple):
    """All rows that a table may have at one place: offset + weights @ directions.

    Attributes:
        offset: shape (columns,).
        directions: shape (number of weights, columns).
    """

    offset: Array
    directions: Array

    def row(self, weights: Array) -> Array:
        """Return the row with these weights, shape (columns,)."""
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

    A table may hold guidance. D_j is then the prediction under the condition, and δ_j, its difference from the
    unconditional prediction, is a column of its own for each query in ``both``, which evaluates both branches. Columns
    are in the order in which a run makes them: u_T, D_0, (δ_0,) D_1, (δ_1,) … Constant data have δ = 0, so the factors
    of δ are free. Without guidance of its own D_j is the guided prediction.

    Attributes:
        start: the level of x_T, the path's noisiest.
        levels: the levels of the N queries.
        rows: shape (N + 1, columns), zero in the columns that are made at row i or later.
        end: the level at which the run ends, usually the clean sample.
        history: the number of earlier predictions that a row of the execution form may read beside the newest one.
            It limits the memory of a run. None: all of them.
        scale: the guidance scale that the rows hold, or None.
        both: the queries that evaluate the unconditional branch, too, in order; none without ``scale``.

    Raises:
        ConfigurationError: the rows have another shape, read predictions not yet made, or are not finite.
    """

    start: Level
    levels: tuple[Level, ...]
    rows: Array
    end: Level = CLEAN
    history: int | None = None
    scale: float | None = None
    both: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rows = np.array(self.rows, dtype=np.float64)
        rows.flags.writeable = False
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "levels", tuple(Level(*level) for level in self.levels))
        calls = range(self.nfe if self.scale is not None else 0)
        if list(self.both) != [j for j in calls if j in self.both]:
            raise ConfigurationError(
                f"got {self.both} for {self.nfe} queries and scale {self.scale}", where="table.both",
                suggestion="give rising numbers of queries, and the scale",
            )  # fmt: skip
        shape = (1 + self.nfe, self.made[-1])
        too_early = rows.shape == shape and any(row[known:].any() for row, known in zip(rows, self.made, strict=True))
        if self.nfe < 1 or rows.shape != shape or not np.isfinite(rows).all() or too_early:
            raise ConfigurationError(
                f"rows of shape {rows.shape} for {self.nfe} queries",
                where="table",
                why="every state has a row, and reads x_T and the predictions made before it",
                suggestion=f"give finite rows of shape {shape}, each 0 in the columns that are made later",
            )
        check_history(self.history)

    @property
    def nfe(self) -> int:
        """N, the number of model calls."""
        return len(self.levels)

    @property
    def evaluations(self) -> int:
        """The evaluations of the model for each sample; without guidance of its own a guided call counts as one."""
        return self.nfe + len(self.both)

    @functools.cached_property
    def made(self) -> tuple[int, ...]:
        """The number of columns that a run has made before each query and at the end, N + 1 numbers."""
        return tuple(1 + i + sum(j < i for j in self.both) for i in range(1 + self.nfe))

    def column(self, query: int, *, delta: bool = False) -> int:
        """The number of the column of a query's D, or of its δ."""
        return self.made[query] + delta

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
        """The columns for constant data 1: u_T is α_T/r_T, D_j is 1, δ_j is 0. Shape (columns,)."""
        values = np.zeros(self.made[-1])
        values[0], values[list(self.made[:-1])] = self.start.alpha / self.start_radius, 1.0
        return values

    @property
    def constant_residual(self) -> Array:
        """The error of each row for constant data 1, shape (N + 1,). Row 0 has one where it scales x_T."""
        residual: Array = self.rows @ self.of_constant - self.signals
        return residual

    @property
    def gain(self) -> float:
        """The largest factor by which a row multiplies errors of predictions: max_i Σ_j |rows[i, 1 + j]|/(α_i/r_i).

        It is 1 where all weights are positive and the rows are consistent. In a table that holds guidance of scale s,
        the errors of the two branches count: of D_j by the factors of D_j and δ_j together, of the unconditional branch
        by the factor of δ_j. The sum is divided by |s| + |s − 1|, what guidance itself makes of such errors.
        """
        signals = np.maximum(self.signals, 1e-3)
        factors = np.array(self.rows[:, list(self.made[:-1])])
        deltas = self.rows[:, [self.column(j, delta=True) for j in self.both]]
        factors[:, list(self.both)] += deltas
        total = np.abs(factors).sum(axis=1) + np.abs(deltas).sum(axis=1)
        own = 1.0 if self.scale is None else abs(self.scale) + abs(self.scale - 1.0)
        return float((total / signals).max()) / own

    def frame(self, i: int, *, consistent: bool = True, rows: Array | None = None) -> Frame:
        """Return the frame of row i, given the rows before it.

        Row i combines u_T (with limited history: the state before) and the predictions that it may read, from the
        oldest to the newest. In a consistent row the weight of the newest prediction D_new follows from the other
        weights. The directions are then u_T − (α_T/r_T)·D_new and D_j − D_new, and the δ_j themselves.

        Args:
            i: 0 … N. Row 0 has one weight, the factor of u_T, or none where the first query is at the start.
            consistent: whether the frame holds only rows that reproduce constant data.
            rows: rows to use in place of the table's own; the ones before i are read.
        """
        given = self.rows if rows is None else rows
        unit = np.eye(self.made[-1])
        if i == 0:
            return Frame(0.0 * unit[0], unit[:1]) if self.moves_first else Frame(unit[0], unit[:0])
        oldest, head = 0, unit[0]
        if self.history is not None and i - 1 > self.history:
            oldest, head = i - 1 - self.history, given[i - 1]
        columns = np.stack([head, *unit[self.made[oldest] : self.made[i]]])
        if not consistent:
            return Frame(0.0 * unit[0], columns)
        last = len(columns) - (self.made[i] - self.made[i - 1])  # D of the query before; its δ may follow
        newest, others = columns[last], np.delete(columns, last, axis=0)
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

    @functools.cached_property
    def weights(self) -> Array:
        """The weights of all consistent rows (:meth:`frame`), from row 0 on, in one read-only array."""
        weights = np.concatenate([self.frame(i).weights(self.rows[i]) for i in range(1 + self.nfe)])
        weights.flags.writeable = False
        return weights

    def with_weights(self, weights: Array) -> Table:
        """Return the consistent table with these :attr:`weights` at the same levels."""
        rows, at = np.array(self.rows), 0
        for i in range(1 + self.nfe):
            frame = self.frame(i, rows=rows)
            size = len(frame.directions)
            rows[i] = frame.row(np.asarray(weights[at : at + size], dtype=np.float64))
            at += size
        return replace(self, rows=rows)

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
            ConfigurationError: the plan adds noise, reads unconditional predictions (CFG++), scales the network's
                input, or is for networks of two times; or its first state is not at the start's level.
        """
        if plan.stochastic or plan.two_times or plan.null is not None or plan.input_scale is not None:
            raise ConfigurationError(
                f"the plan of {plan.sampler!r} has more than states and predictions",
                where="plan",
                why="it adds noise, reads unconditional predictions, scales the network's input, or asks at two times",
                suggestion="give a deterministic plan without CFG++, e.g. of 'dpmpp_2m', 'ipndm' or 'unipc'",
            )
        asked = [i for i in range(len(plan)) if plan.asked[i]]
        both = tuple(j for j, i in enumerate(asked) if plan.both is not None and plan.both[i])
        made = np.cumsum([1, *(1 + (j in both) for j in range(plan.nfe))])
        column = dict(zip(asked, made, strict=False))
        state, rows = np.eye(made[-1])[0], []
        ys, deltas = np.zeros((2, len(plan), made[-1]))
        no_delta = np.zeros((len(plan), 0))
        for i in range(len(plan)):
            after = plan.a[i] * state
            if i in column:
                rows.append(state)
                of_x, of_clean = conversion("sample", plan.space_of(i), float(plan.alpha[i]), float(plan.sigma[i]))
                ys[i] = of_x * state
                ys[i, column[i]] += of_clean
                if plan.both is not None and plan.both[i]:
                    deltas[i, column[i] + 1] = of_clean
            after = after + plan.raw[i] * ys[i]
            for factors, values in ((plan.b, ys), (no_delta if plan.delta is None else plan.delta, deltas)):
                for k in range(min(i + 1, factors.shape[1])):
                    after = after + factors[i, k] * values[i - k]
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
        empty = cls(
            begin, tuple(level[i] for i in asked), np.zeros((1 + plan.nfe, made[-1])), end, scale=plan.scale, both=both
        )
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
        leads = int(self.moves_first and start == "noisiest")
        scale = self.start_radius
        if self.moves_first and not leads:
            scale, rows[:, 0] = scale * rows[0, 0], rows[:, 0] / rows[0, 0]
        asked = list(self.levels)
        levels = [self.start, *asked] if leads else asked
        count = len(levels)
        of_y, of_delta = np.zeros((2, count + 1, count))
        state = np.append(np.ones(leads), rows[:, 0])
        of_y[leads:, leads:] = rows[:, list(self.made[:-1])]
        of_delta[leads:, [leads + j for j in self.both]] = rows[:, [self.column(j, delta=True) for j in self.both]]
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
        if self.scale is None:
            return empty.with_canonical(state, of_y, 0.0 * of_y)
        a, b, delta = execution_form(state, of_y, of_delta, _ROUNDING)
        both = np.isin(np.arange(count) - leads, self.both).astype(np.int64)
        return replace(empty, a=a, b=b, delta=delta, both=both, scale=self.scale).checked()
