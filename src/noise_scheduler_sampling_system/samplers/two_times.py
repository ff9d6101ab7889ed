"""The sampler of networks of two times: flow maps, consistency trajectories, MeanFlow and shortcut models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

from ..config.options import Option
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import PlanBuilder
from ..schedules.path import CLEAN, Level, NoisePath
from ..support.errors import ConfigurationError
from .base import BaseSampler
from .steps import first_order, renoised
from .stochastic.consistency import lower_level

__all__ = ["FlowMapSampler"]


@final
@SAMPLERS.register("flow_map")
class FlowMapSampler(BaseSampler):
    """Steps of a network of two times (x, t, r), which predicts the solution of the probability-flow ODE from t to r.

    It runs flow maps (Boffi et al. 2024, arXiv 2406.07507), consistency trajectory models (Kim et al. 2023, arXiv
    2310.02279), shortcut models (Frans et al. 2024, arXiv 2410.12557) and MeanFlow (Geng et al. 2025, arXiv
    2505.13447). A perfect network gives the exact samples in any number of steps, one included. The network
    is called as model(x, t, r=r, **condition): x is at t, and r is the time that the step ends at. ``prediction_type``
    says what the network predicts (``docs/two-times.md``).

    With γ > 0 a step goes to a cleaner level than the next one, and noise brings it back there: the γ-sampling of
    consistency trajectory models. The marginal of the next level is kept. γ = 1 goes to clean data in every step: the
    multistep sampling of consistency models. No noise is added in the last step.

    Where the path reaches clean data at no time (discrete betas), the run ends at the path's smallest time: the network
    was never asked for more. A grid whose last time is already that one ends with the first-order step from there.

    Options:
        gamma: γ in [0, 1], the share of restart noise.
        restart: the cleaner level that a step with γ goes to. "ctm": σ/α is √(1 − γ²) that of the next level (Kim et
            al. 2023, Alg. 3). "tcd": the time is 1 − γ that of the next level (Zheng et al. 2024, arXiv 2402.19159).

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
        >>> pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="flow"), "flow_map")
        >>> plan = pipeline.plan(2)
        >>> plan.time.tolist(), plan.to[:, 0].tolist()
        ([1000.0, 500.0], [500.0, 0.0])
    """

    spacing = "trailing"
    declared_options = {
        "gamma": Option(0.0, minimum=0.0, maximum=1.0),
        "restart": Option("ctm", choices=("ctm", "tcd")),
    }

    def _common_options(self) -> Mapping[str, Option]:
        return {}  # the analytic first step is a prediction at one time

    def grid(
        self, num_inference_steps: int | None = None, *, timesteps: Sequence[float] | None = None,
        grid: TimeGrid | None = None,
    ) -> TimeGrid:  # fmt: skip
        """The grid that :meth:`plan` would use.

        A grid of N steps has no step of its own from the path's smallest time to clean data: its network goes to the
        end at once. Where the path reaches clean data at no time, the grid ends at the smallest time.
        """
        chosen = super().grid(num_inference_steps, timesteps=timesteps, grid=grid)
        path = self.scheduler
        lowest = path.level(path.t_min)
        *levels, end = chosen.levels
        if end is not CLEAN:
            return chosen
        if num_inference_steps is not None and len(levels) > 1 and _is_at(levels[-1], lowest):
            longer = super().grid(num_inference_steps + 1).levels
            levels = list(longer[:-2] if _is_at(longer[-2], lowest) else levels)
        if path.clean_level is None and not _is_at(levels[-1], lowest):
            end = lowest
        return TimeGrid((*levels, end))

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        path, gamma = self.scheduler, self.options["gamma"]
        if gamma and grid.levels[-1].noise_to_signal > grid.levels[0].noise_to_signal:
            raise ConfigurationError(
                "a step with restart noise cannot raise the noise level", where="gamma", suggestion="use gamma=0"
            )
        for i, now, after in grid.intervals():
            is_last = i == grid.steps - 1
            to = after if is_last or gamma == 0.0 else self._restarted(after)
            asked = self._asked(now, to)
            build.advance(first_order(build.predict(now, i, to=path.second_level(now, asked)), to))
            if not is_last and to.sigma * after.alpha < after.sigma * to.alpha:
                build.advance(renoised(build.x, build.noise(i), to, after))

    def _restarted(self, after: Level) -> Level:
        """The level that a step goes to before noise brings it to ``after``."""
        path, gamma = self.scheduler, self.options["gamma"]
        cleanest = _cleanest(path)
        if self.options["restart"] == "tcd":
            low = lower_level(path, after, gamma)
        else:
            ratio = math.sqrt((1.0 - gamma) * (1.0 + gamma)) * after.noise_to_signal
            low = path.level_at(-2.0 * math.log(ratio)) if ratio > 0.0 else CLEAN
        lowest = path.level(path.t_min)
        return low if low.noise_to_signal >= lowest.noise_to_signal else cleanest

    def _asked(self, now: Level, to: Level) -> Level:
        """The level that the network is asked for in a step to ``to``, at a time that it knows."""
        if to is not CLEAN:
            return to
        cleanest = _cleanest(self.scheduler)
        return now if now.noise_to_signal <= cleanest.noise_to_signal else cleanest


def _is_at(level: Level, lowest: Level) -> bool:
    return level.noise_to_signal <= lowest.noise_to_signal * (1 + 1e-9)


def _cleanest(path: NoisePath) -> Level:
    """The cleanest level that a network of two times is asked for."""
    return path.clean_level or path.level(path.t_min)
