"""Heun's second-order method."""

from __future__ import annotations

from typing import final

from ..config.choices import SamplingMethod
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import PlanBuilder
from .base import BaseSampler
from .steps import along, first_order, from_noise

__all__ = ["HeunSampler"]


@final
@SAMPLERS.register(SamplingMethod.HEUN)
class HeunSampler(BaseSampler):
    """Heun's method on dx̄/dσ̄ = ε (Karras et al. 2022, arXiv 2206.00364, Algorithm 1).

    Two calls a step. The step to the clean sample, where ε is not defined, and a step from (nearly) zero signal, where
    σ̄ is infinite or huge, are DDIM steps with one call. So N steps from a level with signal take 2N − 1 calls.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline
        >>> plan = DiffusionPipeline(None, "heun").plan(10)
        >>> plan.steps, plan.nfe
        (10, 19)
    """

    order = 2
    calls_per_step = 2
    space = "epsilon"
    guards = True

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        for i, now, after in grid.intervals():
            first = build.predict(now, i)
            x = build.x
            euler = first_order(first, after)
            build.advance(euler)
            if after.sigma > 0.0 and not from_noise(now, after):
                second = build.predict(after, i)
                build.settle(after, (along(x, (first.epsilon + second.epsilon) / 2, now, after), euler))
