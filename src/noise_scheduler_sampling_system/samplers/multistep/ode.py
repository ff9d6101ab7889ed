"""Multistep samplers of the ODE: exponential Adams methods on x₀ or on ε."""

from __future__ import annotations

from typing import Any, final

from ...config.options import Option
from ...config.registries import SAMPLERS
from ...schedules.path import NoisePath
from ..shared_options import ETA, EXACT_OR_PUBLISHED, LOWER_ORDER_FINAL, MIDPOINT_OR_EXACT, NOISE_FACTOR, ORDER, START
from .base import MultistepSampler

__all__ = [
    "DEISSampler", "DPM2MSampler", "DPM3MSampler", "DPMpp2MSampler", "DPMpp3MSampler", "RESMultistepSampler",
    "UniPCSampler",
]  # fmt: skip

_SECOND_ORDER = {"order": ORDER, "solver_type": MIDPOINT_OR_EXACT, "lower_order_final": LOWER_ORDER_FINAL}
_THIRD_ORDER = {
    "order": ORDER.at(3),
    "solver_type": EXACT_OR_PUBLISHED,
    "start": START,
    "lower_order_final": LOWER_ORDER_FINAL,
}


@final
@SAMPLERS.register("dpmpp_2m")
class DPMpp2MSampler(MultistepSampler):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2); "midpoint" is as published."""

    order = 2
    declared_options = _SECOND_ORDER


@final
@SAMPLERS.register("dpmpp_3m")
class DPMpp3MSampler(MultistepSampler):
    """DPM-Solver++(3M) (Lu et al. 2022, arXiv 2211.01095, App. B) with the exact weights, which make it third order.

    The paper's code, and every code that follows it, halves the second-order term. That is
    ``solver_type="as_published"``, which is of second order only.
    """

    order = 3
    declared_options = _THIRD_ORDER


@final
@SAMPLERS.register("dpm_2m")
class DPM2MSampler(MultistepSampler):
    """Multistep DPM-Solver of order 2 on ε (Lu et al. 2022, arXiv 2206.00927, App. D)."""

    order, space = 2, "epsilon"
    declared_options = _SECOND_ORDER


@final
@SAMPLERS.register("dpm_3m")
class DPM3MSampler(MultistepSampler):
    """Multistep DPM-Solver of order 3 on ε; "as_published" halves the second-order term."""

    order, space = 3, "epsilon"
    declared_options = _THIRD_ORDER


@final
@SAMPLERS.register("res_multistep")
class RESMultistepSampler(MultistepSampler):
    """The refined exponential solver, multistep (Zhang et al. 2023, arXiv 2308.02157, §3.2): exact weights on x₀."""

    order = 2
    declared_options = {"order": ORDER, "eta": ETA, "s_noise": NOISE_FACTOR}


@final
@SAMPLERS.register("deis")
class DEISSampler(MultistepSampler):
    """DEIS (Zhang & Chen 2023, arXiv 2204.13902): ε a polynomial in t (tAB-DEIS) or in ρ = σ/α (ρAB).

    A polynomial in log ρ is what diffusers calls DEIS.

    Options:
        polynomial: the variable of the polynomial: t, ρ, or log ρ as in diffusers.
    """

    order, space = 3, "epsilon"
    declared_options = {
        "order": ORDER.at(3),
        "polynomial": Option("t", choices=("t", "rho", "log_rho")),
        "start": START,
        "lower_order_final": LOWER_ORDER_FINAL,
    }

    @property
    def variable(self) -> str:  # type: ignore[override]
        return {"t": "time", "rho": "sigma", "log_rho": "log_snr"}[self.options["polynomial"]]


@final
@SAMPLERS.register("unipc")
class UniPCSampler(MultistepSampler):
    """UniPC (Zhao et al. 2023, arXiv 2302.04867): multistep predictor of order p, and corrector of order p + 1.

    The functions B₁ and B₂ of the paper make no difference to exact weights. "bh1" and "bh2" are the published
    shortcuts for two predictions. ``predict_x0=False`` interpolates ε instead of x₀.

    Options:
        order: p, the number of predictions of the predictor.
        solver_type: exact weights, or a published shortcut.
        corrector: False leaves the corrector out.
        predict_x0: interpolate x₀; False interpolates ε.
    """

    order = 3
    declared_options = {
        "order": ORDER.at(3),
        "solver_type": Option("bh2", choices=("bh1", "bh2", "exact")),
        "corrector": Option(True),
        "lower_order_final": LOWER_ORDER_FINAL,
        "predict_x0": Option(True),
    }

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        limit = 2 if self.options["lower_order_final"] or not self.options["corrector"] else 3
        self.order = min(self.options["order"] + (1 if self.options["corrector"] else 0), limit)

    @property
    def space(self) -> str:  # type: ignore[override]
        return "sample" if self.options["predict_x0"] else "epsilon"
