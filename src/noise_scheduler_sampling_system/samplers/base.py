"""The base class of samplers: options, plans, and single steps for hand-written loops."""

from __future__ import annotations

import copy
import math
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..config.options import Option, checked_options, declared_by
from ..config.registries import SAMPLERS
from ..config.settings import NoiseSchedulerConfig
from ..config.spacing_choice import spacing_of
from ..grids.time_grid import TimeGrid, make_grid, refuse_clean_start, refuse_other_grid
from ..plans.builder import PlanBuilder
from ..plans.plan import SamplingPlan
from ..running.bound_plan import BoundPlan, bind_for
from ..running.loop import Branches, RowState
from ..schedules.path import CLEAN, NoisePath
from ..support.argument_checks import checked_times
from ..support.errors import ConfigurationError, NumericsError
from ..support.values import ByValue
from .by_hand import SamplerOutput, SamplerState, apply_row
from .spread import SpreadGuard

__all__ = ["BaseSampler", "SamplerOutput", "SamplerState"]


class BaseSampler(ByValue, ABC):
    """A sampling method on a noise schedule.

    A sampler writes a plan: it overrides :meth:`write`. A custom sampler may override :meth:`step` instead. It then
    runs in the same pipeline, with one model call a step.

    Args:
        scheduler: the noise schedule.
        options: values of the options in ``declared_options``.

    Attributes:
        order: order of convergence of the deterministic part, with these options.
        calls_per_step: model calls in a step, with these options (the last step may take fewer).
        stochastic: whether noise is added with the default options.
        declared_options: the sampler's own options, each with its default, type and range
            (:class:`~.config.options.Option`). A class that declares none has those of its base. Every sampler that
            writes plans for networks of one time also has ``afs``, the analytic first step, which saves the first model
            call.
        option_defaults: the defaults of the options. A class may write them instead of ``declared_options``. The type
            of a plain value then says what is allowed: True or False, a whole number ≥ 1, a number ≥ 0, or one of
            ``choices``.
        choices: the values of an option that is a word.
        reads: the config fields that this sampler reads and not every sampler does.
        space: the quantity of the plan's history: "sample", "epsilon", "v_prediction" or "flow_prediction".
        spacing: the spacing of runs whose config says "auto".
        guards: whether the sampler offers its steps to the guard of the data's spread
            (:meth:`~.plans.builder.PlanBuilder.settle`). It then has the option ``guarded``.
        carries_constants: whether steps are exact for constant data, with these options. If so, plans are checked for
            it.

    Raises:
        ConfigurationError: an unknown option, a value that is not allowed, or a config field that was set and that
            this sampler would ignore.

    Examples:
        >>> from noise_scheduler_sampling_system import BaseSampler, DiffusionPipeline
        >>> class Mine(BaseSampler):
        ...     def write(self, build, grid):
        ...         for i, now, after in grid.intervals():
        ...             p = build.predict(now, i)
        ...             build.advance(after.alpha * p.sample + after.sigma * p.epsilon)
        >>> DiffusionPipeline(None, Mine).plan(5).nfe
        5
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
        given = {k: value for k, value in checked.items() if k not in COMMON_OPTIONS or value != known[k].default}
        self.options: Mapping[str, Any] = {**self.option_defaults, **given}
        self._refuse_unread_settings()

    def calls_of(self, steps: int) -> int:
        """The most model calls of a run of N steps; adaptive steps take what they need."""
        return steps * self.calls_per_step

    @property
    def config(self) -> NoiseSchedulerConfig:
        """The settings of the noise schedule."""
        return self.scheduler.config

    @property
    def run_spacing(self) -> str:
        """The name of the spacing: the config's or, if that is "auto", the sampler's own."""
        return spacing_of(self.config, self.spacing)

    def on(self, scheduler: NoisePath, **options: Any) -> BaseSampler:
        """This sampler with its options on another noise schedule.

        Raises:
            ConfigurationError: options are given (make a new sampler for them), or the config has a setting that this
                sampler would ignore.
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
        return {name: option for name, option in COMMON_OPTIONS.items() if name != "guarded" or self.guards}

    @property
    def guarded(self) -> bool:
        """Whether steps lower their order where the full order would widen or narrow the data (:mod:`.spread`)."""
        as_published = self.options.get("solver_type") == "as_published"
        return self.guards and bool(self.options.get("guarded", not as_published))

    @property
    def first_order_eta(self) -> float:
        """η of the first-order method that the guard compares steps with: 0 is DDIM, 1 is ancestral sampling."""
        return float(self.options.get("eta", 1.0 if self.stochastic else 0.0))

    @property
    def writes_plans(self) -> bool:
        """Whether the sampler has a plan; otherwise it has only :meth:`step`."""
        return type(self).write is not BaseSampler.write

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        """Write the rows of a plan on a grid; see :mod:`.plans.builder`.

        Args:
            build: makes predictions and noise (symbols), and takes the states.
            grid: the levels; ``grid.intervals()`` yields (i, level, next level). The last level may be ``CLEAN``,
                whose t is NaN. Do not interpolate t to it: ``self.scheduler.time(log_snr)`` gives the time of a level.
        """
        raise ConfigurationError(
            f"{type(self).__name__} has only step(), which cannot be compiled",
            where="plan",
            suggestion="override write() to get a plan",
        )

    def plan(
        self, num_inference_steps: int | None = None, *, timesteps: Sequence[float] | None = None,
        grid: TimeGrid | None = None,
    ) -> SamplingPlan:  # fmt: skip
        """Compile the sampler on N steps of the config's spacing, on given timesteps, or on a grid.

        Args:
            num_inference_steps: N.
            timesteps: the times of the model calls, strictly decreasing; the run ends at the clean sample.
            grid: any grid.

        Raises:
            ConfigurationError: none or several of the three are given, the grid is not valid, or the sampler has only
                ``step``.
            NumericsError: a coefficient is not finite on this grid.
        """
        chosen = self.grid(num_inference_steps, timesteps=timesteps, grid=grid)
        plan = _compile(self, chosen)  # with afs, too: only a plan without it is checked for carrying constants
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
            refuse_other_grid(grid)
            return grid
        if timesteps is not None:
            return TimeGrid.from_times(self.scheduler, checked_times(timesteps))
        return make_grid(self.scheduler, num_inference_steps, suits=self.spacing)  # type: ignore[arg-type]

    def start(
        self, num_inference_steps: int, sample: Tensor, *, timesteps: Sequence[float] | None = None
    ) -> SamplerState:
        """The state before the first :meth:`step` of a hand-written loop; the arguments are those of :meth:`plan`."""
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
        """Apply one row: compute the next state from the model's output for ``sample``.

        With ``state`` (from :meth:`start` or from the last output) the step is the next row of a plan; every sampler
        has one. Without ``state`` the step goes from ``timestep`` to ``next_timestep``; this needs a sampler with one
        model call a step and no history.

        Args:
            model_output: the network's output, shape (B, ...); for CFG++ samplers ``Branches`` of the guided and the
                unconditional output.
            timestep: the time of the model call.
            sample: the state that the model was evaluated at, shape (B, ...).
            next_timestep: the time that the step ends at; None for the clean sample.
            state: the state of the loop.
            noise: unit noise of the sample's shape, where the step adds noise; None: noise drawn from ``generator``.
            generator: one, or one for each sample; None: PyTorch's global one.

        Raises:
            ConfigurationError: the timestep is not the plan's next one, or the sampler needs ``state``.
        """
        time = _time(timestep)
        if state is None:
            if isinstance(next_timestep, str):
                raise ConfigurationError(
                    "neither next_timestep nor state is given",
                    where="next_timestep",
                    suggestion="give the grid's next time (None for the clean sample), or the state of the last output",
                )
            state = self._single_step(time, None if next_timestep is None else _time(next_timestep), sample)
        elif not isinstance(next_timestep, str):
            raise ConfigurationError("is known from the state", where="next_timestep", suggestion="give one of the two")
        sampler = type(self).__name__
        return apply_row(state, model_output, time, sample, noise=noise, generator=generator, sampler=sampler)

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
            return  # the settings that a custom step reads are not known
        for name in ("use_clipped_model_output", "variance_type"):
            value, default = getattr(self.config, name), type(self.config).model_fields[name].default
            learned = isinstance(value, str) and value.startswith("learned")  # describes the model's output
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
    """The guard of the data's spread; None where the sampler has none, or where the run goes from data to noise."""
    first, last = grid.levels[0], grid.levels[-1]
    if not sampler.guarded or last.noise_to_signal > first.noise_to_signal:
        return None
    scale = None if sampler.scheduler.cut else math.hypot(first.alpha, first.sigma)
    return SpreadGuard(grid, sampler.first_order_eta, scale, analytic_first=afs)


def _time(value: float | Tensor) -> float:
    return float(value.flatten()[0] if isinstance(value, Tensor) else value)


#: Options of every sampler that writes plans; ``options`` holds them only where they differ from the default.
COMMON_OPTIONS: Mapping[str, Option] = {"afs": Option(False), "guarded": Option(True)}
