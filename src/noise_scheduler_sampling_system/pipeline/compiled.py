"""The compiled settings of a pipeline: a noise schedule, a sampler on it, and the runs that were made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, final

from ..config.keyword_advice import refuse_unknown
from ..config.sampler_aliases import resolve
from ..config.settings import NoiseSchedulerConfig
from ..grids.frame_grid import FrameGrid
from ..grids.time_grid import TimeGrid
from ..guidance.cached import CachedGuidance
from ..plans.frame_plan import FramePlan
from ..plans.plan import SamplingPlan
from ..running.bound_plan import BoundPlan, bind_for
from ..running.frame_run import FrameRun, bind_frames
from ..running.loop import PlannedRun, Run
from ..samplers.adaptive import AdaptiveSampler
from ..samplers.base import BaseSampler
from ..samplers.factory import SamplerFactory
from ..samplers.frame_plans import plan_frames
from ..schedules.factory import NoiseSchedulerFactory
from ..schedules.foreign_levels import refuse_foreign_levels
from ..schedules.path import Level, NoisePath
from ..support.argument_checks import checked_count, checked_times
from ..support.errors import ConfigurationError
from ..support.kept import Kept, Same
from .adaptive_run import AdaptiveRun
from .plan_warnings import warn_of_amplification, warn_of_spread
from .step_only_run import levels_of, stepped

__all__ = ["Setup"]


@final
@dataclass(frozen=True)
class Setup:
    """What a pipeline is between two updates.

    Attributes:
        scheduler: the noise schedule.
        sampler: on this schedule.
        options: of the sampler, as they were given.
        prepared: what :mod:`.prepare` and :mod:`.prepared_run` made, for equal requests.
    """

    scheduler: NoisePath
    sampler: BaseSampler
    options: Mapping[str, Any] = field(default_factory=dict)
    _runs: Kept[Run] = field(default_factory=Kept, compare=False)
    _followed: Kept[PlannedRun] = field(default_factory=Kept, compare=False)
    prepared: Kept[Any] = field(default_factory=Kept, compare=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # what was made on use is made again; version 1.3 kept it under another name
        given = {name: state[name] for name in ("scheduler", "sampler", "options")}
        vars(self).update(given, _runs=Kept(), _followed=Kept(), prepared=Kept())

    @classmethod
    def make(cls, config: NoiseSchedulerConfig | NoisePath, method: Any, options: Mapping[str, Any]) -> Setup:
        """Compile a config or a noise schedule, a sampler's name, class or object, and its options."""
        refuse_unknown({"scheduler"} & options.keys(), ["method"])  # an argument of the factory
        scheduler = config if isinstance(config, NoisePath) else NoiseSchedulerFactory.create(config)
        sampler = SamplerFactory.create(method, scheduler, **options)
        return cls(sampler.scheduler, sampler, dict(options))  # a sampler's name may imply a spacing

    def changed(self, method: Any, changes: Mapping[str, Any]) -> Setup:
        """This setup with other settings; a schedule that was given as an object keeps its class."""
        config, options = self.scheduler.config.replace(**changes), self.options
        if isinstance(method, str | Enum):  # the config holds what the name implies, and changes replace it
            meant = resolve(method)
            method, options = meant.sampler, {**meant.options, **options}
        if config.beta_schedule != self.scheduler.config.beta_schedule:
            return Setup.make(config, method, options)
        return Setup.make(self.scheduler.with_config(config), method, options)

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that a pipeline must have to resume a run."""
        return {
            "config": self.scheduler.config.to_dict(),
            "sampler": type(self.sampler).__name__,
            "options": {name: repr(value) for name, value in sorted(self.options.items())},
        }

    def run_on(
        self,
        num_inference_steps: int,
        timesteps: Sequence[float] | None = None,
        grid: TimeGrid | FrameGrid | None = None,
    ) -> Run:
        """The sampler's run on N steps, on given timesteps or on a grid (of frames); each is made once."""
        key = _checked_choice(num_inference_steps, timesteps, grid)
        return self._runs.get(key, lambda: self._on(key))

    def _on(self, key: int | tuple[float, ...] | TimeGrid | FrameGrid) -> Run:
        if isinstance(key, FrameGrid):
            return self._frames_on(key)
        if isinstance(key, TimeGrid):
            refuse_foreign_levels(self.scheduler, [level for level in key.levels if not math.isnan(level.t)], "grid")
            grid = key
        else:
            grid = self.sampler.grid(key) if isinstance(key, int) else self.sampler.grid(timesteps=key)
        if isinstance(self.sampler, AdaptiveSampler):
            return AdaptiveRun(bind_for(self.sampler.on_grid(grid), self.scheduler.config), self.sampler, grid)
        if not self.sampler.writes_plans:
            return self._run_of(levels_of(self.sampler, grid))
        plan = self.sampler.plan(grid=grid)
        made = self._run_of(plan)
        warn_of_amplification(plan)
        if isinstance(key, int):
            warn_of_spread(plan, self.sampler)
        return made

    def _frames_on(self, grid: FrameGrid) -> FrameRun:
        timed = {level for row in grid.levels for level in row if not math.isnan(level.t)}
        refuse_foreign_levels(self.scheduler, sorted(timed), "grid")
        plan = plan_frames(self.sampler, grid)
        for own in plan.plans:
            warn_of_amplification(own)
        return bind_frames(plan, self.scheduler.config)

    def following(self, plan: SamplingPlan | FramePlan) -> PlannedRun:
        """The run of a given plan, made once; a step-only sampler makes its own steps between the levels of the plan.

        Raises:
            ConfigurationError: not a plan, or one that needs another kind of model.
        """
        return self._followed.get(Same(plan), lambda: self._run_of(plan))

    def following_guided(self, run: BoundPlan, cached: CachedGuidance) -> PlannedRun:
        """The run of the plan of another run that holds its guidance, made once.

        Raises:
            ConfigurationError: guidance that the plan cannot hold.
        """
        return self._followed.get((Same(run), cached), lambda: self._run_of(cached.folded_into(run.plan)))

    def _run_of(self, plan: SamplingPlan | FramePlan) -> PlannedRun:
        if isinstance(plan, FramePlan):
            return self._following_frames(plan)
        if not isinstance(plan, SamplingPlan):
            raise ConfigurationError(
                f"got {type(plan).__name__}", where="plan", suggestion="give a SamplingPlan; load files by its load()"
            )
        self._refuse_foreign(plan)
        bound = bind_for(plan, self.scheduler.config)
        return bound if self._runs_plans else stepped(self.sampler, bound)

    def _following_frames(self, plan: FramePlan) -> FrameRun:
        if not self._runs_plans:
            raise ConfigurationError(
                f"{type(self.sampler).__name__} has only step(), which takes all frames from level to level together",
                where="plan",
                suggestion="use a sampler that writes plans, e.g. 'ddim'",
            )
        for own in plan.plans:
            self._refuse_foreign(own)
        rests = plan.time[plan.row_of < 0]
        if rests.size and not self.scheduler.t_clean <= rests.min() <= rests.max() <= self.scheduler.t_max:
            raise ConfigurationError(
                f"the model is told times from {rests.min():g} to {rests.max():g} for frames that rest",
                where="plan",
                why=f"{self.scheduler!r} has times from {self.scheduler.t_clean:g} to {self.scheduler.t_max:g}",
                suggestion="run it on a pipeline of the schedule it was made on",
            )
        return bind_frames(plan, self.scheduler.config)

    def refuse_to_resume(self) -> None:
        """Raise for a sampler whose stopped runs cannot be resumed."""
        if isinstance(self.sampler, AdaptiveSampler):
            raise ConfigurationError(
                "a run with adaptive steps cannot be resumed",
                where="resume",
                why="the state does not hold the length of the next step",
                suggestion="start anew at step.x: initial_sample=step.x, on a grid that begins at its level",
            )

    @property
    def _runs_plans(self) -> bool:
        """Whether the sampler runs plans, and has no step() of its own."""
        return self.sampler.writes_plans or isinstance(self.sampler, AdaptiveSampler)

    def _refuse_foreign(self, plan: SamplingPlan) -> None:
        """Raise for a plan of another noise schedule: the model would be told other noise levels than x has."""
        rows = zip(plan.time, plan.alpha, plan.sigma, plan.asked, strict=False)  # without the end
        levels = [Level(*level) for *level, evaluates in rows if evaluates]
        refuse_foreign_levels(self.scheduler, levels, "plan", rounded="scheduler" in plan.provenance)
        if plan.order == 0 and self._runs_plans:
            raise ConfigurationError(
                f"it holds the levels that the step-only sampler {plan.sampler} visited, not its steps",
                where="plan",
                suggestion="run it on a pipeline with that sampler",
            )


def _checked_choice(
    num_inference_steps: int, timesteps: Sequence[float] | None, grid: TimeGrid | FrameGrid | None
) -> int | tuple[float, ...] | TimeGrid | FrameGrid:
    """The one argument that determines the levels."""
    if grid is None:
        return checked_count(num_inference_steps) if timesteps is None else checked_times(timesteps)
    if timesteps is not None:
        raise ConfigurationError("is given beside timesteps", where="grid", suggestion="give one of the two")
    if not isinstance(grid, TimeGrid | FrameGrid):
        raise ConfigurationError(
            f"got {type(grid).__name__}",
            where="grid",
            suggestion="give a TimeGrid, e.g. TimeGrid.from_sigmas(path, ...), or a FrameGrid",
        )
    return grid
