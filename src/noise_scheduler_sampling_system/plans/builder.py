"""How a sampler writes a plan: linear forms in, rows out.

A sampler's mathematics is linear in the state, the predictions and the noise. It is written
here as such, with the quantities of the paper, on :class:`Form` objects; the builder reads
the coefficients off. Example, one DDIM step::

    p = build.predict(now, i)                        # asks the model: one row
    build.advance(after.alpha * p.sample + after.sigma * p.epsilon)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..config.prediction import conversion, quantity
from ..schedules.path import Level
from ..support.errors import ConfigurationError, NumericsError, shown
from .plan import SamplingPlan

__all__ = ["Form", "PlanBuilder", "Prediction", "StepGuard"]

#: (kind, row): "x" the state before a row, "y" its prediction, "raw" the same before clipping,
#: "null" that of the unconditional branch; for "noise" the second entry is the noise's own number.
Symbol = tuple[str, int]
#: Coefficients below this fraction of a row's largest are rounding.
_ROUNDING = 1e-12


class Form:
    """A linear combination Σ coefficient·symbol; supports +, −, ``sum``, and · and / with numbers.

    0 is the empty combination. Other numbers cannot be added, and forms cannot be multiplied: the result would not
    be linear.

    Raises:
        ConfigurationError: a number other than 0 is added, a factor is no number, or a divisor is 0.
    """

    __slots__ = ("terms",)
    __array_ufunc__ = None  # a number of NumPy leaves the arithmetic to this class

    def __init__(self, terms: Mapping[Symbol, float] = {}) -> None:
        self.terms = terms

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and dict(self.terms) == dict(other.terms)

    def __hash__(self) -> int:
        return hash(frozenset(self.terms))

    def __add__(self, other: Form | float) -> Form:
        if not isinstance(other, Form):
            return self._with_number(other, "{} is added to a form")
        terms = dict(self.terms)
        for symbol, coefficient in other.terms.items():
            terms[symbol] = terms.get(symbol, 0.0) + coefficient
        return Form(terms)

    def __sub__(self, other: Form | float) -> Form:
        if not isinstance(other, Form):
            return self._with_number(other, "{} is subtracted from a form")
        return self + other * -1.0

    def __rsub__(self, other: float) -> Form:
        return self._with_number(other, "a form is subtracted from {}") * -1.0

    def __mul__(self, factor: float) -> Form:
        number = _factor(factor, "multiplied by")
        return Form({symbol: coefficient * number for symbol, coefficient in self.terms.items()})

    def __neg__(self) -> Form:
        return self * -1.0

    def __pos__(self) -> Form:
        return self

    def __truediv__(self, divisor: float) -> Form:
        number = _factor(divisor, "divided by")
        if number == 0.0:
            raise ConfigurationError(
                "a form is divided by 0",
                where="formula",
                why="α is 0 at a level without signal, and σ at the clean sample: the formula is not defined there",
                suggestion="take a first-order step there: after.alpha * p.sample + after.sigma * p.epsilon",
            )
        return Form({symbol: coefficient / number for symbol, coefficient in self.terms.items()})

    def __rtruediv__(self, other: object) -> Form:
        raise _not_linear(f"{shown(other)} is divided by a form")

    def __pow__(self, exponent: object) -> Form:
        raise _not_linear("a form is raised to a power")

    def _with_number(self, other: object, how: str) -> Form:
        """This form, if the number is 0."""
        if isinstance(other, int | float | np.number) and not isinstance(other, bool) and other == 0:
            return self
        raise ConfigurationError(
            how.format(shown(other)),
            where="formula",
            why="a form is a linear combination of the state, predictions and noise, and has no constant term",
            suggestion="add forms, multiplied by numbers; 0 may be added",
        )

    def __repr__(self) -> str:
        terms = " + ".join(f"{coefficient:g}·{kind}[{i}]" for (kind, i), coefficient in self.terms.items())
        return f"Form({terms or '0'})"

    __radd__ = __add__
    __rmul__ = __mul__


def _factor(value: object, how: str) -> float:
    """A number that a form is multiplied or divided by."""
    if type(value) is float:
        return value
    if isinstance(value, Form):
        raise _not_linear(f"a form is {how} a form")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if isinstance(value, bool | str) or (math.isnan(number) and not isinstance(value, float | np.floating)):
        raise ConfigurationError(
            f"a form is {how} {shown(value)}", where="formula", suggestion="multiply and divide forms by numbers"
        )
    return number


def _not_linear(what: str) -> ConfigurationError:
    return ConfigurationError(
        what,
        where="formula",
        why="a step of a plan is linear in the state, the predictions and the noise, and this is not",
        suggestion="multiply forms by numbers only; what depends on the data belongs into the model or into guidance",
    )


@dataclass(frozen=True)
class Prediction:
    """What the model says at one level, in every parametrisation.

    Attributes:
        level: where it was asked.
        x: the state it was asked about.
        y: its prediction in the plan's space, after guidance and clipping.
        raw: the same before clipping.
        null: that of the unconditional branch.
        space: the plan's space.
    """

    level: Level
    x: Form
    y: Form
    raw: Form
    null: Form
    space: str

    @property
    def sample(self) -> Form:
        """The predicted clean sample x₀."""
        return self._as("sample", self.y)

    @property
    def epsilon(self) -> Form:
        """The predicted noise ε, consistent with the (clipped) clean sample."""
        return self._as("epsilon", self.y)

    @property
    def raw_epsilon(self) -> Form:
        """The predicted noise ε before clipping."""
        return self._as("epsilon", self.raw)

    @property
    def null_epsilon(self) -> Form:
        """The noise ε that the unconditional branch predicts; the guided one where there is no guidance."""
        return self._as("epsilon", self.null)

    def of(self, quantity: str) -> Form:
        """Any quantity that networks predict, by its name."""
        return self._as(quantity, self.y)

    def _as(self, target: str, prediction: Form) -> Form:
        if target == self.space:
            return prediction
        x_factor, y_factor = conversion(self.space, target, self.level.alpha, self.level.sigma)
        return x_factor * self.x + y_factor * prediction


@dataclass
class _Row:
    level: Level
    step: int
    asks: bool = True
    terms: dict[Symbol, float] = field(default_factory=dict)
    log_variance: tuple[float, float] = (0.0, 0.0)


class StepGuard(Protocol):
    """What chooses between forms of one step while a plan is written."""

    def predicted(self, row: int, state: Form, level: Level, space: str) -> None:
        """Note that the model is evaluated at this state, at this level, in row ``row``."""

    def choose(self, after: Level, rungs: Iterable[Form]) -> tuple[Form, float]:
        """The state at ``after`` from forms of falling order, and how far it is outside the bounds (≤ 0: inside)."""


class PlanBuilder:
    """Collects the rows of a plan while a sampler runs through its grid.

    Args:
        space: in which quantity the history is kept: "sample", "epsilon", ...
        analytic_first: answer the first prediction without the model, by what is known of pure
            noise: E[x₀ | x] = α·x/(α² + σ²) for data of unit variance (the analytic first step of
            Dockhorn et al. 2022, arXiv 2210.05475, App. B). One model call less.
        guard: chooses between the forms that :meth:`settle` is given; None: always the first.
    """

    def __init__(self, space: str, *, analytic_first: bool = False, guard: StepGuard | None = None) -> None:
        self.space = space
        self._guard = guard
        self._analytic = analytic_first
        self._rows: list[_Row] = []
        self._noises: list[tuple[int, int]] = []
        self._spans: list[tuple[float, float]] = []
        self._used: set[int] = set()
        self._state = Form({("x", 0): 1.0})

    @property
    def x(self) -> Form:
        """The current state."""
        return self._state

    @property
    def opened(self) -> int:
        """The rows that ask the model, so far."""
        return sum(row.asks for row in self._rows)

    def predict(self, level: Level, step: int) -> Prediction:
        """Ask the model about the current state: opens a row.

        Args:
            level: the noise level of the current state.
            step: the index of the interval of the grid that the call belongs to.
        """
        self._close(level)
        fresh = self._state.terms == {("x", len(self._rows)): 1.0}
        if not self._rows and not fresh:  # what came before the first call: a row of its own
            self._rows.append(_Row(level, step, asks=False, terms=dict(self._state.terms)))
            self._split_noises(level)
        i = len(self._rows)
        # without signal ε says nothing of the data
        space = "sample" if self.space == "epsilon" and level.alpha == 0.0 else self.space
        if self._guard is not None:
            self._guard.predicted(i, self._state, level, space)
        self._state = x = Form({("x", i): 1.0})
        if self._analytic:
            self._analytic = False
            square = level.alpha**2 + level.sigma**2
            of_clean, of_noise = quantity(space, level.alpha, level.sigma)
            y = x * ((of_clean * level.alpha + of_noise * level.sigma) / square)
            return Prediction(level, x, y, y, y, space)
        self._rows.append(_Row(level, step))
        y, raw, null = (Form({(kind, i): 1.0}) for kind in ("y", "raw", "null"))
        return Prediction(level, x, y, raw, null, space)

    def noise(self, step: int, now: Level | None = None, after: Level | None = None) -> Form:
        """Fresh unit-variance noise, keyed by the step (several in one step differ).

        Args:
            step: the interval.
            now, after: where the noise is that of a diffusion from one level to the other, these; so
                that runs of different step sizes can share one Brownian motion.
        """
        stage = sum(1 for key in self._noises if key[0] == step)
        self._noises.append((step, stage))
        span = (0.0, 0.0) if now is None or after is None else (_clock(now), _clock(after))
        self._spans.append(span)
        return Form({("noise", len(self._noises) - 1): 1.0})

    def learned_noise(self, step: int, log_variance: tuple[float, float]) -> Form:
        """Noise whose log-variance the model interpolates between these two bounds."""
        if not self._rows:
            raise ConfigurationError(
                "the first step asks no model", where="afs", why="its noise is to have the variance that the model "
                "predicts", suggestion="leave out afs, or give another variance_type",
            )  # fmt: skip
        self._rows[-1].log_variance = log_variance
        return self.noise(step)

    def advance(self, state: Form) -> None:
        """Make a linear form of older states, predictions and noise the current state.

        Raises:
            ConfigurationError: not a form.
        """
        if not isinstance(state, Form):
            raise ConfigurationError(
                f"got {shown(state)}",
                where="advance",
                suggestion="give a combination of build.x, predictions and noise",
            )
        self._state = self.shortened(state)

    def shortened(self, state: Form) -> Form:
        """The same form in terms of the state before the open row, so that what is built on it stays short."""
        return Form(self._relative_to(len(self._rows) - 1, state)) if self._rows else state

    def settle(self, after: Level, rungs: Iterable[Form]) -> None:
        """Make one of several forms of the same step the current state.

        Args:
            after: the level that the step ends at.
            rungs: the step in falling order; the last one is the first-order step. They are read one by
                one, as far as they are needed. Without a guard the first is taken.
        """
        chosen = next(iter(rungs)) if self._guard is None else self._guard.choose(after, rungs)[0]
        self.advance(chosen)

    def attempt(self, after: Level, ways: Sequence[Callable[[], Iterable[Form]]]) -> None:
        """Write one step in the first of several ways that keeps the guard's bounds, or in the one that is nearest.

        Args:
            after: the level that the step ends at.
            ways: functions that write the rows of the step up to its last and return forms for
                :meth:`settle`. Rows of a way that is not taken are removed again. Without a guard the first is taken.
        """
        if self._guard is None:
            self.advance(next(iter(ways[0]())))
            return
        start, best = self._mark(), (math.inf, 0)
        for k, way in enumerate(ways):
            form, excess = self._guard.choose(after, way())
            if excess <= 0.0:
                self.advance(form)
                return
            best = min(best, (excess, k))
            self._rewind(start)
        self.advance(self._guard.choose(after, ways[best[1]]())[0])

    def _mark(self) -> tuple[Any, ...]:
        open_row = bool(self._rows) and not self._rows[-1].terms
        return len(self._rows), open_row, len(self._noises), set(self._used), self._state

    def _rewind(self, mark: tuple[Any, ...]) -> None:
        """Forget what was written since."""
        rows, open_row, noises, self._used, self._state = mark[0], mark[1], mark[2], set(mark[3]), mark[4]
        del self._rows[rows:], self._noises[noises:], self._spans[noises:]
        if open_row:
            self._rows[-1].terms = {}

    def _close(self, after: Level) -> None:
        """Write the open row: the current state, at this level, in terms of the state before it."""
        if self._rows and not self._rows[-1].terms:
            self._rows[-1].terms = dict(self._state.terms)
            self._split_noises(after)

    def _split_noises(self, after: Level) -> None:
        """Leave the last row the first noise that is new in it, and give each other one a row of its own."""
        row = self._rows[-1]
        fresh = [j for kind, j in row.terms if kind == "noise" and j not in self._used]
        self._used.update(fresh)
        for j in fresh[1:]:
            i = len(self._rows)
            coefficient = row.terms.pop(("noise", j))
            level = Level(row.level.t, after.alpha, after.sigma)  # the clean end has no time
            self._rows.append(_Row(level, row.step, asks=False, terms={("x", i): 1.0, ("noise", j): coefficient}))

    def _relative_to(self, i: int, form: Form) -> dict[Symbol, float]:
        """Rewrite older states by the rows that led from them to state i."""
        while older := [k for (kind, k), c in form.terms.items() if kind == "x" and k < i and c != 0.0]:
            k = min(older)
            row, rest = self._rows[k].terms, dict(form.terms)
            weight = rest.pop(("x", k))
            factor = row.get(("x", k), 0.0)
            if factor == 0.0:
                raise NumericsError(
                    f"row {i} needs the state before row {k}, which cannot be recovered",
                    where="sampler",
                    why=f"row {k} does not depend on it",
                    suggestion="write the step in terms of later states and predictions",
                )
            moved = Form({symbol: c for symbol, c in row.items() if symbol != ("x", k)})
            form = Form(rest) + (Form({("x", k + 1): 1.0}) - moved) * (weight / factor)
        # what should have cancelled on the way is left as rounding, and would be kept in memory for nothing
        largest = max((abs(c) for c in form.terms.values()), default=0.0)
        return {symbol: c for symbol, c in form.terms.items() if abs(c) > _ROUNDING * largest}

    def build(self, end: Level, prior_scale: float, **metadata: Any) -> SamplingPlan:
        """The finished plan, checked.

        Args:
            end: the level at which the run ends.
            prior_scale: the factor that turns unit noise into the first state.
            metadata: ``sampler``, ``order``, ``options``: what the plan was made from.

        Raises:
            NumericsError: a coefficient that is not finite, or a row that does not reproduce
                constant data.
        """
        self._close(end)
        rows, count = self._rows, len(self._rows)
        homes = {j: i for i in range(count - 1, -1, -1) for kind, j in rows[i].terms if kind == "noise"}
        reach = {"y": 0, "noise": 0}
        for i, row in enumerate(rows):
            for kind, j in row.terms:
                if kind in reach:
                    reach[kind] = max(reach[kind], i - (j if kind == "y" else homes[j]))
        a, raw, null = np.zeros(count), np.zeros(count), np.zeros(count)
        b, c = np.zeros((count, reach["y"] + 1)), np.zeros((count, reach["noise"] + 1))
        keys, spans = np.full((count, 2), -1, dtype=np.int64), np.zeros((count, 2))
        for i, row in enumerate(rows):
            for (kind, j), coefficient in row.terms.items():
                if kind == "x":
                    a[i] = coefficient
                elif kind == "y":
                    b[i, i - j] = coefficient
                elif kind == "noise":
                    c[i, i - homes[j]] = coefficient
                    keys[homes[j]], spans[homes[j]] = self._noises[j], self._spans[j]
                elif j == i:
                    (raw if kind == "raw" else null)[i] = coefficient
                else:
                    raise NumericsError(
                        f"row {i} reads the unclipped or unconditional prediction of row {j}",
                        where="sampler",
                        suggestion="use such predictions in the row that made them only",
                    )
        learned = any(row.log_variance != (0.0, 0.0) for row in rows)
        return SamplingPlan(
            space=self.space,
            time=np.array([row.level.t for row in rows]),
            alpha=np.array([row.level.alpha for row in rows] + [end.alpha]),
            sigma=np.array([row.level.sigma for row in rows] + [end.sigma]),
            step=np.array([row.step for row in rows], dtype=np.int64),
            a=a,
            b=b,
            raw=raw,
            c=c,
            noise_key=keys,
            asks=None if all(row.asks for row in rows) else np.array([row.asks for row in rows]),
            null=null if null.any() else None,
            noise_span=spans if spans.any() else None,
            log_variance=np.array([row.log_variance for row in rows]) if learned else None,
            prior_scale=prior_scale,
            **metadata,
        ).checked()


def _clock(level: Level) -> float:
    """A finite time of a noise level for Brownian motion: 0 at the clean end, 1 without signal."""
    return 2.0 / math.pi * math.atan2(level.sigma, level.alpha)
