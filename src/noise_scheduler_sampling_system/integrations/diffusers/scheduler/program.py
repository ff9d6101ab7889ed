"""A plan as a pipeline of diffusers drives it: one entry of ``timesteps`` for every model call."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....config.prediction import IDENTITY, Affine
from ....config.settings import NoiseSchedulerConfig
from ....grids.time_grid import TimeGrid
from ....plans.plan import SamplingPlan
from ....running.bound_plan import BoundPlan, bind_for
from ....running.kernels import pair
from ....running.loop import Noise, RowState
from ....samplers.base import BaseSampler
from ....samplers.factory import SamplerFactory
from ....support.errors import ConfigurationError
from ..reading.reading import Preconditioning
from .splice import first_order

__all__ = ["Call", "Program"]

_NOTHING = torch.empty(0)
#: Makes the plan of a class of diffusers that begins at one of its calls.
Again = Callable[..., SamplingPlan]


class Call(NamedTuple):
    """One model call.

    Attributes:
        row: of the plan; −1 for a call whose answer is not needed.
        time: what the network is told.
        alpha, sigma: of the state that it is asked about.
        input_scale: what the network's input is multiplied by.
        skip, out: of EDM's conversion, x₀ = skip·x + out·output, where it is not part of the plan's numbers
            already: where x₀ is clipped. (0, 1) elsewhere.
        as_is: whether the plan takes the network's output and the state as they are: nothing to convert, to split
            off or to copy, and no row without a model call after this one.
        copies: whether the run goes on reading the very tensor that the network returns.
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


