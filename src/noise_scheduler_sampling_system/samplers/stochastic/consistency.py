"""Samplers of consistency models: each step predicts the clean sample and adds noise again."""

from __future__ import annotations

import math
from typing import Any, final

from ...config.options import Option
from ...config.registries import SAMPLERS
from ...grids.time_grid import TimeGrid
from ...plans.builder import PlanBuilder
from ...schedules.path import Level, NoisePath
from ..base import BaseSampler
from ..steps import first_order, renoised

__all__ = ["LCMSampler", "TCDSampler", "lower_level"]


@final
@SAMPLERS.register("lcm")
class LCMSampler(BaseSampler):
    """Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, Alg. 1; Luo et al. 2023, arXiv 2310.04378).

    Each step predicts the clean sample, c_skip·x + c_out·x₀, and adds fresh noise up to the next level.

    Options:
        timestep_scaling: of the boundary condition, c_skip = σ_d²/(s² + σ_d²) and c_out =
            s/√(s² + σ_d²) with s = timestep_scaling·t and σ_d = ½. 0 means c_skip = 0 and c_out = 1.
    """

    stochastic = True
    declared_options = {"timestep_scaling": Option(0.0, minimum=0.0, maximum=1e6)}

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.carries_constants = not self.options["timestep_scaling"]

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        scaling, sigma_data = self.options["timestep_scaling"], 0.5
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            clean = p.sample
            if scaling:
                square = (scaling * now.t) ** 2 + sigma_data**2
                clean = sigma_data**2 / square * p.x + scaling * now.t / math.sqrt(square) * clean
            noised = after.alpha * clean
            build.advance(noised + after.sigma * build.noise(i) if after.sigma else noised)


@final
@SAMPLERS.register("tcd")
class TCDSampler(BaseSampler):
    """Trajectory consistency sampling (Zheng et al. 2024, arXiv 2402.19159): down past the next level, and up again.

    Options:
        eta: γ of the paper, in [0, 1]: 0 is deterministic (DDIM), 1 starts afresh from the clean sample.
    """

    stochastic = True
    declared_options = {"eta": Option(0.3, minimum=0.0, maximum=1.0)}

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            low = lower_level(self.scheduler, after, self.options["eta"])
            build.advance(first_order(p, low))
            if after.sigma > low.sigma:
                build.advance(renoised(build.x, build.noise(i), low, after))


def lower_level(path: NoisePath, after: Level, gamma: float) -> Level:
    """The level at (1 − γ) times the time of ``after``, as TCD chooses it; a clean one below the path's times."""
    if after.sigma == 0.0 or gamma == 0.0:
        return after
    t = (1.0 - gamma) * after.t
    t = math.floor(t) if path.discrete else t
    return path.level(t) if t >= path.t_min and gamma < 1.0 else Level(after.t, 1.0, 0.0)
