"""The sampling plan: a sampler on a grid, compiled to a table of numbers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, final

import numpy as np

from ..config.prediction import SecondLevel, conversion, row_space
from ..schedules.level import Level
from ..support.drawn import Drawn
from ..support.errors import NumericsError
from ..support.files import of_file
from ..support.hooks import Hook
from .base import Plan
from .canonical_form import canonical_form, execution_form
from .gaussian_moments import GaussianMoments, gaussian_moments
from .plan_checks import constant_residual, noise_residual, refuse_unusable
from .plan_content import checked_fields, content_hash
from .plan_difference import PlanDifference
from .plan_files import plan_data, plan_fields, read_plan_data, refuse_changed, write_plan_data
from .plan_rows import Array, Integers
from .plan_text import plan_table

__all__ = ["SamplingPlan"]

#: Reads a scheduler's plan off the scheduler; the package ``tracing`` provides it.
TRACE: Hook[Callable[..., SamplingPlan]] = Hook("SamplingPlan.trace")

#: Finds the differences between two plans; the module ``difference`` provides it.
DIFF: Hook[Callable[[SamplingPlan, SamplingPlan], PlanDifference]] = Hook("SamplingPlan.diff")


@final
@dataclass(frozen=True, eq=False)
class SamplingPlan(Plan, Drawn):
    """The arithmetic of a run between model calls, as a table of numbers. Immutable.

    Row i evaluates the model at the state x of the level (``alpha[i]``, ``sigma[i]``); the model is told the time
    ``time[i]``. The row then sets

        x ← a[i]·x + Σ_k b[i,k]·y[i−k] + raw[i]·y_raw[i] + null[i]·y_null[i] + Σ_k delta[i,k]·δ[i−k]
            + Σ_k c[i,k]·ξ[i−k].

    y[j] is row j's prediction, guided and clipped, converted to ``space``. y_raw is the same before clipping. y_null
    is the prediction of the unconditional branch. A plan with ``delta`` holds its guidance: y[j] is then the prediction
    under the condition, and δ[j] is its difference from the unconditional one, in rows that evaluate both. ξ[j] is the
    unit noise that row j brings in, with the key ``noise_key[j]``. A plan has M rows in N ≤ M steps (intervals of the
    grid). A row without a model call
    (``asks[i]`` = 0) only adds noise, or is an analytic first step.

    Attributes:
        space: the quantity y: "sample", "epsilon", "v_prediction" or "flow_prediction". A row without signal
            (α = 0) has "sample" for "epsilon", and one without noise "epsilon" for "sample" (``space_of``).
        time: model times, shape (M,).
        alpha, sigma: noise levels of the M rows and of the end, shape (M + 1,).
        step: the interval of each row, shape (M,).
        a: factor of the state, shape (M,).
        b: factors of this row's prediction and of earlier ones, shape (M, history).
        raw: factor of the unclipped prediction, shape (M,).
        c: factors of this row's noise and of earlier ones, shape (M, noise history).
        noise_key: (step, stage) of the noise that a row brings in, or (−1, −1), shape (M, 2).
        asks: 1 where the row evaluates the model, 0 where it does not, shape (M,); None: 1 everywhere.
        null: factor of the unconditional branch's prediction, shape (M,), or None for 0 everywhere.
        noise_span: the interval of (2/π)·arctan(σ/α) over which the row's noise is the increment of a Brownian
            motion; (0, 0) for other noise. Shape (M, 2), or None.
        input_scale: the network is given input_scale·x instead of x, for a network with another scale than the
            path; shape (M,), or None for 1 everywhere.
        log_variance: bounds (low, high) of a learned variance: the row's noise is multiplied by
            exp(½·(low + (v + 1)/2·(high − low))), where v is the model's second half of channels. Shape (M, 2), or
            None.
        delta: factors of this row's difference δ and of earlier ones, shape (M, history), or None for plans without
            guidance of their own.
        both: 1 where the row evaluates the unconditional branch, too, shape (M,); None where ``delta`` is.
        to: for a network of two times, the level that each row asks it for: the second time r that it is told, α and σ
            at r, and the time from r to ``time`` in the path's own unit (:class:`SecondLevel`). Shape (M, 4); None for
            networks of one time.
        scale: the guidance scale that ``delta`` is for; None where ``delta`` is.
        prior_scale: the factor that turns unit noise into the first state.
        carries: those of "data" and "noise" whose constants the rows carry exactly, which is then checked. It is
            empty where predictions are not of the data (an analytic first step, consistency models) and where the
            numbers come from a table in single precision; it is "data" alone for calibrated plans.
        sampler, order, options: what the plan was made from.
        provenance: the origin of a plan that no sampler wrote, as plain data.

    Raises:
        NumericsError: a field is of another type, shape or range, or no row evaluates the model.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, SamplingPlan
        >>> plan = DiffusionPipeline(None, "heun").plan(10)
        >>> plan.steps, plan.nfe, plan.stochastic
        (10, 19, False)
        >>> SamplingPlan.from_dict(plan.to_dict()) == plan
        True
    """

    space: str
    time: Array
    alpha: Array
    sigma: Array
    step: Integers
    a: Array
    b: Array
    raw: Array
    c: Array
    noise_key: Integers
    asks: Integers | None = None
    null: Array | None = None
    noise_span: Array | None = None
    input_scale: Array | None = None
    log_variance: Array | None = None
    delta: Array | None = None
    both: Integers | None = None
    to: Array | None = None
    scale: float | None = None
    prior_scale: float = 1.0
    carries: Sequence[str] = ("data", "noise")
    sampler: str = "custom"
    order: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in checked_fields(self._fields()).items():
            object.__setattr__(self, name, value)
        if not len(self) or not any(self.asked):
            raise NumericsError("has no model call", where="plan", suggestion="give a plan at least one")

    def level(self, row: int) -> Level:
        return Level(float(self.time[row]), float(self.alpha[row]), float(self.sigma[row]))

    def second_level(self, row: int) -> SecondLevel | None:
        """The level that a row asks a network of two times for; None in a plan for networks of one time."""
        return None if self.to is None else SecondLevel(*map(float, self.to[row]))

    @property
    def two_times(self) -> bool:
        return self.to is not None

    @functools.cached_property
    def has_whole_times(self) -> bool:
        times = (self.time,) if self.to is None else (self.time, self.to[:, 0])
        return all(bool((each % 1 == 0).all()) for each in times)

    @functools.cached_property
    def reads_null(self) -> tuple[bool, ...]:
        column = self.null if self.both is None else self.both
        return (False,) * len(self) if column is None else tuple(bool(n) for n in column)

    @functools.cached_property
    def asked(self) -> tuple[bool, ...]:
        return (True,) * len(self) if self.asks is None else tuple(bool(a) for a in self.asks)

    @property
    def evaluations(self) -> int:
        """The number of network evaluations for each sample, where no other guidance than the plan's acts."""
        return sum(self.evaluations_by_row)

    @property
    def evaluations_by_row(self) -> tuple[int, ...]:
        """The same for each row."""
        both = (False,) * len(self) if self.both is None else self.reads_null
        return tuple(map(sum, zip(self.asked, both, strict=True)))

    @property
    def calls_with_both(self) -> tuple[int, ...]:
        """The model calls, from 0, that evaluate both branches of guidance that the plan holds."""
        return () if self.both is None else tuple(map(self.calls_before, np.flatnonzero(self.both).tolist()))

    def space_of(self, row: int) -> str:
        """The quantity y of this row."""
        return row_space(self.space, self.alpha[row], self.sigma[row])

    @property
    def stochastic(self) -> bool:
        """Whether any row adds noise."""
        return bool(np.any(self.c))

    @functools.cached_property
    def history(self) -> int:
        """The largest number of earlier predictions that a run holds at one time."""
        lasts = (self.last_use, self.last_use_of_delta)
        return max(sum(j < i <= last[j] for last in lasts for j in range(i)) for i in range(len(self)))

    @functools.cached_property
    def last_use(self) -> tuple[int, ...]:
        return _last_use(self.b)

    @functools.cached_property
    def last_use_of_delta(self) -> tuple[int, ...]:
        """The same for the row's difference of the two branches."""
        return tuple(range(len(self))) if self.delta is None else _last_use(self.delta)

    def history_key(self, row: int, *, delta: bool = False) -> int:
        """The key under which a run keeps a row's prediction, or its difference of the two branches."""
        return len(self) + row if delta else row

    def kept_at(self, row: int) -> set[int]:
        return super().kept_at(row) | {
            self.history_key(j, delta=True) for j in range(row) if self.last_use_of_delta[j] >= row
        }

    @functools.cached_property
    def gains(self) -> Array:
        """For each row, the factor by which it multiplies an error of the predicted clean sample, shape (M,).

        In a plan that holds its guidance, a difference δ counts as one more prediction with such an error: a row of
        scale s ≥ 1 that evaluates both branches has s times the gain that it has without guidance. A row without noise
        has 0: its clean sample is x, which has no error.
        """
        rows = zip(map(self.space_of, range(len(self))), self.alpha, self.sigma, strict=False)
        per_clean = np.abs([conversion("sample", *row).y_factor if row[2] > 0.0 else 0.0 for row in rows])
        factors: Array = np.abs(self.raw) * per_clean
        for columns in (self.b,) if self.delta is None else (self.b, self.delta):
            for k in range(columns.shape[1]):
                factors[k:] += np.abs(columns[k:, k]) * per_clean[: len(self) - k]
        return factors

    @functools.cached_property
    def amplification(self) -> float:
        """The largest of :attr:`gains`."""
        return float(self.gains.max())

    @functools.cached_property
    def constant_residual(self) -> Array:
        """The error of each row on constant data, which must lead x = α·k to the next level's α·k. Shape (M,)."""
        return constant_residual(self)

    @functools.cached_property
    def noise_residual(self) -> Array:
        """The error of each row on constant noise, which must lead x = σ·ε to the next level's σ·ε. Shape (M,).

        0 for a stochastic plan, which chooses its own variance.
        """
        return noise_residual(self)

    def checked(self) -> SamplingPlan:
        """This plan, if it is usable.

        Raises:
            NumericsError: a number is not finite or out of range, columns contradict each other (two rows bring in
                one noise), a row reads from before the start, or a row does not reproduce constant data or constant
                noise.
        """
        refuse_unusable(self)
        return self

    def gaussian_moments(self, std: Any, mean: Any = 0.0) -> GaussianMoments:
        """Mean and standard deviation of the plan's result for data N(mean, std²) and the exact model.

        A wider result than the data holds noise; a narrower one has lost detail. Clipping and guidance are left out.
        See :func:`.gaussian_moments.gaussian_moments`.

        Args:
            std: standard deviations of the data, > 0, a number or an array.
            mean: means of the data, broadcast against ``std``.

        Returns:
            ``mean`` and ``std`` of the result, arrays of the broadcast shape.

        Raises:
            ConfigurationError: a ``std`` is not above 0, or a number is not finite.
        """
        return gaussian_moments(self, std, mean)

    def diff(self, other: SamplingPlan) -> PlanDifference:
        """The differences between this plan and another, in numbers; ``print`` says them in words.

        Raises:
            ConfigurationError: ``other`` is not a plan.
        """
        return DIFF.function(self, other)

    def canonical(self) -> tuple[Array, Array, Array]:
        """The plan with every state as a function of independent quantities.

        x[i] = A[i]·x_T + Σ_j B[i,j]·y[j] + Σ_j C[i,j]·ξ[j]. This form is unique, so it compares plans of different
        samplers. Unclipped and unconditional predictions count as predictions, so guidance that a plan holds is left
        out; :meth:`diff` compares it, too.

        Returns:
            A of shape (M + 1,), B and C of shape (M + 1, M). Row i is the state before row i of the plan; the last
            row is the result.
        """
        return canonical_form(self)

    def with_canonical(self, A: Array, B: Array, C: Array, tolerance: float = 1e-12) -> SamplingPlan:
        """This plan's levels with the coefficients of a canonical form, in execution form.

        The inverse of :meth:`canonical`. Of all execution forms it returns the one with the shortest history.

        Args:
            A, B, C: of the shapes that :meth:`canonical` returns.
            tolerance: a term below this fraction of its row's largest term is rounding, and is left out.

        Raises:
            NumericsError: the plan reads unclipped or unconditional predictions, which a canonical form does not
                tell from the others.
        """
        if self.raw.any() or self.null is not None or self.delta is not None:
            raise NumericsError(
                "reads unclipped or unconditional predictions",
                where="with_canonical",
                why="a canonical form does not tell them from the others",
                suggestion="make the plan with use_clipped_model_output=True and a sampler without CFG++",
            )
        a, b, c = execution_form(A, B, C, tolerance)
        return replace(self, a=a, b=b, c=c, raw=np.zeros(len(self))).checked()

    @classmethod
    def trace(
        cls, scheduler: Any, num_inference_steps: int | None = None, *, begin: int = 0, **options: Any
    ) -> SamplingPlan:
        """The plan of a scheduler of diffusers, or of an object with the same methods.

        A pipeline of ``NoiseSchedulerConfig.from_diffusers(scheduler)`` runs the plan with the scheduler's own
        result, to rounding. See :func:`.tracing.trace`.

        Args:
            scheduler: is copied, not changed.
            num_inference_steps: as for its ``set_timesteps``.
            begin: the index of the first of its ``timesteps`` that is run, for image-to-image.
            options: further keywords of its ``set_timesteps`` ("mu", "sigmas") and ``step`` ("eta", "s_churn").

        Raises:
            ConfigurationError: the scheduler is not linear, for instance because it clips; the message names the
                setting.
        """
        return TRACE.function(scheduler, num_inference_steps, begin=begin, **options)

    def readout(self) -> SamplingPlan:
        """This plan's levels, with rows whose next state is the prediction y itself."""
        none, one = np.zeros(len(self)), np.ones((len(self), 1))
        return replace(
            self, a=none, b=one, raw=none, c=0.0 * one, null=None, log_variance=None, delta=None,
            both=None, scale=None,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, with the hash of its content."""
        return plan_data(self._fields())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SamplingPlan:
        """Make a plan from the data of :meth:`to_dict`.

        A ``content_hash`` must be that of the content. Data of earlier versions and data made by hand may leave it
        out. The fields are then checked all the same, and ``to_dict`` of the plan has the hash.

        Raises:
            FileError: a column is missing or unknown, this version does not know the format, or the content was
                changed.
            NumericsError: the fields are not those of a usable plan; see :meth:`checked`.
        """
        values, hash_in_data = plan_fields(data, {f.name for f in fields(cls)})
        plan = cls(**values)
        refuse_changed(plan, plan.content_hash, hash_in_data)
        return plan.checked()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan, whole or not at all: ``.json``, or ``.safetensors`` for large ones.

        Raises:
            FileError: the name has another ending, the options are not plain data, or the file cannot be written.
        """
        write_plan_data(path, self.to_dict(), self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SamplingPlan:
        """Read a plan that :meth:`save` wrote, in this version or an earlier one.

        Raises:
            FileError: the file is missing, malformed, was changed since it was saved, or has another format.
        """
        data = read_plan_data(path)
        with of_file(path, "is not a sampling plan", "give a file of SamplingPlan.save"):
            return cls.from_dict(data)

    @functools.cached_property
    def content_hash(self) -> str:
        """SHA-256 of all fields, as 64 hexadecimal digits: the same in every process and version of Python.

        Equal plans have the same hash. Every file holds it and so shows a change.
        """
        return content_hash(self._fields())

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, ({**self._fields(), "options": dict(self.options), "provenance": dict(self.provenance)},)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SamplingPlan) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def table(self, max_rows: int = 24) -> str:
        """The plan as text, one line a row; the middle of a plan with more rows than ``max_rows`` is left out."""
        return plan_table(self, max_rows)

    def __str__(self) -> str:
        kind = "stochastic" if self.stochastic else "deterministic"
        options = "".join(f", {k}={v}" for k, v in self.options.items())
        calls = f"{self.nfe} model calls"
        if self.scale is not None:
            calls += f" ({self.evaluations} evaluations, guidance {self.scale:g})"
        head = f"{self.sampler}{options}: {self.steps} steps, {calls}, order {self.order}, {kind}"
        times = "" if self.to is None else ", for networks of two times"
        return f"{head}, y = {self.space}{times}\n{self.table()}"

    def __repr__(self) -> str:
        return f"SamplingPlan({self.sampler!r}, steps={self.steps}, nfe={self.nfe}, fingerprint={self.fingerprint!r})"


def _last_use(factors: Array) -> tuple[int, ...]:
    last = list(range(len(factors)))
    for i, k in zip(*np.nonzero(factors), strict=True):
        last[i - k] = max(last[i - k], int(i))
    return tuple(last)


def _restored(values: Mapping[str, Any]) -> SamplingPlan:
    return SamplingPlan(**values)
