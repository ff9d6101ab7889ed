"""What every sampler is: a writer of plans, and a single step for those who loop themselves."""

from __future__ import annotations

import copy
import math
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..config.options import Option, checked_options, declared_by
from ..config.registries import SAMPLERS
from ..config.settings import NoiseSchedulerConfig
from ..config.spacing_choice import spacing_of
from ..grids.time_grid import TimeGrid, checked_times, make_grid, refuse_clean_start
from ..plans.builder import PlanBuilder
from ..plans.plan import SamplingPlan
from ..running.bound_plan import BoundPlan, bind_for
from ..running.loop import Branches, RowState
from ..running.noise import NoiseSource, resolve_keys
from ..running.noise_keys import Keys
from ..schedules.path import CLEAN, NoisePath
from ..support.errors import ConfigurationError, NumericsError
from ..support.values import ByValue
from .spread import SpreadGuard

__all__ = ["BaseSampler", "SamplerOutput", "SamplerState"]


@dataclass(frozen=True)
class SamplerState:
    """Where a hand-written loop stands: the plan it follows, the state of the run, and noise that is read again."""

    bound: BoundPlan
    run: RowState
    drawn: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SamplerOutput(ByValue):
    """What one call of :meth:`BaseSampler.step` gives.

    Attributes:
        prev_sample: the next state, one model call closer to the clean sample.
        pred_original_sample: the clean sample that the model output predicts, clipped.
        state: to hand to the next call; None for a custom sampler that keeps none.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None
    state: SamplerState | None = None


class BaseSampler(ByValue, ABC):
    """A sampling method on a noise schedule.

    A built-in sampler writes a plan: it overrides :meth:`write`. A custom one may do the
    same, or override :meth:`step` alone; it then runs in the same pipeline, one call a step.

    Args:
        scheduler: the noise schedule.
        options: the options that ``declared_options`` names.

    Attributes:
        order: order of convergence of the deterministic part, with these options.
        calls_per_step: model calls in a step, with these options (the last step may take one).
        stochastic: whether noise is added with the default options.
        declared_options: the sampler's own options, each with its default, type and range (:class:`~..options.Option`).
            Every sampler that writes plans has ``afs`` besides: the analytic first step, which saves the first
            model call. A class that declares none has those of its base.
        option_defaults: their defaults. A class may write these instead, as plain values whose types say what is
            allowed: True or False, a whole number ≥ 1, a number ≥ 0, or one of ``choices``.
        choices: what an option that is a word may be.
        reads: config fields that not every sampler reads and this one does.
        space: the quantity that a plan's history is kept in.
        spacing: the timestep spacing that suits the sampler: of runs whose config says "auto".
        guards: whether the sampler offers its steps to the guard of the data's spread
            (:meth:`~..builder.PlanBuilder.settle`); it then has the option ``guarded``.
        carries_constants: whether a step of constant data from level to level is exact, with these
            options; plans are then checked for it.

    Raises:
        ConfigurationError: an unknown option, or a config field set that this sampler would
            ignore.
    """

    order: int = 1
    calls_per_step: int = 1
    carries_constants: bool = True
    stochastic: ClassVar[bool] = False
    declared_options: ClassVar[Mapping[str, Option]] = {}
    option_defaults: ClassVar[Mapping[str, Any]] = {}
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    reads: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[str] = "sample"
    guards: ClassVar[bool] = False
    spacing: ClassVar[str] = "leading"

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.declared_options = declared_by(cls, inherits=False)
        cls.option_defaults = {name: option.default for name, option in cls.declared_options.items()}
        cls.choices = {name: option.choices for name, option in cls.declared_options.items() if option.choices}

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        if not isinstance(scheduler, NoisePath):
            raise ConfigurationError(
                f"got {type(scheduler).__name__}",
                where=f"{type(self).__name__}(scheduler)",
                suggestion="give a noise scheduler, or use SamplerFactory.create(name, config)",
            )
        self.scheduler = scheduler
        known = {**self.declared_options, **self._common_options()}
        checked = checked_options(options, known, type(self).__name__)
        given = {k: value for k, value in checked.items() if k not in _COMMON_OPTIONS or value != known[k].default}
        self.options: Mapping[str, Any] = {**self.option_defaults, **given}
        self._refuse_unread_settings()

    @property
    def config(self) -> NoiseSchedulerConfig:
        """The settings of the noise schedule."""
        return self.scheduler.config

    @property
    def run_spacing(self) -> str:
        """The name of the spacing of runs of N steps: the config's or, where it says "auto", the sampler's own."""
        return spacing_of(self.config, self.spacing)

    def on(self, scheduler: NoisePath, **options: Any) -> BaseSampler:
        """This sampler, with its options, on another noise schedule.

        Raises:
            ConfigurationError: further options (make a new sampler for them), or a setting that
                this sampler would ignore.
        """
        if options:
            raise ConfigurationError(
                "a sampler object has its options already",
                where=", ".join(options),
                suggestion=f"make {type(self).__name__}(scheduler, ...) with them",
            )
        moved = copy.copy(self)
        moved.scheduler = scheduler
        moved._refuse_unread_settings()
        return moved

    def _common_options(self) -> Mapping[str, Option]:
        if not self.writes_plans:
            return {}
        return {name: option for name, option in _COMMON_OPTIONS.items() if name != "guarded" or self.guards}

    @property
    def guarded(self) -> bool:
        """Whether steps give up order where the full order would widen or narrow the data (:mod:`.spread`)."""
        as_published = self.options.get("solver_type") == "as_published"
        return self.guards and bool(self.options.get("guarded", not as_published))

    @property
    def first_order_eta(self) -> float:
        """η of the first-order method that steps are compared with: 0 is DDIM, 1 is ancestral sampling."""
        return float(self.options.get("eta", 1.0 if self.stochastic else 0.0))

    @property
    def writes_plans(self) -> bool:
        """Whether the sampler is compiled to a plan (otherwise it is stepped)."""
        return type(self).write is not BaseSampler.write

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        """Write the rows of a plan through a grid; see :mod:`..builder`."""
        raise ConfigurationError(
            f"{type(self).__name__} has only step(), which cannot be compiled",
            where="plan",
            suggestion="override write() to get a plan",
        )

    def plan(
        self, num_inference_steps: int | None = None, *, timesteps: Sequence[float] | None = None,
        grid: TimeGrid | None = None,
    ) -> SamplingPlan:  # fmt: skip
        """Compile the sampler: on N steps of the config's spacing, on given timesteps, or on a grid.

        Args:
            num_inference_steps: N.
            timesteps: the times to ask the model at, strictly decreasing, used as they are;
                the run ends at the clean sample.
            grid: any grid.

        Raises:
            ConfigurationError: none or several of the three, a grid that cannot be, or a
                sampler that only has ``step``.
            NumericsError: the sampler has no finite coefficients on this grid.
        """
        chosen = self.grid(num_inference_steps, timesteps=timesteps, grid=grid)
        plan = _compile(self, chosen)  # checked, as the one with an analytic first step cannot be
        if not self.options.get("afs", False):
            return plan
        refuse_clean_start(*chosen.levels[0], where="afs", suggestion="use it on runs from pure noise, or afs=False")
        return _compile(self, chosen, afs=True)

    def grid(
        self, num_inference_steps: int | None = None, *, timesteps: Sequence[float] | None = None,
        grid: TimeGrid | None = None,
    ) -> TimeGrid:  # fmt: skip
        """The grid that :meth:`plan` would use."""
        if sum(given is not None for given in (num_inference_steps, timesteps, grid)) != 1:
            raise ConfigurationError(
                "none or several of num_inference_steps, timesteps and grid are given",
                where="num_inference_steps",
                suggestion="give exactly one of the three",
            )
        if grid is not None:
            return grid
        if timesteps is not None:
            return TimeGrid.from_times(self.scheduler, checked_times(timesteps))
        return make_grid(self.scheduler, num_inference_steps, suits=self.spacing)  # type: ignore[arg-type]

    def start(
        self, num_inference_steps: int, sample: Tensor, *, timesteps: Sequence[float] | None = None
    ) -> SamplerState:
        """The state before the first :meth:`step` of a hand-written loop."""
        plan = self.plan(None if timesteps is not None else num_inference_steps, timesteps=timesteps)
        return SamplerState(self._bind(plan), RowState(0, sample, {}))

    def step(
        self,
        model_output: Tensor | Branches,
        timestep: float | Tensor,
        sample: Tensor,
        *,
        next_timestep: float | Tensor | Literal["unsaid"] | None = "unsaid",
        state: SamplerState | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> SamplerOutput:
        """Apply one row: from the model's output about ``sample`` to the next state.

        Two ways to call it. With ``state`` (from :meth:`start` or the last output) it follows
        a plan, and works for every sampler. Without, it makes the single step from
        ``timestep`` to ``next_timestep`` (``None``: the clean sample); this needs a
        sampler with one model call a step and no history.

        Args:
            model_output: what the network returned, shape (B, ...); for CFG++ samplers ``Branches`` of the
                guided and the unconditional one.
            timestep: the time it was asked at.
            sample: the state it was asked about.
            next_timestep: the time to go to, ``None`` for the clean sample.
            state: where the loop stands.
            noise: unit noise of the sample's shape, if the step adds any; else it is drawn
                from ``generator`` (one, or one a sample; default: PyTorch's global one).

        Raises:
            ConfigurationError: a timestep that is not the plan's next one, or a sampler that
                needs ``state``.
        """
        time = _time(timestep)
        if state is None:
            if isinstance(next_timestep, str):
                raise ConfigurationError(
                    "neither next_timestep nor state says where the step goes",
                    where="next_timestep",
                    suggestion="give the grid's next time (None for the clean sample), or the state of the last output",
                )
            state = self._single_step(time, None if next_timestep is None else _time(next_timestep), sample)
        elif not isinstance(next_timestep, str):
            raise ConfigurationError("is known from the state", where="next_timestep", suggestion="give one of the two")
        plan, row = state.bound.plan, state.run.row
        if row >= len(plan):
            raise ConfigurationError(
                f"all {len(plan)} rows of the plan are done", where="state", suggestion="start() a new run"
            )
        if time != float(plan.time[row]):
            raise ConfigurationError(
                f"model call {row + 1} of the plan is at t = {plan.time[row]:g}, not {time:g}",
                where="timestep",
                suggestion="loop over plan.time, one step a row",
            )

        drawn = dict(state.drawn)

        def draw(step: int, stage: int) -> Tensor:
            if (step, stage) not in drawn:
                keys = resolve_keys(None, generator, sample.shape[0]) if noise is None else Keys.of(())
                source = NoiseSource(keys, tuple(sample.shape[1:]), sample.dtype, sample.device)
                drawn[step, stage] = source(step, stage) if noise is None else noise
            return drawn[step, stage]

        if state.bound.branches and not isinstance(model_output, Branches):
            raise ConfigurationError(
                f"{type(self).__name__} needs the unconditional prediction beside the guided one",
                where="model_output",
                suggestion="give Branches(guided, unconditional)",
            )
        # the history may keep the output, and the caller may reuse its memory
        output = model_output if not plan.history else _copied(model_output)
        after = state.bound.advance(RowState(row, sample, state.run.history), output, draw)
        clean = state.bound.clean_sample(after._replace(evaluated_x=sample, output=model_output))  # type: ignore[arg-type]
        return SamplerOutput(after.x, clean, SamplerState(state.bound, after, drawn if plan.c.shape[1] > 1 else {}))

    def _single_step(self, time: float, next_timestep: float | None, sample: Tensor) -> SamplerState:
        levels = self.scheduler.levels([time] if next_timestep is None else [time, next_timestep])
        plan = _compile(self, TimeGrid((levels[0], CLEAN if next_timestep is None else levels[1])))
        if self.calls_per_step != 1 or self.order != 1 or len(plan) != 1:
            raise ConfigurationError(
                f"{type(self).__name__} takes several model calls or remembers earlier ones",
                where="state",
                suggestion="state = sampler.start(num_inference_steps, sample), then hand on output.state",
            )
        return SamplerState(self._bind(plan), RowState(0, sample, {}))

    def _bind(self, plan: SamplingPlan) -> BoundPlan:
        return bind_for(plan, self.config)

    def _refuse_unread_settings(self) -> None:
        if type(self).step is not BaseSampler.step:
            return  # what a custom step reads is not known
        for name in ("use_clipped_model_output", "variance_type"):
            value, default = getattr(self.config, name), type(self.config).model_fields[name].default
            learned = isinstance(value, str) and value.startswith("learned")  # says what the model returns
            if value != default and not learned and name not in self.reads:
                raise ConfigurationError(
                    f"{type(self).__name__} does not use {name} (set to {value!r})",
                    where=name,
                    why="the setting would be ignored",
                    suggestion=f"leave it at {default!r}",
                )

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({self.scheduler!r}{options})"


def _compile(sampler: BaseSampler, grid: TimeGrid, afs: bool = False) -> SamplingPlan:
    build = PlanBuilder(sampler.space, analytic_first=afs, guard=_guard(sampler, grid, afs))
    try:
        sampler.write(build, grid)
    except (ZeroDivisionError, OverflowError) as error:
        raise NumericsError(
            f"the formula has no finite value after {build.opened} model calls ({error})",
            where=f"{type(sampler).__name__}.write",
            why="α is 0 at a level without signal and σ at the clean sample; or an option or a step is too large",
            suggestion="take a first-order step from or to such a level (along() says where its own is not defined)",
        ) from error
    return build.build(
        grid.levels[-1],
        math.hypot(grid.levels[0].alpha, grid.levels[0].sigma),
        carries=("data", "noise") if sampler.carries_constants and not afs else (),
        sampler=SAMPLERS.name_of(type(sampler)) or type(sampler).__name__.removesuffix("Sampler").lower(),
        order=sampler.order,
        options=sampler.options,
    )


def _guard(sampler: BaseSampler, grid: TimeGrid, afs: bool) -> SpreadGuard | None:
    """What keeps the data's spread, where the sampler wants it and the run goes from noise to data."""
    first, last = grid.levels[0], grid.levels[-1]
    if not sampler.guarded or last.noise_to_signal > first.noise_to_signal:
        return None
    scale = None if sampler.scheduler.cut else math.hypot(first.alpha, first.sigma)
    return SpreadGuard(grid, sampler.first_order_eta, scale, analytic_first=afs)


def _copied(output: Tensor | Branches) -> Tensor | Branches:
    return Branches(*(part.clone() for part in output)) if isinstance(output, Branches) else output.clone()


def _time(value: float | Tensor) -> float:
    return float(value.flatten()[0] if isinstance(value, Tensor) else value)


#: Options of every sampler that writes plans; they do not show where they are at their default.
_COMMON_OPTIONS: Mapping[str, Option] = {"afs": Option(False), "guarded": Option(True)}
