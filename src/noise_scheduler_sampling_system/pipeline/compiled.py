"""A noise schedule with a sampler on it: what a pipeline is at one moment."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..config.keyword_advice import refuse_unknown
from ..config.sampler_aliases import resolve
from ..config.settings import NoiseSchedulerConfig
from ..grids.time_grid import TimeGrid
from ..plans.gaussian_moments import typical_spread
from ..plans.plan import SamplingPlan
from ..running.bound_plan import bind_for
from ..running.loop import PlannedRun, Run
from ..samplers.adaptive import AdaptiveSampler
from ..samplers.base import BaseSampler
from ..samplers.factory import SamplerFactory
from ..schedules.factory import NoiseSchedulerFactory
from ..schedules.foreign_levels import refuse_foreign_levels
from ..schedules.path import Level, NoisePath
from ..support.argument_checks import checked_count, checked_times
from ..support.errors import ConfigurationError, NoiseSamplingError
from .adaptive_run import AdaptiveRun
from .step_only_run import levels_of, stepped

__all__ = ["Setup", "refuse_other_settings", "warn_of_amplification"]

logger = logging.getLogger(__name__)

_KEPT_PLANS = 64
#: Spreads of typical data that are no reason to warn, from this number of steps on (docs/samplers.md has them all).
_LEAST_SPREAD, _LARGEST_SPREAD, _ENOUGH_STEPS = 0.55, 1.15, 10
#: Where a better spread is looked for.
_OTHER_SPACINGS = ("leading", "kl_optimal", "karras", "log_snr")
#: Ordinary plans stay below this; second-order ones from the top of the cosine schedule reach 60 to 1,600.
_AMPLIFICATION = 50.0


@dataclass(frozen=True)
class Setup:
    """Schedule, sampler, and the plans that they have made so far."""

    scheduler: NoisePath
    sampler: BaseSampler
    options: Mapping[str, Any] = field(default_factory=dict)
    _made: dict[Any, Run] = field(default_factory=dict, compare=False)

    @classmethod
    def make(cls, config: NoiseSchedulerConfig | NoisePath, method: Any, options: Mapping[str, Any]) -> Setup:
        """From a config or a noise schedule, a sampler's name or class, and its options."""
        refuse_unknown({"scheduler"} & options.keys(), ["method"])  # the factory's own argument
        scheduler = config if isinstance(config, NoisePath) else NoiseSchedulerFactory.create(config)
        sampler = SamplerFactory.create(method, scheduler, **options)
        return cls(sampler.scheduler, sampler, dict(options))  # a sampler's name may imply a spacing

    def changed(self, method: Any, changes: Mapping[str, Any]) -> Setup:
        """The same with other settings; a schedule that came as an object keeps its class."""
        config, options = self.scheduler.config.replace(**changes), self.options
        if isinstance(method, str | Enum):  # what the name implied is in the config by now, and may be changed
            meant = resolve(method)
            method, options = meant.sampler, {**meant.options, **options}
        if config.beta_schedule != self.scheduler.config.beta_schedule:
            return Setup.make(config, method, options)
        return Setup.make(self.scheduler.with_config(config), method, options)

    @property
    def identity(self) -> dict[str, Any]:
        """What a stopped run must find again to go on."""
        return {
            "config": self.scheduler.config.to_dict(),
            "sampler": type(self.sampler).__name__,
            "options": {name: repr(value) for name, value in sorted(self.options.items())},
        }

    def run_on(
        self, num_inference_steps: int, timesteps: Sequence[float] | None = None, grid: TimeGrid | None = None
    ) -> Run:
        """The sampler on N steps, on given timesteps or on a grid, ready for the loop; made once."""
        key = _checked_choice(num_inference_steps, timesteps, grid)
        made = self._made.get(key)
        if made is None:
            if isinstance(key, TimeGrid):
                refuse_foreign_levels(
                    self.scheduler, [level for level in key.levels if not math.isnan(level.t)], "grid"
                )
                grid = key
            else:
                grid = self.sampler.grid(key) if isinstance(key, int) else self.sampler.grid(timesteps=key)
            if isinstance(self.sampler, AdaptiveSampler):
                made = AdaptiveRun(bind_for(self.sampler.on_grid(grid), self.scheduler.config), self.sampler, grid)
            elif self.sampler.writes_plans:
                made = self.following(self.sampler.plan(grid=grid))
                warn_of_amplification(made.plan)
                if isinstance(key, int):
                    _warn_of_spread(made.plan, self.sampler)
            else:
                made = self.following(levels_of(self.sampler, grid))
            if len(self._made) >= _KEPT_PLANS:
                self._made.clear()
            self._made[key] = made
        return made

    def following(self, plan: SamplingPlan) -> PlannedRun:
        """A given plan, ready for the loop; a step-only sampler visits its levels and makes its own steps.

        Raises:
            ConfigurationError: not a plan, or one that needs another kind of model.
        """
        if not isinstance(plan, SamplingPlan):
            raise ConfigurationError(
                f"got {type(plan).__name__}", where="plan", suggestion="give a SamplingPlan; load files by its load()"
            )
        self._refuse_foreign(plan)
        bound = bind_for(plan, self.scheduler.config)
        return bound if self._runs_plans else stepped(self.sampler, bound)

    def refuse_to_resume(self) -> None:
        """Raise where a stopped run does not hold all that is needed to go on."""
        if isinstance(self.sampler, AdaptiveSampler):
            raise ConfigurationError(
                "a run that finds its steps on the way cannot be resumed",
                where="resume",
                why="what it had learned of the next step's length is not in the state",
                suggestion="start anew at step.x: initial_sample=step.x, on a grid that begins at its level",
            )

    @property
    def _runs_plans(self) -> bool:
        """Whether the sampler has no step() of its own."""
        return self.sampler.writes_plans or isinstance(self.sampler, AdaptiveSampler)

    def _refuse_foreign(self, plan: SamplingPlan) -> None:
        """A plan's levels must be this schedule's, or the model would be asked about other noise than x has."""
        rows = zip(plan.time, plan.alpha, plan.sigma, plan.asked, strict=False)  # without the end
        levels = [Level(*level) for *level, asked in rows if asked]
        refuse_foreign_levels(self.scheduler, levels, "plan", rounded="scheduler" in plan.provenance)
        if plan.order == 0 and self._runs_plans:
            raise ConfigurationError(
                f"it holds the levels that the step-only sampler {plan.sampler} visited, not its steps",
                where="plan",
                suggestion="run it on a pipeline with that sampler",
            )


