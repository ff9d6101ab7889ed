"""Stochastic first-order steps as reinforcement learning of flow models uses them.

From (α, σ) to (α', σ'), with the predicted clean sample x₀ and noise ε, every step is

    x' = α'·x₀ + d·ε + n·ξ,

a Gaussian with mean α'·x₀ + d·ε and standard deviation n. The samplers differ in (d, n) alone. d² + n² = σ'² keeps the
noise level of the path: then the step is DDIM's with noise n. ``analysis.trajectory_log_probs`` gives the
log-probability of recorded steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

from ...config.options import Option
from ...config.registries import SAMPLERS
from ...grids.time_grid import TimeGrid
from ...plans.builder import PlanBuilder
from ...schedules.path import Level
from ...support.errors import ConfigurationError
from ..base import BaseSampler
from ..shared_options import ETA
from ..steps import first_order, is_noise, posterior_std, straight_distance

__all__ = ["CPSSampler", "DanceGRPOSampler", "FlowGRPOSampler", "PolicySampler", "PreciseSampler"]

#: The steps that add noise; all others are Euler's.
_WINDOW = {"window_start": Option(0, minimum=0), "window_size": Option(None, kind=int, minimum=1)}


class PolicySampler(BaseSampler, ABC):
    """Steps with noise inside a window of the run, and Euler's steps outside.

    Noise in a window alone: MixGRPO (Li et al. 2025, arXiv 2507.21802).
    """

    stochastic = True
    declared_options = {"eta": ETA.at(0.7), **_WINDOW}

    @abstractmethod
    def factors(self, now: Level, after: Level) -> tuple[float, float]:
        """d, the factor of the predicted ε, and n, that of the noise."""

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        noisy = self._window(grid.steps) if self.options["eta"] else ()
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            if i not in noisy:
                build.advance(first_order(p, after))
                continue
            posterior_std(now, after)  # refuses a step towards noise
            d, n = self.factors(now, after)
            x = after.alpha * p.sample + d * p.epsilon
            build.advance(x + n * build.noise(i, now, after) if n else x)

    def _window(self, steps: int) -> range:
        start, size = self.options["window_start"], self.options["window_size"]
        stop = steps if size is None else start + size
        if not start < stop <= steps:
            raise ConfigurationError(
                f"the steps {start} to {stop - 1} are not all among the {steps} steps of the run, 0 to {steps - 1}",
                where="window_start" if start >= steps else "window_size",
                suggestion="move the window into the run, or take more steps",
            )
        return range(start, stop)


class _EulerMaruyama(PolicySampler, ABC):
    """Euler-Maruyama steps of dy = (v + s²·ε/(2t)) dt + s dw on the straight path y = x/(α + σ), t = σ/(α + σ).

    On a flow path y is x. With Δ = t − t', n = s·√Δ and d = t' − s²Δ/(2t), times α' + σ' on other paths.
    d² + n² exceeds t'² by n²·Δ/t + n⁴/(4t²): the samples hold more noise than the network is told. DDIM's step with
    the same n has √(t'² − n²) for d. n is at most √(2tt'), where d is 0: longer steps would be unstable.
    """

    declared_options = {**PolicySampler.declared_options, "last_noise": Option(False)}

    @abstractmethod
    def diffusion(self, now: Level, after: Level) -> float:
        """s², the square of the diffusion coefficient on the straight path."""

    def factors(self, now: Level, after: Level) -> tuple[float, float]:
        if after.sigma == 0.0 and not self.options["last_noise"]:
            return 0.0, 0.0
        size, change = after.alpha + after.sigma, -straight_distance(now, after)
        t, end = now.sigma / (now.alpha + now.sigma), after.sigma / size
        square = self.diffusion(now, after) * change
        square = min(square, 2.0 * t * end) if end else square
        return size * (end - square / (2.0 * t)), size * math.sqrt(square)


@final
@SAMPLERS.register("flow_grpo")
class FlowGRPOSampler(_EulerMaruyama):
    """The SDE of Flow-GRPO, s = a·√(t/(1 − t)) (Liu et al. 2025, arXiv 2505.05470), by Euler-Maruyama steps.

    a = √2 is the reverse SDE of the flow path. ``precise`` with the same η solves the same SDE without excess noise.

    Options:
        eta: a of the paper, ``noise_level`` of its code; 0 is Euler.
        window_start, window_size: the steps that add noise, for MixGRPO and Flow-GRPO-Fast; None: all from the start of
            the window on. Other steps are Euler's.
        last_noise: whether the step to the clean sample adds noise, too, as published. The samples then hold it.

    From pure noise 1 − t is that of the step's end, as in the authors' code.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
        >>> plan = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="flow"), "flow_grpo", window_size=2).plan(10)
        >>> [f"{n:.2f}" for n in plan.c[:3, 0]]
        ['0.70', '0.66', '0.00']
    """

    def diffusion(self, now: Level, after: Level) -> float:
        of = after if is_noise(now) else now  # 1 − t of the level
        eta = float(self.options["eta"])
        return eta**2 * now.sigma / (now.alpha + now.sigma) * (of.alpha + of.sigma) / of.alpha


@final
@SAMPLERS.register("dance_grpo")
class DanceGRPOSampler(_EulerMaruyama):
    """The SDE of DanceGRPO with a constant s = η (Xue et al. 2025, arXiv 2505.07818), by Euler-Maruyama steps.

    Options:
        eta: η of the paper; 0 is Euler.
        window_start, window_size, last_noise: as for ``flow_grpo``.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
        >>> plan = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="flow"), "dance_grpo").plan(10)
        >>> [f"{n:.3f}" for n in plan.c[:3, 0]]  # 0.3·√(1/10)
        ['0.095', '0.095', '0.095']
    """

    declared_options = {**_EulerMaruyama.declared_options, "eta": ETA.at(0.3)}

    def diffusion(self, now: Level, after: Level) -> float:
        return float(self.options["eta"]) ** 2


@final
@SAMPLERS.register("cps")
class CPSSampler(PolicySampler):
    """Coefficients-preserving sampling (Wang & Yu 2025, arXiv 2509.05952): n = σ'·sin(ηπ/2), d = σ'·cos(ηπ/2).

    DDIM with noise that replaces the same share of ε in every step, however short. So η must fall like 1/√N for the
    result to converge as the number of steps N grows.

    Options:
        eta: from 0 (Euler) to 1 (all of ε is replaced, as in ``lcm``).
        window_start, window_size: as for ``flow_grpo``.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline
        >>> plan = DiffusionPipeline(None, "cps", eta=0.5).plan(5)
        >>> [f"{n / sigma:.4f}" for n, sigma in zip(plan.c[:4, 0], plan.sigma[1:])]  # sin(π/4)
        ['0.7071', '0.7071', '0.7071', '0.7071']
    """

    declared_options = {**PolicySampler.declared_options, "eta": Option(0.7, minimum=0.0, maximum=1.0)}

    def factors(self, now: Level, after: Level) -> tuple[float, float]:
        angle = self.options["eta"] * math.pi / 2.0
        return after.sigma * math.cos(angle), after.sigma * math.sin(angle)


@final
@SAMPLERS.register("precise")
class PreciseSampler(PolicySampler):
    """The SDE of ``flow_grpo``, solved exactly for a constant x₀ (Zou et al. 2026, arXiv 2605.23522).

    With r = (σ'/α')/(σ/α), n = σ'·√(1 − r^η²) and d = σ'·r^(η²/2). η = √2 draws from the posterior, as ``ancestral``
    does; any η is ``dpmpp_2m_sde`` of order 1 with η²/2.

    Options:
        eta: the amount of noise, as a of ``flow_grpo``; 0 is Euler.
        window_start, window_size: as for ``flow_grpo``.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline
        >>> exact = DiffusionPipeline(None, "precise", eta=2**0.5).plan(10)
        >>> bool(abs(exact.c - DiffusionPipeline(None, "ancestral").plan(10).c).max() < 1e-12)
        True
    """

    def factors(self, now: Level, after: Level) -> tuple[float, float]:
        power = self.options["eta"] ** 2
        if after.sigma == 0.0 or now.alpha == 0.0:
            return 0.0, after.sigma
        log_r = now.half_log_snr - after.half_log_snr
        return after.sigma * math.exp(power * log_r / 2.0), after.sigma * math.sqrt(-math.expm1(power * log_r))