@dataclass(frozen=True)
class Program:
    """A bound plan, its model calls, and the way into its middle.

    Attributes:
        bound: the plan.
        calls: the model calls.
        scale: what unit noise is multiplied by for the first call.
        dtype: of the timesteps.
        preconditioning, clock: as for :class:`~.reading.Reading`.
        sampler, grid: what the plan was made of; None for a plan that was given.
        again: makes the plan anew, from any of its calls on; None where it was not traced.
    """

    bound: BoundPlan
    calls: tuple[Call, ...]
    scale: float
    dtype: torch.dtype
    config: NoiseSchedulerConfig
    preconditioning: Preconditioning | None = None
    clock: str | None = None
    sampler: BaseSampler | None = None
    grid: TimeGrid | None = None
    again: Again | None = None

    @classmethod
    def of(
        cls, plan: SamplingPlan, config: NoiseSchedulerConfig, *, scale: float | None = None,
        dtype: torch.dtype | None = None, preconditioning: Preconditioning | None = None, clock: str | None = None,
        sampler: BaseSampler | None = None, grid: TimeGrid | None = None, again: Again | None = None,
        idle: Sequence[int] = (),
    ) -> Program:  # fmt: skip
        """A plan made ready; ``idle`` are the numbers of calls that diffusers makes for steps that go nowhere.

        Raises:
            ConfigurationError: it does something that no pipeline of diffusers gives occasion to.
        """
        if plan.null is not None:
            raise ConfigurationError(
                f"{plan.sampler!r} needs the unconditional prediction beside the guided one",
                where="method",
                why="pipelines of diffusers hand over the guided one only",
                suggestion="use a sampler without CFG++",
            )
        learned = config.variance_type.startswith("learned")
        bound = bind_for(plan, config if plan.log_variance is not None or not learned else _plain(config))
        if preconditioning is not None and bound.clip is None:
            bound = _preconditioned(bound, preconditioning)
        rows = tuple(i for i in range(len(plan)) if plan.asked[i])
        first = plan.prior_scale if scale is None else scale
        scale = _folded(bound, rows[0], first)
        if config.beta_schedule == "flow" and (scale != first or not math.isclose(scale, 1.0, rel_tol=1e-6)):
            raise ConfigurationError(
                f"{plan.sampler!r} needs its noise multiplied by {scale:.6g} before its first model call",
                where="method" if scale != first else "plan",
                why="pipelines of flow models do not multiply their noise by init_noise_sigma",
                suggestion='use afs=False, and begin at pure noise; for calibrate() give first="noisiest"',
            )
        calls = [_call(bound, row, preconditioning, clock, learned) for row in rows]
        end = math.nan if grid is None else float(grid.levels[-1].t)
        for number in idle:
            place = number + len(rows) - plan.steps
            there = float(plan.alpha[-1]), float(plan.sigma[-1])
            here = calls[place] if place < len(calls) else calls[-1]._replace(time=end, alpha=there[0], sigma=there[1])
            calls.insert(place, here._replace(row=-1))
        whole = all(call.time.is_integer() for call in calls) and dtype in (None, torch.int64)
        kind = torch.int64 if whole else torch.float32
        return cls(bound, tuple(calls), scale, kind, config, preconditioning, clock, sampler, grid, again)

    @property
    def plan(self) -> SamplingPlan:
        """The table."""
        return self.bound.plan

    @functools.cached_property
    def timesteps(self) -> Tensor:
        """One for every model call, on the host. To be copied."""
        return torch.tensor([call.time for call in self.calls], dtype=self.dtype)

    @functools.cached_property
    def rounded_times(self) -> list[float]:
        """The numbers of :attr:`timesteps`."""
        times: list[float] = self.timesteps.tolist()
        return times

    @functools.cached_property
    def sigmas(self) -> Tensor:
        """The σ of every call, as the field counts it on this path, and that of the end."""
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
    def shares_noise(self) -> bool:
        """Whether a row reads noise that an earlier one brought in."""
        return self.plan.c.shape[1] > 1

    @functools.cached_property
    def draws_in_vain(self) -> tuple[bool, ...] | None:
        """For every call, whether diffusers' twin draws a noise that it multiplies by 0 (SA-Solver, where τ = 0)."""
        if self.plan.sampler not in ("sa_solver", "SASolverScheduler"):  # the latter traced
            return None
        return tuple(call.row not in self._noisy for call in self.calls)

    @functools.cached_property
    def _noisy(self) -> frozenset[int]:
        """The rows that bring in a noise."""
        plan = self.plan
        return frozenset(i for i in range(len(plan)) if plan.noise_key[i, 0] >= 0 and plan.c[i, 0])

    @functools.cached_property
    def splits(self) -> bool:
        """Whether the network returns a variance, too."""
        return self.config.variance_type.startswith("learned")

    @functools.cached_property
    def remembers(self) -> tuple[bool, ...]:
        """For every call, whether it reads what happened before it."""
        reaches = [min(_oldest(self.plan, i), i) for i in range(len(self.plan))]
        return tuple(call.row >= 0 and min(reaches[call.row :]) < call.row for call in self.calls)

    def step(self, state: RowState, call: Call, output: Tensor, noise: Noise) -> RowState:
        """From a model call to the next, or to the end."""
        bound = self.bound
        if call.row < 0:
            return state
        if call.as_is:
            return bound.advance(state, output, noise)
        x = state.x
        if self.splits and not bound.split and output.shape != x.shape:
            output = output[:, : x.shape[1]]
        if call.out != 1.0:
            output = pair(x, call.skip, output, call.out)
        elif call.copies:
            output = output.clone()  # which the caller may write into, and the network hand out again
        state = bound.advance(state, output, noise)
        asked = bound.plan.asked
        while state.row < len(asked) and not asked[state.row]:
            state = bound.advance(state, _NOTHING, noise)
        return state

    def clean(self, call: int, x: Tensor, output: Tensor) -> Tensor:
        """The clean sample that the network predicts in a call, clipped."""
        now = self.calls[call]
        if self.splits and not self.bound.split and output.shape != x.shape:
            output = output[:, : x.shape[1]]
        if now.out != 1.0:
            output = pair(x, now.skip, output, now.out)
        return self.bound.clean_sample(RowState(now.row + 1, x, {}, x, output))

    def unnoised(self, call: int, x: Tensor, output: Tensor) -> Tensor:
        """The state after a step that reads no other one, before its noise was added."""
        now = self.calls[call]
        factor = float(np.hypot.reduce(self.plan.c[now.row]))
        after = self.step(RowState(now.row, x, {}), now, output, lambda *_: torch.zeros_like(x)).x
        return after / math.sqrt(1.0 - factor**2)

    @functools.lru_cache(maxsize=128)  # noqa: B019 - a program is kept for as long as its scheduler
    def entered(self, call: int) -> Program:
        """The program that does the calls from this one on, of a state that was noised to its level.

        Inside a step of several calls nothing is known of the first ones: what is left of it is of first order.

        Raises:
            ConfigurationError: no plan asks at these times without knowing what came before.
        """
        now = self.calls[call]
        if now.row >= 0 and not self.remembers[call]:
            return self
        if self.again is not None and now.row >= 0:
            return self._after(call, self._like(self.again(begin=call)))
        following = self._following(call)
        if now.row >= 0 and (call == 0 or self.calls[call - 1].row < 0 or self.step_of(call - 1) < self.step_of(call)):
            found = self._recompiled(call)
            if found is None:
                raise self._not_entered(call)
            return found
        tail = self if following == len(self.calls) else self.entered(following)
        return self._led_to(tail, call, following)

    def step_of(self, call: int) -> int:
        """Which interval of the grid a call is of; −1 for one whose answer is not needed."""
        row = self.calls[call].row
        return int(self.plan.step[row]) if row >= 0 else -1

    def _following(self, call: int) -> int:
        """The first call after this one that is of a later step."""
        row = self.calls[call].row
        for later in range(call + 1, len(self.calls)):
            if row < 0 or self.calls[later].row < 0 or self.step_of(later) > self.step_of(call):
                return later
        return len(self.calls)

    def _recompiled(self, call: int) -> Program | None:
        """The sampler on the rest of its grid, where that asks at the same times."""
        if self.sampler is None or self.grid is None:
            return None
        now = self.calls[call]
        rest = self.grid.levels[self.step_of(call) :]
        if (rest[0].alpha, rest[0].sigma) != (now.alpha, now.sigma):
            return None
        asked = [c.time for c in self.calls[call:] if c.row >= 0]
        for sampler in (self.sampler, *self._in_its_place()):
            other = self._like(sampler.plan(grid=TimeGrid(rest)), sampler=sampler, grid=TimeGrid(rest))
            if [c.time for c in other.calls] == asked:
                return self._after(call, other)
        return None

    def _like(self, plan: SamplingPlan, **made: Any) -> Program:
        """The program of another plan for the same network."""
        return Program.of(
            plan, self.config, scale=1.0, dtype=self.dtype, preconditioning=self.preconditioning, clock=self.clock,
            **made,
        )  # fmt: skip

    def _after(self, call: int, other: Program) -> Program:
        """A program for the calls from this one on, with those that go nowhere, in its place among all calls."""
        calls = iter(other.calls)
        rest = [c if c.row < 0 else next(calls) for c in self.calls[call:]]
        return replace(other, calls=(*self.calls[:call], *rest))

    def _led_to(self, tail: Program, call: int, following: int) -> Program:
        """What is left of a step, by steps of first order, and then a program that begins with the next one.

        Raises:
            ConfigurationError: the noise rises on the way.
        """
        plan, calls, asking = self.plan, self.calls, []
        end = len(calls) == following
        last = len(tail.plan) if end else tail.calls[following].row
        levels = [(c.alpha, c.sigma) for c in calls[call:following]]
        ends = [*levels[1:], (float(tail.plan.alpha[last]), float(tail.plan.sigma[last]))]
        for c, now, after in zip(calls[call:following], levels, ends, strict=True):
            angle = math.atan2(after[1], after[0]) - math.atan2(now[1], now[0])
            if angle > 1e-12:
                raise self._not_entered(call)
            if angle < -1e-12 and c.row >= 0:
                asking.append((c.row, after))
        spliced = tail.bound
        if asking:
            spliced = self._like(first_order(plan, asking, None if end else tail.plan, last)).bound
        # a call at the level of the next one goes nowhere
        rows = {row: number for number, (row, _) in enumerate(asking)}
        shift = len(asking) - last
        head = [c._replace(row=rows.get(c.row, -1)) for c in calls[call:following]]
        rest = [c if c.row < 0 else c._replace(row=c.row + (shift if asking else 0)) for c in tail.calls[following:]]
        return replace(tail, bound=spliced, calls=(*calls[:call], *head, *rest), sampler=None, grid=None, again=None)

    def _not_entered(self, call: int) -> ConfigurationError:
        return ConfigurationError(
            f"the run begins at model call {call + 1} of {len(self.calls)} of {self.plan.sampler!r}, which goes on "
            "from what came before it",
            where="timesteps",
            why="of a plan that was given nothing else is known, and no step of first order raises the noise",
            suggestion="begin at the first call of a step, or use a sampler without memory ('ddim', 'heun')",
        )

    def _in_its_place(self) -> Sequence[BaseSampler]:
        """A sampler that goes on as this one does, and needs no start of its own."""
        if self.sampler is None or self.plan.sampler != "pndm":
            return ()
        return (SamplerFactory.create("ipndm", self.sampler.scheduler),)