def _checked_choice(
    num_inference_steps: int, timesteps: Sequence[float] | None, grid: TimeGrid | None
) -> int | tuple[float, ...] | TimeGrid:
    """What says where the model is asked."""
    if grid is None:
        return checked_count(num_inference_steps) if timesteps is None else checked_times(timesteps)
    if timesteps is not None:
        raise ConfigurationError("is given beside timesteps", where="grid", suggestion="give one of the two")
    if not isinstance(grid, TimeGrid):
        raise ConfigurationError(
            f"got {type(grid).__name__}",
            where="grid",
            suggestion="give a TimeGrid, e.g. TimeGrid.from_sigmas(path, ...)",
        )
    return grid


def refuse_other_settings(saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise unless a stopped run's settings are the ones here."""
    if saved != here:
        fields = [k for k in here["config"] if saved.get("config", {}).get(k) != here["config"][k]]
        raise ConfigurationError(
            f"the run was started under other settings ({', '.join(fields) or 'another sampler'})",
            where="resume",
            suggestion="resume it on a pipeline with the same config and sampler",
        )


def warn_of_amplification(plan: SamplingPlan) -> None:
    """Log what a plan does to errors of the predictions, where that is much."""
    if plan.amplification > _AMPLIFICATION:
        logger.warning(
            "%s in %d steps multiplies errors of the predicted clean sample by up to %.0f (plan.amplification): its "
            "first interval spans too much noise; take more steps, the 'leading' spacing, or a first-order sampler",
            plan.sampler, plan.steps, plan.amplification,
        )  # fmt: skip


def _warn_of_spread(plan: SamplingPlan, sampler: BaseSampler) -> None:
    """Say so where a sampler on a spacing leaves noise in the data or takes much out, and which spacing is better."""
    if plan.steps < _ENOUGH_STEPS or _LEAST_SPREAD <= (spread := typical_spread(plan)) <= _LARGEST_SPREAD:
        return
    others = {name: _spread_on(sampler, name, plan.steps) for name in _OTHER_SPACINGS if name != sampler.run_spacing}
    better = min(others, key=lambda name: _off(others[name]))
    if _off(others[better]) > 0.7 * _off(spread):
        return  # it is the sampler's way on any spacing
    logger.warning(
        "%s on %r in %d steps returns data of standard deviation 0.3 with %.2f of it (plan.gaussian_moments); "
        "timestep_spacing=%r returns it with %.2f",
        plan.sampler, sampler.run_spacing, plan.steps, spread, better, others[better],
    )  # fmt: skip


def _off(spread: float) -> float:
    """How far a spread is from 1, on a logarithmic scale."""
    return abs(math.log(spread)) if 0.0 < spread < math.inf else math.inf


def _spread_on(sampler: BaseSampler, spacing: str, steps: int) -> float:
    try:
        return typical_spread(sampler.on(sampler.scheduler.spaced(spacing)).plan(steps))
    except NoiseSamplingError:  # the sampler has no plan there
        return 0.0
