"""CFG++: samplers that take x₀ from the guided prediction and ε from the unconditional one."""

from __future__ import annotations

from abc import ABC
from typing import final

from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import PlanBuilder, Prediction
from ..plans.linear_form import Form
from .base import BaseSampler
from .first_order import FirstOrderSampler
from .multistep.adams import GradientEstimationSampler
from .shared_options import ETA

__all__ = [
    "AncestralCFGppSampler",
    "CFGppSampler",
    "DPMpp2MCFGppSampler",
    "GradientEstimationSampler",  # lay here in version 1.3, whose pickles name it so
]


class _CFGpp(FirstOrderSampler, ABC):
    """First-order steps with the guided x₀ and the unconditional ε."""

    def direction(self, p: Prediction) -> Form:
        return p.null_epsilon


@final
@SAMPLERS.register("ddim_cfg_pp")
class CFGppSampler(_CFGpp):
    """DDIM with CFG++ (Chung et al. 2024, arXiv 2406.08070, Algorithm 2); Euler's step, too.

    The guidance scale is λ of the paper, from 0 to 1: x₀ belongs to u + λ·(c − u).

    Options:
        eta: η ≥ 0, the amount of noise: 0 is deterministic.
    """

    declared_options = {"eta": ETA}


@final
@SAMPLERS.register("euler_ancestral_cfg_pp")
class AncestralCFGppSampler(_CFGpp):
    """``ancestral`` with CFG++ (Chung et al. 2024, arXiv 2406.08070).

    Options:
        eta: η ≥ 0, the share of the posterior's noise that is added; 0 is deterministic.
    """

    stochastic = True
    declared_options = {"eta": ETA.at(1.0)}


@final
@SAMPLERS.register("dpmpp_2m_cfg_pp")
class DPMpp2MCFGppSampler(BaseSampler):
    """DPM-Solver++(2M) with CFG++ (Chung et al. 2024, arXiv 2406.08070, App. C): guided x₀, unconditional ε.

    Without guidance it is ``dpmpp_2m``.
    """

    order = 2
    guards, spacing = True, "beta57"

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        past: tuple[float, Form] | None = None
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            clean = p.sample
            if past is not None and after.sigma > 0.0 and now.alpha > 0.0:
                h = after.half_log_snr - now.half_log_snr
                extrapolated = p.sample + h / (2.0 * (now.half_log_snr - past[0])) * (p.sample - past[1])
                # the factor of a change of x₀ in the exact step
                fresh = after.alpha - after.sigma / now.sigma * now.alpha
                first = after.alpha * clean + after.sigma * p.null_epsilon
                build.settle(after, (first + fresh * (extrapolated - clean), first))
            else:
                build.advance(after.alpha * clean + after.sigma * p.null_epsilon)
            past = (now.half_log_snr, p.sample) if now.alpha > 0.0 else None
