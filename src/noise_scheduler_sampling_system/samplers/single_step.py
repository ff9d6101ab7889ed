"""Single-step samplers: several model calls in each interval; no step reads the predictions of another.

A new sampler is a tableau (tableaux.py) with a name: :class:`DPM2Sampler` is an example. A step is a
:class:`~.schemes.Scheme` of numbers: where the model is evaluated, and the weights. With η > 0 every method is
ancestral: it steps to less noise than the next level has, and adds the rest as fresh noise (Song et al. 2021, arXiv
2011.13456, App. F; as in k-diffusion).
"""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from typing import Any, final

from ..config.options import Option
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import PlanBuilder
from ..plans.linear_form import Form
from ..schedules.path import Level, NoisePath
from .base import BaseSampler
from .schemes import Scheme, between, exponential_scheme, run_scheme, runge_kutta_scheme
from .shared_options import ETA
from .steps import ancestral, first_order, from_noise
from .tableaux import BUTCHER, EXPONENTIAL, ButcherTableau, ExponentialTableau

__all__ = [
    "DPM2AncestralSampler", "DPM2Sampler", "DPM3SSampler", "DPMFastSampler", "DPMpp2SAncestralSampler",
    "DPMpp2SSampler", "DPMpp3SSampler", "ExponentialRKSampler", "FlowHeunSampler", "RES2SSampler", "RES3SSampler",
    "RungeKuttaSampler", "SingleStepSampler",
]  # fmt: skip


class SingleStepSampler(BaseSampler, ABC):
    """A scheme in every interval. A DDIM step replaces it to the clean sample and from zero signal.

    Options:
        eta: η ≥ 0, the share of the posterior's noise that is added; 0 is the ODE.
    """

    guards = True
    declared_options = {"eta": ETA}
    #: Whether the scheme is defined from a level without signal.
    from_zero_signal: bool = False

    @abstractmethod
    def scheme(self, now: Level, after: Level) -> Scheme:
        """The step between two levels that have signal and noise; ``after`` may be off the path."""

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        eta = self.options.get("eta", 0.0)
        for i, now, after in grid.intervals():
            down, noise = ancestral(now, after, eta)
            fresh = noise * build.noise(i, now, after) if noise else Form({})
            p = build.predict(now, i)
            if down.sigma == 0.0 or (from_noise(now, down) and not self.from_zero_signal):
                build.advance(first_order(p, down) + fresh)
            else:
                result, predictions = run_scheme(build, i, self.scheme(now, down), p)
                rungs = (result, first_order(predictions[-1], down), first_order(p, down))
                build.settle(after, (rung + fresh for rung in rungs))


class _Exponential(SingleStepSampler, ABC):
    """A named exponential tableau over log-SNR."""

    tableau: ExponentialTableau

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.order, self.calls_per_step = self.tableau.order, len(self.tableau.c)

    def scheme(self, now: Level, after: Level) -> Scheme:
        return exponential_scheme(self.scheduler, self.tableau, self.space, now, after)


@final
@SAMPLERS.register("dpm2")
class DPM2Sampler(_Exponential):
    """DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927, Algorithm 1), which is k-diffusion's ``dpm_2``: midpoint on ε."""

    order, calls_per_step, space, tableau = 2, 2, "epsilon", EXPONENTIAL["midpoint2"]


@final
@SAMPLERS.register("dpm2_ancestral")
class DPM2AncestralSampler(_Exponential):
    """``dpm2`` with fresh noise (k-diffusion's ``dpm_2_ancestral``)."""

    order, calls_per_step, space, tableau = 2, 2, "epsilon", EXPONENTIAL["midpoint2"]
    stochastic = True
    declared_options = {"eta": ETA.at(1.0)}


@final
@SAMPLERS.register("dpm_3s")
class DPM3SSampler(_Exponential):
    """DPM-Solver-3, singlestep (Lu et al. 2022, arXiv 2206.00927, Algorithm 2)."""

    order, calls_per_step, space, tableau = 3, 3, "epsilon", EXPONENTIAL["etd3"]


