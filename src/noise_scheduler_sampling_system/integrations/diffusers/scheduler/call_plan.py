"""A plan as a pipeline of diffusers runs it: one model call for every entry of ``timesteps``."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from ....config.prediction import IDENTITY, Affine, Preconditioning
from ....config.settings import NoiseSchedulerConfig
from ....grids.time_grid import TimeGrid
from ....plans.plan import SamplingPlan
from ....running.bound_plan import BoundPlan, bind_for
from ....running.kernels import pair
from ....running.loop import Noise, RowState
from ....samplers.base import BaseSampler
from ....support.errors import ConfigurationError
from ..reading.pipeline_terms import PipelineTerms
from .given_plans import refuse_second_branch

__all__ = ["CallPlan", "ModelCall"]

_NOTHING = torch.empty(0)
_PLAIN = PipelineTerms()
#: Traces the plan of a class of diffusers from the call ``begin`` on.
Retrace = Callable[..., SamplingPlan]


@final
class ModelCall(NamedTuple):
    """One model call.

    Attributes:
        row: of the plan; −1 for a call whose output is not used.
        time: what the network is told.
        alpha, sigma: the level of the state.
        input_scale: the factor of the network's input.
        skip, out: EDM's conversion, x₀ = skip·x + out·output, where x₀ is clipped. (0, ±1) elsewhere: without clipping
            the conversion is part of the plan's numbers. −1 is for outputs of the other sign.
        as_is: whether the row takes output and state unchanged: there is nothing to convert, to split off or to copy,
            and the next row calls the model.
        copies: whether later rows read the tensor that the network returns, so that it must be copied.
    """

    row: int
    time: float
    alpha: float
    sigma: float
    input_scale: float
    skip: float
    out: float
    as_is: bool
    copies: bool


# compared and hashed by identity: a compiler keeps one object for a request
@final
@dataclass(frozen=True, eq=False)
class CallPlan:
    """A bound plan with the list of its model calls.

    Attributes:
        bound: the plan.
        calls: the model calls.
        scale: the factor of unit noise before the first call.
        dtype: of the timesteps.
        config: of the path and the network.
        terms: what the pipeline expects beside the plan's states.
        sampler, grid: what wrote the plan, and on which levels; None for a given plan.
        retrace: traces the plan again from any of its calls on; None for a plan that was not traced.
    """

    bound: BoundPlan
    calls: tuple[ModelCall, ...]
    scale: float
    dtype: torch.dtype
    config: NoiseSchedulerConfig
    terms: PipelineTerms = _PLAIN
    sampler: BaseSampler | None = None
    grid: TimeGrid | None = None
    retrace: Retrace | None = None

    @classmethod
    def of(
        cls, plan: SamplingPlan, config: NoiseSchedulerConfig, *, scale: float | None = None,
        dtype: torch.dtype | None = None, terms: PipelineTerms = _PLAIN, sampler: BaseSampler | None = None,
        grid: TimeGrid | None = None, retrace: Retrace | None = None, idle: Sequence[int] = (),
    ) -> CallPlan:  # fmt: skip
        """Bind a plan and list its model calls.

        Args:
            plan: the plan.
            config, terms, sampler, grid, retrace: as for the class.
            scale: the factor of unit noise before the first row; None: the plan's.
            dtype: of the timesteps; None: whole numbers where all times are whole.
            idle: the numbers of the steps that stay at their level; diffusers calls the model there, too.

        Raises:
            ConfigurationError: the plan needs what pipelines of diffusers do not give: the unconditional prediction,
                or work before the first model call.
        """
        refuse_second_branch(plan)
        learned = config.variance_type.startswith("learned")
        splits = plan.log_variance is not None or not learned
        bound = bind_for(plan, config if splits else config.replace(variance_type="fixed_small"))
        if terms.preconditioning is not None and bound.clip is None:
            bound = _preconditioned(bound, terms.preconditioning)
        rows = tuple(i for i in range(len(plan)) if plan.asked[i])
        first = plan.prior_scale if scale is None else scale
        scale = _scale_after(bound, rows[0], first)
        if config.beta_schedule == "flow" and (scale != first or not math.isclose(scale, 1.0, rel_tol=1e-6)):
            raise ConfigurationError(
                f"{plan.sampler!r} needs its noise multiplied by {scale:.6g} before its first model call",
                where="method" if scale != first else "plan",
                why="pipelines of flow models do not multiply their noise by init_noise_sigma",
                suggestion='use afs=False, and begin at pure noise; for calibrate() give first="noisiest"',
            )
        calls = [_call(bound, row, terms, learned) for row in rows]
        _insert_idle(calls, idle, plan, math.nan if grid is None else float(grid.levels[-1].t))
        whole = all(call.time.is_integer() for call in calls) and dtype in (None, torch.int64)
        kind = torch.int64 if whole else torch.float32
        return cls(bound, tuple(calls), scale, kind, config, terms, sampler, grid, retrace)

    @property
    def plan(self) -> SamplingPlan:
        """The plan before it was bound."""
        return self.bound.plan

    @functools.cached_property
    def timesteps(self) -> Tensor:
        """The time of every model call, and of the end where the pipeline expects it; on the host.

        Copy it before you hand it out.
        """
        end = [0.0] if self.terms.lists_end else []
        return torch.tensor([*(call.time for call in self.calls), *end], dtype=self.dtype)

    @functools.cached_property
    def rounded_times(self) -> list[float]:
        """The numbers of :attr:`timesteps`."""
        times: list[float] = self.timesteps.tolist()
        return times

    @functools.cached_property
    def sigmas(self) -> Tensor:
        """The σ of every call and of the end: σ/α, or σ on the straight path."""
        straight = self.config.beta_schedule == "flow"
        end = float(self.plan.alpha[-1]), float(self.plan.sigma[-1])
        pairs = [*((call.alpha, call.sigma) for call in self.calls), end]
        values = [s if straight else (s / a if a else math.inf) for a, s in pairs]
        return torch.tensor(values, dtype=torch.float32)

    @functools.cached_property
    def stochastic(self) -> bool:
        """Whether any row adds noise."""
        return self.plan.stochastic

    @functools.cached_property
    def rereads_noise(self) -> bool:
        """Whether a row reads noise that an earlier row brought in."""
        return self.plan.c.shape[1] > 1

    @functools.cached_property
    def unused_noises(self) -> tuple[tuple[int, int], ...] | None:
        """For every call, the number of noises that diffusers' class draws and does not use, before and after its own.

        None: it uses every noise.
        """
        kind = self.terms.unused_noise
        if kind is None:
            return None
        if kind == "silent, not alone" and len(self.calls) == 1:
            return None
        inner = range(1, len(self.calls) - 1) if kind == "silent, twice" else range(0)
        begins = [*(call.row for call in self.calls), len(self.plan)]
        silent = [self._noisy.isdisjoint(range(row, after)) for row, after in itertools.pairwise(begins)]
        return tuple((int(i in inner), int(quiet)) for i, quiet in enumerate(silent))

    @functools.cached_property
    def _noisy(self) -> frozenset[int]:
        """The rows that bring in noise."""
        plan = self.plan
        return frozenset(i for i in range(len(plan)) if plan.noise_key[i, 0] >= 0 and plan.c[i, 0])

    @functools.cached_property
    def splits_variance(self) -> bool:
        """Whether the network returns a variance beside its prediction."""
        return self.config.variance_type.startswith("learned")

    @functools.cached_property
    def reads_past(self) -> tuple[bool, ...]:
        """For every call, whether it or a later one reads predictions or noise from before it."""
        oldest = [min(_oldest(self.plan, i), i) for i in range(len(self.plan))]
        return tuple(call.row >= 0 and min(oldest[call.row :]) < call.row for call in self.calls)

    def step_of(self, call: int) -> int:
        """The number of the step that a call belongs to; −1 for a call whose output is not used."""
        row = self.calls[call].row
        return int(self.plan.step[row]) if row >= 0 else -1

    def step(self, state: RowState, call: ModelCall, output: Tensor, noise: Noise) -> RowState:
        """From a model call to the next, or to the end."""
        bound = self.bound
        if call.row < 0:
            return state
        if call.as_is:
            return bound.advance(state, output, noise)
        output = self._converted(call, state.x, output)
        if call.copies and call.out == 1.0:
            output = output.clone()  # the caller may write into it, and the network may return it again
        state = bound.advance(state, output, noise)
        calls_model = bound.plan.asked
        while state.row < len(calls_model) and not calls_model[state.row]:
            state = bound.advance(state, _NOTHING, noise)
        return state

    def _converted(self, call: ModelCall, x: Tensor, output: Tensor) -> Tensor:
        """The network's output without a variance that the plan does not read, after EDM's conversion."""
        if self.splits_variance and not self.bound.split and output.shape != x.shape:
            output = output[:, : x.shape[1]]
        if call.out == 1.0:
            return output
        return pair(x, call.skip, output, call.out) if call.skip else output * call.out

    def clean_sample(self, call: int, x: Tensor, output: Tensor) -> Tensor:
        """The clean sample that the network predicts in a call, clipped."""
        now = self.calls[call]
        return self.bound.clean_sample(RowState(now.row + 1, x, {}, x, self._converted(now, x, output)))

    def without_noise(self, call: int, x: Tensor, output: Tensor) -> Tensor:
        """The state after a step before its noise is added, for a step that reads only its own prediction."""
        now = self.calls[call]
        factor = float(np.hypot.reduce(self.plan.c[now.row]))
        after = self.step(RowState(now.row, x, {}), now, output, lambda *_: torch.zeros_like(x)).x
        return after / math.sqrt(1.0 - factor**2)


def _insert_idle(calls: list[ModelCall], idle: Sequence[int], plan: SamplingPlan, end_time: float) -> None:
    """Add, in-place, a call whose output is not used for every step that stays at its level."""
    count = len(calls)
    for number in idle:
        place = number + count - plan.steps
        if place < len(calls):
            here = calls[place]
        else:
            here = calls[-1]._replace(time=end_time, alpha=float(plan.alpha[-1]), sigma=float(plan.sigma[-1]))
        calls.insert(place, here._replace(row=-1))


def _preconditioned(bound: BoundPlan, preconditioning: Preconditioning) -> BoundPlan:
    """The bound plan of a denoiser as one of the network within it: the conversion becomes part of the numbers."""
    rows = []
    for i, row in enumerate(bound.rows):
        if bound.plan.asked[i]:
            sigma = float(bound.plan.sigma[i])
            skip, out = preconditioning.c_skip(sigma), preconditioning.c_out(sigma)

            def raw(of_x: float, of_clean: float, skip: float = skip, out: float = out) -> Affine:
                return Affine(of_x + of_clean * skip, of_clean * out)

            a, of_output = raw(row.a, row.of_output)
            changed = replace(row, a=a, of_output=of_output, to_clean=raw(*row.to_clean), to_y=raw(*row.to_y))
            pairs = row.is_linear and not (row.keep or a == 0.0 or row.forget or row.history or row.noise)
            rows.append(replace(changed, is_pair=pairs))
        else:
            rows.append(row)
    return replace(bound, rows=tuple(rows))


def _scale_after(bound: BoundPlan, count: int, scale: float) -> float:
    """The standard deviation of the state after the first rows, which do not call the model.

    Such rows add noise to noise. The sum is noise, and only its scale matters unless a later row reads the parts again.

    Raises:
        ConfigurationError: a later row does.
    """
    for row in bound.rows[:count]:
        scale = math.hypot(row.a * scale, *(factor for *_, factor in row.noise)) if row.noise else row.a * scale
    early = {key[:2] for row in bound.rows[:count] for key in row.noise}
    if any(key[:2] in early for row in bound.rows[count:] for key in row.noise):
        raise ConfigurationError(
            f"{bound.plan.sampler!r} reads again a noise from before its first model call",
            where="method",
            why="a scheduler of diffusers sees the state after a model call only",
            suggestion="use another sampler",
        )
    return scale


def _call(
    bound: BoundPlan, row: int, terms: PipelineTerms, learned: bool
) -> ModelCall:  # fmt: skip
    plan = bound.plan
    alpha, sigma = float(plan.alpha[row]), float(plan.sigma[row])
    time, preconditioning = terms.time(alpha, sigma, float(plan.time[row])), terms.preconditioning
    scale = 1.0 if plan.input_scale is None else float(plan.input_scale[row])
    skip, out = 0.0, terms.sign
    if preconditioning is not None:
        scale *= preconditioning.c_in(sigma)
        if bound.clip is not None:
            skip, out = preconditioning.c_skip(sigma), preconditioning.c_out(sigma)
    known = bound.rows[row]
    copies = known.keep and bound.clip is None and known.to_y is IDENTITY
    alone = row + 1 == len(plan) or plan.asked[row + 1]
    as_is = alone and not copies and out == 1.0 and not learned
    return ModelCall(row, time, alpha, sigma, scale, skip, out, as_is, copies)


def _oldest(plan: SamplingPlan, row: int) -> int:
    """The oldest row whose prediction or noise this row reads."""
    lags = [k for table in (plan.b, plan.c) for k in range(1, min(row + 1, table.shape[1])) if table[row, k]]
    return row - max(lags, default=0)