def _preconditioned(bound: BoundPlan, preconditioning: Preconditioning) -> BoundPlan:
    """A bound plan of denoisers for the raw networks within them: the conversion is folded into its numbers."""
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


def _folded(bound: BoundPlan, count: int, scale: float) -> float:
    """What unit noise is multiplied by to be the state after the first rows, which ask nothing.

    Noise that is added to noise is noise: only its scale counts, where it is not read again.

    Raises:
        ConfigurationError: it is.
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


def _plain(config: NoiseSchedulerConfig) -> NoiseSchedulerConfig:
    return config.replace(variance_type="fixed_small")


def _call(
    bound: BoundPlan, row: int, preconditioning: Preconditioning | None, clock: str | None, learned: bool
) -> Call:  # fmt: skip
    plan = bound.plan
    alpha, sigma, time = float(plan.alpha[row]), float(plan.sigma[row]), float(plan.time[row])
    if clock is not None and alpha > 0.0:
        ratio = sigma / alpha
        time = 0.25 * math.log(ratio) if clock == "log" else 2.0 / math.pi * math.atan(ratio)
    scale = 1.0 if plan.input_scale is None else float(plan.input_scale[row])
    skip, out = 0.0, 1.0
    if preconditioning is not None:
        scale *= preconditioning.c_in(sigma)
        if bound.clip is not None:
            skip, out = preconditioning.c_skip(sigma), preconditioning.c_out(sigma)
    known = bound.rows[row]
    copies = known.keep and bound.clip is None and known.to_y is IDENTITY
    alone = row + 1 == len(plan) or plan.asked[row + 1]
    as_is = alone and not copies and out == 1.0 and not learned
    return Call(row, time, alpha, sigma, scale, skip, out, as_is, copies)


def _oldest(plan: SamplingPlan, row: int) -> int:
    """The oldest row whose prediction or noise this one reads."""
    lags = [k for table in (plan.b, plan.c) for k in range(1, min(row + 1, table.shape[1])) if table[row, k]]
    return row - max(lags, default=0)
