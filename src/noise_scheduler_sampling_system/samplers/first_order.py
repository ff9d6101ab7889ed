"""Samplers with one model call a step and no history: DDIM, Euler, ancestral sampling and DDPM share one formula.

From (α, σ) to (α', σ'), with the predicted clean sample x₀ and noise ε,

    x' = α'·x₀ + √(σ'² − n²)·ε + n·ξ,    n = η·(σ'/σ)·√(σ² − (α·σ'/α')²)   (at most σ').

At η = 1, n is the standard deviation of the posterior q(x'|x, x₀) (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16,
here for any α and σ). In the coordinate σ/α this is the "ancestral" step of k-diffusion, and η = 0 is Euler's method on
the probability-flow ODE.
"""

from __future__ import annotations

import math
from abc import ABC
from typing import final

from ..config.choices import SamplingMethod
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import PlanBuilder, Prediction
from ..plans.linear_form import Form
from .base import BaseSampler
from .shared_options import ETA
from .steps import ancestral, posterior_std

__all__ = ["AncestralSampler", "DDIMSampler", "DDPMSampler", "EulerSampler", "FirstOrderSampler"]


class FirstOrderSampler(BaseSampler, ABC):
    """The formula above with η from the options; without such an option η is 0."""

    def direction(self, p: Prediction) -> Form:
        """ε of the step."""
        # for every sampler but DDIM the setting is refused, so it has its default
        return p.epsilon if self.config.use_clipped_model_output else p.raw_epsilon

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        eta = self.options.get("eta", 0.0)
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            down, n = ancestral(now, after, eta)
            x = down.alpha * p.sample + down.sigma * self.direction(p)
            build.advance(x + n * build.noise(i, now, after) if n else x)


@final
@SAMPLERS.register(SamplingMethod.DDIM)
class DDIMSampler(FirstOrderSampler):
    """Denoising diffusion implicit models (Song et al. 2021, arXiv 2010.02502, eq. 12).

    Options:
        eta: η ≥ 0, the amount of noise: 0 is deterministic (and equals Euler), 1 equals DDPM with
            ``variance_type="fixed_small"``. n is at most σ'; the factor of ε is then 0.

    With clipping on, ``use_clipped_model_output=False`` takes ε from the raw prediction.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline
        >>> [DiffusionPipeline(None, "ddim", eta=eta).plan(10).stochastic for eta in (0.0, 1.0)]
        [False, True]
    """

    declared_options = {"eta": ETA}
    reads = frozenset({"use_clipped_model_output"})


@final
@SAMPLERS.register(SamplingMethod.EULER)
class EulerSampler(FirstOrderSampler):
    """Euler's method on the probability-flow ODE dx̄/dσ̄ = ε, x̄ = x/α, σ̄ = σ/α (Karras et al. 2022,
    arXiv 2206.00364, eq. 4 and Algorithm 1 without the correction). Equals DDIM with η = 0.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline
        >>> print(DiffusionPipeline(None, "euler").plan(10).diff(DiffusionPipeline(None, "ddim").plan(10)))
        sampler: euler and ddim
        option eta: not set and 0.0
        both compute the same result from the same noise and model
    """


@final
@SAMPLERS.register(SamplingMethod.ANCESTRAL)
class AncestralSampler(FirstOrderSampler):
    """Euler ancestral sampling (Song et al. 2021, arXiv 2011.13456, App. F; k-diffusion's ``euler_ancestral``).

    Options:
        eta: η ≥ 0, the share of the posterior's noise that is added; 0 equals Euler. n is at most σ'; the factor of
            ε is then 0.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline
        >>> DiffusionPipeline(None, "ancestral", eta=0.5).plan(10).stochastic
        True
    """

    stochastic = True
    declared_options = {"eta": ETA.at(1.0)}


@final
@SAMPLERS.register(SamplingMethod.DDPM)
class DDPMSampler(BaseSampler):
    """Denoising diffusion probabilistic models (Ho et al. 2020, arXiv 2006.11239, Algorithm 2).

    The mean is the posterior's; ``variance_type`` chooses the variance. Where timesteps are skipped, β belongs to the
    whole interval: 1 − ᾱ/ᾱ'. The final sample gets no noise.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
        >>> DiffusionPipeline(NoiseSchedulerConfig(variance_type="fixed_large"), "ddpm").plan(50).nfe
        50
    """

    stochastic = True
    reads = frozenset({"variance_type"})

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        kind = self.config.variance_type
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            small = posterior_std(now, after)
            x = after.alpha * p.sample + math.sqrt(after.sigma**2 - small**2) * p.epsilon
            if after.sigma == 0.0:
                build.advance(x)
                continue
            # √β of the interval: the standard deviation of q(x|x'); β is 1 − (α/α')² on a variance-preserving path
            large = math.sqrt(now.sigma**2 - (now.alpha * after.sigma / after.alpha) ** 2)
            if kind == "learned_range":
                build.advance(x + build.learned_noise(i, (2 * math.log(small), 2 * math.log(large))))
            elif kind == "learned":  # the model's value, from −1 to 1, is the log-variance
                build.advance(x + build.learned_noise(i, (-1.0, 1.0)))
            else:
                std = small if kind.startswith("fixed_small") else large
                build.advance(x + std * build.noise(i, now, after))
