"""Multistep samplers that add noise: each solves an SDE whose states have the distributions of the path."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from ...config.options import Option
from ...config.registries import SAMPLERS
from ...schedules.path import Level, NoisePath
from ..integrals import Kernel, power
from ..shared_options import ETA, EXACT_OR_PUBLISHED, LOWER_ORDER_FINAL, MIDPOINT_OR_EXACT, NOISE_FACTOR, ORDER, START
from .base import MultistepSampler

__all__ = ["DPMpp2MSDESampler", "DPMpp3MSDESampler", "ERSDESampler", "SASolverSampler"]


@final
@SAMPLERS.register("dpmpp_2m_sde")
class DPMpp2MSDESampler(MultistepSampler):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, §5.3; η as in k-diffusion). η = 0 is ``dpmpp_2m``."""

    order, stochastic = 2, True
    declared_options = {
        "order": ORDER,
        "solver_type": MIDPOINT_OR_EXACT,
        "eta": ETA.at(1.0),
        "s_noise": NOISE_FACTOR,
        "lower_order_final": LOWER_ORDER_FINAL,
    }


@final
@SAMPLERS.register("dpmpp_3m_sde")
class DPMpp3MSDESampler(MultistepSampler):
    """SDE-DPM-Solver++(3M) of k-diffusion with the exact weights; "as_published" halves the second-order term."""

    order, stochastic = 3, True
    declared_options = {
        "order": ORDER.at(3),
        "solver_type": EXACT_OR_PUBLISHED,
        "start": START,
        "eta": ETA.at(1.0),
        "s_noise": NOISE_FACTOR,
        "lower_order_final": LOWER_ORDER_FINAL,
    }


@final
@SAMPLERS.register("sa_solver")
class SASolverSampler(MultistepSampler):
    """SA-Solver (Xue et al. 2023, arXiv 2309.05019): stochastic Adams, predictor and corrector.

    Options:
        order, corrector_order: of the predictor and of the corrector, whose new prediction counts.
        tau: τ, the amount of noise: η = τ² between ``tau_start`` and ``tau_end``, 0 elsewhere.
        tau_start, tau_end: where noise is added, as fractions of the schedule's time, from noisier to cleaner.
        solver_type: "bh1" is the published shortcut for two predictions.
        evaluate_again: also evaluate the model at the corrected state (PECE): two calls a step.
    """

    order, stochastic = 2, True
    declared_options = {
        "order": ORDER,
        "corrector": Option(True),
        "corrector_order": ORDER,
        "tau": Option(1.0, minimum=0.0, maximum=10.0),
        "tau_start": Option(1.0, minimum=0.0, maximum=1.0),
        "tau_end": Option(0.0, minimum=0.0, maximum=1.0),
        "solver_type": Option("exact", choices=("exact", "bh1")),
        "s_noise": NOISE_FACTOR,
        "lower_order_final": Option(True),
        "evaluate_again": Option(False),
    }

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.calls_per_step = 2 if self.options["evaluate_again"] else 1

    @property
    def first_order_eta(self) -> float:
        return min(1.0, float(self.options["tau"]) ** 2)

    def kernel(self, now: Level) -> Kernel:
        inside = self.options["tau_end"] <= self.scheduler.fraction_at(now.t) <= self.options["tau_start"]
        return power(self.options["tau"] ** 2 if inside else 0.0)


@final
@SAMPLERS.register("er_sde")
class ERSDESampler(MultistepSampler):
    """Extended reverse-time SDE solvers (Cui et al. 2023, arXiv 2309.06169), order 1 to 3, x₀ a polynomial in σ/α.

    Options:
        noise: the noise scale φ(s): "er" is s·(e^(s^0.3) + 10), the paper's choice; "sde" is s²,
            the reverse SDE; "ode" is s.
    """

    order, stochastic, variable = 3, True, "sigma"
    declared_options = {
        "order": ORDER.at(3),
        "noise": Option("er", choices=("er", "sde", "ode")),
        "s_noise": NOISE_FACTOR,
    }

    @property
    def first_order_eta(self) -> float:
        return 0.0 if self.options["noise"] == "ode" else 1.0

    def kernel(self, now: Level) -> Kernel:
        if self.options["noise"] != "er":
            return power(1.0 if self.options["noise"] == "sde" else 0.0)

        def exponential(lam: Any) -> Any:
            """e^(s^0.3), at most e^700, which float64 can hold."""
            return np.exp(np.minimum(np.exp(-0.3 * lam), 700.0))

        return Kernel(
            log=lambda lam: -lam + np.log(exponential(lam) + 10.0),
            slope=lambda lam: -1.0 - 0.3 * np.exp(-0.3 * lam) / (1.0 + 10.0 / exponential(lam)),
        )
