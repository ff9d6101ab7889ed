"""Heun's second-order method."""

from __future__ import annotations

from typing import final

from ..builder import Form, PlanBuilder
from ..config import SAMPLERS, SamplingMethod
from ..errors import ConfigurationError
from ..grids import TimeGrid
from ..schedules.path import Level
from .base import BaseSampler

__all__ = ["HeunSampler"]


def along(x: Form, epsilon: Form, now: Level, after: Level) -> Form:
    """Move x along the ODE dx̄/dσ̄ = ε with constant ε: x' = (α'/α)·(x − σ·ε) + σ'·ε.

    Raises:
        ConfigurationError: the step starts at zero signal, where only the model's own ε
            has a clean sample.
    """
    if now.alpha == 0.0:
        raise ConfigurationError(
            "the schedule starts at zero signal, where this sampler's combination of several ε is not defined",
            where="beta_schedule",
            suggestion="use 'heun' or any first-order sampler, or start the timesteps at a level with signal",
        )
    return (after.alpha / now.alpha) * (x - now.sigma * epsilon) + after.sigma * epsilon


@final
@SAMPLERS.register(SamplingMethod.HEUN)
class HeunSampler(BaseSampler):
    """Heun's method on dx̄/dσ̄ = ε (Karras et al. 2022, arXiv 2206.00364, Algorithm 1).

    Two calls a step; one in the step to the clean sample, where ε is not defined, and in a
    step from zero signal, where σ̄ is infinite: these are DDIM steps, 2N − 1 calls in all.
    """

    order = 2
    calls_per_step = 2
    space = "epsilon"

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        for i, now, after in grid.intervals():
            first = build.predict(now, i)
            x = build.x
            build.advance(after.alpha * first.sample + after.sigma * first.epsilon)
            if after.sigma > 0.0 and now.alpha > 0.0:
                second = build.predict(after, i)
                build.advance(along(x, (first.epsilon + second.epsilon) / 2, now, after))
