"""Samplers that renoise with the unconditional branch (CFG++), and one that extrapolates the direction."""

from __future__ import annotations

from abc import ABC
from typing import final

from ..config.options import Option
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import Form, PlanBuilder, Prediction
from .base import BaseSampler
from .first_order import FirstOrderSampler
from .ranges import ETA
from .steps import along

__all__ = ["AncestralCFGppSampler", "CFGppSampler", "DPMpp2MCFGppSampler", "GradientEstimationSampler"]


class _CFGpp(FirstOrderSampler, ABC):
    """A first-order step with the guided x₀ and the unconditional ε."""

    def direction(self, p: Prediction) -> Form:
        return p.null_epsilon


@final
@SAMPLERS.register("ddim_cfg_pp")
class CFGppSampler(_CFGpp):
    """DDIM with CFG++ (Chung et al. 2024, arXiv 2406.08070, Algorithm 2); Euler's step, too.

    The guidance scale is λ of the paper, from 0 to 1: x₀ is that of u + λ·(c − u).
    """

    declared_options = {"eta": ETA}


@final
@SAMPLERS.register("euler_ancestral_cfg_pp")
class AncestralCFGppSampler(_CFGpp):
    """``ancestral`` with CFG++ (Chung et al. 2024, arXiv 2406.08070)."""

    stochastic = True
    declared_options = {"eta": ETA.at(1.0)}


@final
@SAMPLERS.register("dpmpp_2m_cfg_pp")
class DPMpp2MCFGppSampler(BaseSampler):
    """DPM-Solver++(2M) with CFG++ (Chung et al. 2024, arXiv 2406.08070, App. C): guided x₀, unconditional ε.

    Without guidance it is ``dpmpp_2m``.
    """

    order = 2
    guards, spacing = True, "kl_optimal"

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        past: tuple[float, Form] | None = None
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            clean = p.sample
            if past is not None and after.sigma > 0.0 and now.alpha > 0.0:
                h = after.half_log_snr - now.half_log_snr
                extrapolated = p.sample + h / (2.0 * (now.half_log_snr - past[0])) * (p.sample - past[1])
                # the share of the step's new data that comes from x₀'s change
                fresh = after.alpha - after.sigma / now.sigma * now.alpha
                first = after.alpha * clean + after.sigma * p.null_epsilon
                build.settle(after, (first + fresh * (extrapolated - clean), first))
            else:
                build.advance(after.alpha * clean + after.sigma * p.null_epsilon)
            past = (now.half_log_snr, p.sample) if now.alpha > 0.0 else None


@final
@SAMPLERS.register("gradient_estimation")
class GradientEstimationSampler(BaseSampler):
    """DDIM along γ·ε + (1 − γ)·ε of the step before (Permenter & Yuan 2023, arXiv 2306.04848, Algorithm 2).

    Options:
        gamma: γ; 1 is DDIM, 2 the paper's choice, 3/2 Adams-Bashforth of order 2 for equal steps.
    """

    space, spacing = "epsilon", "kl_optimal"
    declared_options = {"gamma": Option(2.0, minimum=0.0, maximum=10.0)}

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        gamma, past = self.options["gamma"], None
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            if now.alpha == 0.0 or after.sigma == 0.0:
                build.advance(after.alpha * p.sample + after.sigma * p.epsilon)
            else:
                epsilon = p.epsilon if past is None else gamma * p.epsilon + (1.0 - gamma) * past
                build.advance(along(build.x, epsilon, now, after))
                past = p.epsilon