@final
@SAMPLERS.register("dpmpp_2s")
class DPMpp2SSampler(_Exponential):
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095, Algorithm 1): midpoint on x₀."""

    order, calls_per_step, tableau = 2, 2, EXPONENTIAL["midpoint2"]


@final
@SAMPLERS.register("dpmpp_2s_ancestral")
class DPMpp2SAncestralSampler(_Exponential):
    """``dpmpp_2s`` with fresh noise (k-diffusion's ``dpmpp_2s_ancestral``)."""

    order, calls_per_step, tableau = 2, 2, EXPONENTIAL["midpoint2"]
    stochastic = True
    declared_options = {"eta": ETA.at(1.0)}


@final
@SAMPLERS.register("dpmpp_3s")
class DPMpp3SSampler(_Exponential):
    """DPM-Solver++(3S): the third-order singlestep method on x₀ (Lu et al. 2022, arXiv 2211.01095)."""

    order, calls_per_step, tableau = 3, 3, EXPONENTIAL["etd3"]


@final
@SAMPLERS.register("res_2s")
class RES2SSampler(_Exponential):
    """The refined exponential solver of order 2 (Zhang et al. 2023, arXiv 2308.02157, Algorithm 1)."""

    order, calls_per_step, tableau = 2, 2, EXPONENTIAL["etd2"]


@final
@SAMPLERS.register("res_3s")
class RES3SSampler(_Exponential):
    """The refined exponential solver of order 3 (after Hochbruck & Ostermann 2005, eq. 5.9, with c₂ = ½)."""

    order, calls_per_step, tableau = 3, 3, EXPONENTIAL["etd3_half"]


@final
@SAMPLERS.register("exponential_rk")
class ExponentialRKSampler(_Exponential):
    """Any named exponential Runge-Kutta method of order 2 to 4 (Hochbruck & Ostermann 2010, Acta Numerica 19).

    Options:
        tableau: its name.
        predict: whether x₀ ("sample") or ε ("epsilon") is the nonlinear term.
    """

    order, calls_per_step = 4, 4
    declared_options = {
        "tableau": Option("krogstad4", choices=tuple(EXPONENTIAL)),
        "predict": Option("sample", choices=("sample", "epsilon")),
        "eta": ETA,
    }

    @property
    def tableau(self) -> ExponentialTableau:  # type: ignore[override]
        return EXPONENTIAL[self.options["tableau"]]

    @property
    def space(self) -> str:  # type: ignore[override]
        return str(self.options["predict"])


@final
@SAMPLERS.register("runge_kutta")
class RungeKuttaSampler(SingleStepSampler):
    """Any explicit Runge-Kutta method, in a form of the ODE that keeps its order (:func:`runge_kutta_scheme`).

    Options:
        tableau: a name, or {"a": [[], [a21], ...], "b": [...]}.
        frame: "log_snr", "sigma" or "flow".
    """

    order, calls_per_step = 4, 4
    declared_options = {
        "tableau": Option("rk4", kind=object, check=ButcherTableau.of),
        "frame": Option("log_snr", choices=("log_snr", "sigma", "flow")),
        "eta": ETA,
    }

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self._tableau = ButcherTableau.of(self.options["tableau"])
        if not isinstance(self.options["tableau"], str):  # plans are written to files
            self.options = {**self.options, "tableau": self._tableau.data}
        self.order, self.calls_per_step = self._tableau.order, len(self._tableau.b)
        self.from_zero_signal = self.options["frame"] == "flow"

    @property
    def space(self) -> str:  # type: ignore[override]
        return {"log_snr": "sample", "sigma": "epsilon", "flow": "flow_prediction"}[self.options["frame"]]

    def scheme(self, now: Level, after: Level) -> Scheme:
        return runge_kutta_scheme(self.scheduler, self._tableau, self.options["frame"], now, after)


@final
@SAMPLERS.register("flow_heun")
class FlowHeunSampler(SingleStepSampler):
    """Heun's method on dx/dσ = ε − x₀ along the straight path (diffusers' ``FlowMatchHeunDiscreteScheduler``).

    On another path x is scaled onto the straight one. The method is defined from zero signal, too.
    """

    order, calls_per_step, space, from_zero_signal = 2, 2, "flow_prediction", True

    def scheme(self, now: Level, after: Level) -> Scheme:
        return runge_kutta_scheme(self.scheduler, BUTCHER["heun2"], "flow", now, after)


@final
@SAMPLERS.register("dpm_fast")
class DPMFastSampler(BaseSampler):
    """DPM-Solver-fast (Lu et al. 2022, arXiv 2206.00927, §3.4): N model calls in steps of order 3, even in log-SNR.

    It uses N and the ends of the grid, and no level between them. The step to the clean sample takes one more call.
    """

    order, calls_per_step, space, guards = 2, 1, "epsilon", True

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        noisy = [level for level in grid.levels if level.sigma > 0.0]
        if len(noisy) > 1 and from_noise(*noisy[:2]):  # log-SNR is finite, or moderate, from the second level on
            p = build.predict(noisy[0], 0)
            noisy = noisy[1:]
            build.advance(first_order(p, noisy[0]))
        first, last, calls = noisy[0], noisy[-1], len(noisy) - 1
        ends_clean = grid.levels[-1].sigma == 0.0
        now, step = first, grid.steps - calls - ends_clean
        orders = _orders(calls)
        for k, order in enumerate(orders, start=1):
            after = last if k == len(orders) else between(self.scheduler, first, last, k / len(orders))
            ways = [self._whole, self._split] if order > 1 else [self._split]
            build.attempt(after, [functools.partial(way, build, step, order, now, after) for way in ways])
            now, step = after, step + order
        if ends_clean:
            build.advance(build.predict(now, grid.steps - 1).sample)

    def _whole(self, build: PlanBuilder, step: int, order: int, now: Level, after: Level) -> list[Form]:
        """Write one step of this order."""
        p = build.predict(now, step)
        tableau = EXPONENTIAL["midpoint2" if order == 2 else "etd3"]
        scheme = exponential_scheme(self.scheduler, tableau, "epsilon", now, after)
        result, predictions = run_scheme(build, step, scheme, p)
        return [result, first_order(predictions[-1], after)]

    def _split(self, build: PlanBuilder, step: int, order: int, now: Level, after: Level) -> list[Form]:
        """Write first-order steps with the same number of model calls."""
        levels = [now, *(between(self.scheduler, now, after, k / order) for k in range(1, order))]
        for level, following in itertools.pairwise(levels):
            build.advance(first_order(build.predict(level, step), following))
        return [first_order(build.predict(levels[-1], step), after)]


def _orders(calls: int) -> list[int]:
    """The orders of the steps, which add up to the number of calls: 3, and at the end 1, 2, or 2 and 1."""
    orders = [3] * (calls // 3)
    if calls % 3:
        orders.append(calls % 3)
    elif orders:
        orders[-1:] = [2, 1]
    return orders
