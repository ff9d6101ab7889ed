"""The builder of plans: a sampler writes linear forms, and the builder reads the rows off.

The mathematics of a sampler is linear in the state, the predictions and the noise. A sampler writes it with the
quantities of its paper, on :class:`Form` objects. One DDIM step evaluates the model, which is one row of the plan, and
makes a combination the new state:

    >>> from noise_scheduler_sampling_system import DiffusionPipeline
    >>> from noise_scheduler_sampling_system.plans import PlanBuilder
    >>> pipeline = DiffusionPipeline(None, "ddim")
    >>> now, after = pipeline.grid(4).levels[:2]
    >>> build = PlanBuilder("sample")
    >>> p = build.predict(now, 0)
    >>> build.advance(after.alpha * p.sample + after.sigma * p.epsilon)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import numpy as np

from ..config.prediction import SecondLevel, conversion, quantity, row_space
from ..schedules.path import Level
from ..support.errors import ConfigurationError, NumericsError, shown
from .linear_form import Form, Symbol
from .plan import SamplingPlan

__all__ = ["PlanBuilder", "Prediction", "StepGuard"]

#: A coefficient below this fraction of its row's largest is rounding.
_ROUNDING = 1e-12


@final
@dataclass(frozen=True)
class Prediction:
    """The model's prediction at one level, as every quantity.

    Attributes:
        level: of the evaluation.
        x: the state that the model was evaluated at.
        y: the prediction in the plan's space, after guidance and clipping.
        raw: the same before clipping.
        null: the prediction of the unconditional branch.
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
        """The noise ε that the unconditional branch predicts; without guidance it is ``epsilon``."""
        return self._as("epsilon", self.null)

    def of(self, quantity: str) -> Form:
        """The prediction as a quantity that networks predict, by its name."""
        return self._as(quantity, self.y)

    def _as(self, target: str, prediction: Form) -> Form:
        if target == self.space:
            return prediction
        x_factor, y_factor = conversion(self.space, target, self.level.alpha, self.level.sigma)
        return x_factor * self.x + y_factor * prediction


@final
@dataclass
class _WrittenRow:
    """A row as the sampler writes it: the next state as a linear form, empty while the row is open."""

    level: Level
    step: int
    to: SecondLevel | None = None
    evaluates: bool = True
    terms: dict[Symbol, float] = field(default_factory=dict)
    log_variance: tuple[float, float] = (0.0, 0.0)


class StepGuard(Protocol):
    """Chooses between forms of one step while a sampler writes its plan."""

    def predicted(self, row: int, state: Form, level: Level, space: str) -> None:
        """Note that the model is evaluated at this state, at this level, in row ``row``."""

    def choose(self, after: Level, rungs: Iterable[Form]) -> tuple[Form, float]:
        """The state at ``after``, from forms of falling order, and by how much it exceeds the bounds (≤ 0: inside)."""


@final
class PlanBuilder:
    """Collects the rows of a plan while a sampler goes through its grid.

    Args:
        space: the quantity of the history: "sample", "epsilon", ...
        analytic_first: replace the first model call by E[x₀ | x] = α·x/(α² + σ²), which is exact for pure noise
            and data of unit variance (the analytic first step of Dockhorn et al. 2022, arXiv 2210.05475, App. B).
        guard: chooses between the forms that :meth:`settle` is given; None: always the first.
    """

    def __init__(self, space: str, *, analytic_first: bool = False, guard: StepGuard | None = None) -> None:
        self.space = space
        self._guard = guard
        self._analytic = analytic_first
        self._rows: list[_WrittenRow] = []
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
        """The number of rows so far that evaluate the model."""
        return sum(row.evaluates for row in self._rows)

    def predict(self, level: Level, step: int, *, to: SecondLevel | None = None) -> Prediction:
        """Evaluate the model at the current state; this opens a row.

        Args:
            level: the noise level of the current state.
            step: the index of the call's interval of the grid.
            to: the level that a network of two times is asked for (:meth:`NoisePath.second_level`). The prediction is
                then that of the straight step to it: α_r·sample + σ_r·epsilon is the state x_r. None: the network has
                one time; in a plan for networks of two times, the level itself, r = t.
        """
        self._close(level)
        fresh = self._state.terms == {("x", len(self._rows)): 1.0}
        if not self._rows and not fresh:  # the sampler moved before its first call, which takes a row
            self._rows.append(_WrittenRow(level, step, evaluates=False, terms=dict(self._state.terms)))
            self._split_noises(level)
        i = len(self._rows)
        space = row_space(self.space, level.alpha, level.sigma)
        if self._guard is not None:
            self._guard.predicted(i, self._state, level, space)
        self._state = x = Form({("x", i): 1.0})
        if self._analytic:
            self._analytic = False
            square = level.alpha**2 + level.sigma**2
            of_clean, of_noise = quantity(space, level.alpha, level.sigma)
            y = x * ((of_clean * level.alpha + of_noise * level.sigma) / square)
            return Prediction(level, x, y, y, y, space)
        self._rows.append(_WrittenRow(level, step, to))
        y, raw, null = (Form({(kind, i): 1.0}) for kind in ("y", "raw", "null"))
        return Prediction(level, x, y, raw, null, space)

    def noise(self, step: int, now: Level | None = None, after: Level | None = None) -> Form:
        """Fresh unit noise with a key of this step; each call in one step returns another noise.

        Args:
            step: the index of the interval.
            now, after: the levels of the diffusion whose noise this is, if it is one. Runs of different step sizes
                can then share one Brownian motion.
        """
        stage = sum(1 for key in self._noises if key[0] == step)
        self._noises.append((step, stage))
        span = (0.0, 0.0) if now is None or after is None else (_clock(now), _clock(after))
        self._spans.append(span)
        return Form({("noise", len(self._noises) - 1): 1.0})

    def learned_noise(self, step: int, log_variance: tuple[float, float]) -> Form:
        """Noise whose log-variance the model interpolates between two bounds.

        Raises:
            ConfigurationError: no row has evaluated the model yet.
        """
        if not self._rows:
            raise ConfigurationError(
                "the first step does not evaluate the model", where="afs", why="its noise needs the variance that the "
                "model predicts", suggestion="leave out afs, or give another variance_type",
            )  # fmt: skip
        self._rows[-1].log_variance = log_variance
        return self.noise(step)

    def advance(self, state: Form) -> None:
        """Make a linear form of states, predictions and noise the current state.

        Raises:
            ConfigurationError: ``state`` is not a form.
        """
        if not isinstance(state, Form):
            raise ConfigurationError(
                f"got {shown(state)}",
                where="advance",
                suggestion="give a combination of build.x, predictions and noise",
            )
        self._state = self.shortened(state)

    def shortened(self, state: Form) -> Form:
        """The same form in terms of the state before the open row, which keeps forms that use it short."""
        return Form(self._relative_to(len(self._rows) - 1, state)) if self._rows else state

    def settle(self, after: Level, rungs: Iterable[Form]) -> None:
        """Make one of several forms of the same step the current state.

        Args:
            after: the level that the step ends at.
            rungs: forms of the step in falling order; the last one is the first-order step. The guard reads them one
                by one, as far as it needs them. Without a guard the first is taken.
        """
        chosen = next(iter(rungs)) if self._guard is None else self._guard.choose(after, rungs)[0]
        self.advance(chosen)

    def attempt(self, after: Level, ways: Sequence[Callable[[], Iterable[Form]]]) -> None:
        """Write one step in the first of several ways that keeps the guard's bounds, or else in the nearest one.

        Args:
            after: the level that the step ends at.
            ways: functions that write all rows of the step but the last, and return forms for :meth:`settle`. The
                rows of a way that is not taken are removed. Without a guard the first way is taken.
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
        """Remove everything that was written since the mark."""
        rows, open_row, noises, self._used, self._state = mark[0], mark[1], mark[2], set(mark[3]), mark[4]
        del self._rows[rows:], self._noises[noises:], self._spans[noises:]
        if open_row:
            self._rows[-1].terms = {}

    def _close(self, after: Level) -> None:
        """Write the open row: the current state, at level ``after``, as a form."""
        if self._rows and not self._rows[-1].terms:
            self._rows[-1].terms = dict(self._state.terms)
            self._split_noises(after)

    def _split_noises(self, after: Level) -> None:
        """Keep one new noise in the last row, and give each further one a row."""
        row = self._rows[-1]
        fresh = [j for kind, j in row.terms if kind == "noise" and j not in self._used]
        self._used.update(fresh)
        for j in fresh[1:]:
            i = len(self._rows)
            coefficient = row.terms.pop(("noise", j))
            level = Level(row.level.t, after.alpha, after.sigma)  # the clean end has no time
            terms: dict[Symbol, float] = {("x", i): 1.0, ("noise", j): coefficient}
            self._rows.append(_WrittenRow(level, row.step, evaluates=False, terms=terms))

    def _relative_to(self, i: int, form: Form) -> dict[Symbol, float]:
        """The terms of a form without states older than state i, which the rows between them express."""
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
        # terms that should have cancelled are left as rounding, and a run would keep their tensors for nothing
        largest = max((abs(c) for c in form.terms.values()), default=0.0)
        return {symbol: c for symbol, c in form.terms.items() if abs(c) > _ROUNDING * largest}

    def build(self, end: Level, prior_scale: float, **metadata: Any) -> SamplingPlan:
        """The finished plan, checked.

        Args:
            end: the level at which the run ends.
            prior_scale: the factor that turns unit noise into the first state.
            metadata: ``sampler``, ``order``, ``options``: what the plan was made from.

        Raises:
            NumericsError: a coefficient is not finite, a row does not reproduce constant data, or a row reads an
                unclipped or unconditional prediction of an earlier row.
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
                        suggestion="use such predictions only in the row that makes them",
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
            asks=None if all(row.evaluates for row in rows) else np.array([row.evaluates for row in rows]),
            null=null if null.any() else None,
            noise_span=spans if spans.any() else None,
            log_variance=np.array([row.log_variance for row in rows]) if learned else None,
            to=np.array([row.to or (*row.level, 0.0) for row in rows]) if any(row.to for row in rows) else None,
            prior_scale=prior_scale,
            **metadata,
        ).checked()


def _clock(level: Level) -> float:
    """The time of a noise level for Brownian motion: from 0 at the clean sample to 1 without signal."""
    return 2.0 / math.pi * math.atan2(level.sigma, level.alpha)
