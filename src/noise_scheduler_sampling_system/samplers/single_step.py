"""Single-step methods: several model calls in each interval, nothing remembered from the one before.

A step is a :class:`Scheme`: where the model is asked and how the states follow, as numbers. Every
method may be made ancestral (η > 0): it then steps to less noise than the next level has, and the
rest is added fresh (Song et al. 2021, arXiv 2011.13456, App. F; as in k-diffusion).
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from ..config.options import Option
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import Form, PlanBuilder, Prediction
from ..schedules.path import Level, NoisePath
from .base import BaseSampler
from .ranges import ETA
from .steps import ancestral, first_order, from_noise, straight_distance
from .tableaux import BUTCHER, EXPONENTIAL, ButcherTableau, ExponentialTableau

__all__ = [
    "DPM2AncestralSampler", "DPM2Sampler", "DPM3SSampler", "DPMFastSampler", "DPMpp2SAncestralSampler",
    "DPMpp2SSampler", "DPMpp3SSampler", "ExponentialRKSampler", "FlowHeunSampler", "RES2SSampler", "RES3SSampler",
    "RungeKuttaSampler", "Scheme", "SingleStepSampler", "exponential_scheme", "runge_kutta_scheme",
]  # fmt: skip


@dataclass(frozen=True)
class Scheme:
    """One step: state k = of_x[k]·x + Σ_j weights[k][j]·prediction j, k = 1, ..., the last being the result.

    Attributes:
        quantity: the prediction that is combined.
        levels: where the model is asked after the first call.
        of_x, weights: of the states at these levels and of the result.
    """

    quantity: str
    levels: tuple[Level, ...]
    of_x: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]


class SingleStepSampler(BaseSampler, ABC):
    """A scheme in every interval; one DDIM step where it is not defined: to the clean sample, from zero signal.

    Options:
        eta: η ≥ 0, how much of the posterior's noise is added back; 0 is the ODE.
    """

    guards = True
    declared_options = {"eta": ETA}
    #: Whether the scheme is defined from a level without signal.
    from_zero_signal: bool = False

    @abstractmethod
    def scheme(self, now: Level, after: Level) -> Scheme:
        """The step between two levels with signal and noise; ``after`` need not be on the path."""

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


def run_scheme(build: PlanBuilder, i: int, scheme: Scheme, p: Prediction) -> tuple[Form, list[Prediction]]:
    """Write the rows of a scheme whose first prediction is made.

    Returns:
        The state that the step ends with, and the predictions of all stages.
    """
    x, predictions = build.x, [p]
    for k, (of_x, weights) in enumerate(zip(scheme.of_x, scheme.weights, strict=True)):
        state = of_x * x
        for weight, prediction in zip(weights, predictions, strict=True):
            state = state + weight * prediction.of(scheme.quantity)
        if k < len(scheme.levels):
            build.advance(state)
            predictions.append(build.predict(scheme.levels[k], i))
    return state, predictions


def between(path: NoisePath, now: Level, after: Level, fraction: float) -> Level:
    """The level this far along an interval of log-SNR; at its end, the end itself, if the model knows it."""
    lam = now.half_log_snr + fraction * (after.half_log_snr - now.half_log_snr)
    return path.level_at(2.0 * lam)


def exponential_scheme(path: NoisePath, tableau: ExponentialTableau, space: str, now: Level, after: Level) -> Scheme:
    """A step of an exponential Runge-Kutta method over log-SNR.

    With λ for time, x/α has L = −1 and N = x₀, and x/σ has L = 1 and N = −ε.
    """
    h = after.half_log_snr - now.half_log_snr
    stages = [between(path, now, after, c) for c in tableau.c[1:]]
    of_x, rows = [], []
    for level, weights in zip([*stages, after], tableau.weights, strict=True):
        if space == "sample":
            factor, scale, total, z = level.sigma / now.sigma, level.alpha * h, 0.0, -h
            total = level.alpha - factor * now.alpha
        else:
            factor, scale, z = level.alpha / now.alpha, -level.sigma * h, h
            total = level.sigma - factor * now.sigma
        others = [scale * w for w in weights(z)]
        of_x.append(factor)
        rows.append((total - math.fsum(others), *others))
    return Scheme(space, tuple(stages), tuple(of_x), _padded(rows))


def _padded(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Each row with as many weights as there are predictions by then."""
    return tuple((*row, *[0.0] * (k + 1 - len(row))) for k, row in enumerate(rows))


def runge_kutta_scheme(path: NoisePath, tableau: ButcherTableau, frame: str, now: Level, after: Level) -> Scheme:
    """A step of a Runge-Kutta method in one of the forms of the ODE that have no linear term.

    "sigma": d(x/α)/d(σ/α) = ε. "flow": with w = α + σ, d(x/w)/d(σ/w) = ε − x₀. "log_snr": x₀ over
    λ = log α/σ after the flow of the first prediction, frozen, is taken off, d(z − z₁)/dλ =
    (α/σ)·(x₀ − x₀₁) for z = x/σ: so that constants are exact and the order is the tableau's.
    """
    if frame == "log_snr":
        h = after.half_log_snr - now.half_log_snr
        stages = [between(path, now, after, c) for c in tableau.c[1:]]
        ends, quantity = [*stages, after], "sample"
        ratios = [math.exp(level.half_log_snr) for level in [now, *stages]]
        of_x = [level.sigma / now.sigma for level in ends]
        rows = []
        for level, factor, row in zip(ends, of_x, [*tableau.a[1:], tableau.b], strict=True):
            others = [level.sigma * h * w * r for w, r in zip(row[1:], ratios[1:], strict=False)]
            rows.append((level.alpha - factor * now.alpha - math.fsum(others), *others))
        return Scheme(quantity, tuple(stages), tuple(of_x), tuple(rows))

    def scale(level: Level) -> float:
        """What x and σ are divided by in this form; σ then is the variable of integration."""
        return level.alpha if frame == "sigma" else level.alpha + level.sigma

    # α over the scale, too, is linear in that variable: near pure noise it says what σ, which is 1 there, cannot
    signal, noise = ((a / scale(now), b / scale(after)) for a, b in zip(now[1:], after[1:], strict=True))
    stages = []
    for c in tableau.c[1:]:
        alpha, sigma = (start + c * (end - start) for start, end in (signal, noise))
        stages.append(path.level_at(2.0 * math.log(alpha / sigma)))
    ends = [*stages, after]
    length = noise[1] - noise[0] if frame == "sigma" else straight_distance(now, after)
    return Scheme(
        "epsilon" if frame == "sigma" else "flow_prediction",
        tuple(stages),
        tuple(scale(level) / scale(now) for level in ends),
        tuple(
            tuple(scale(level) * length * w for w in row)
            for level, row in zip(ends, [*tableau.a[1:], tableau.b], strict=True)
        ),
    )


class _Exponential(SingleStepSampler, ABC):
    """A named exponential method."""

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

    On other paths the same, x scaled onto the straight one. Defined from zero signal, too.
    """

    order, calls_per_step, space, from_zero_signal = 2, 2, "flow_prediction", True

    def scheme(self, now: Level, after: Level) -> Scheme:
        return runge_kutta_scheme(self.scheduler, BUTCHER["heun2"], "flow", now, after)


@final
@SAMPLERS.register("dpm_fast")
class DPMFastSampler(BaseSampler):
    """DPM-Solver-fast (Lu et al. 2022, arXiv 2206.00927, §3.4): N model calls in steps of order 3, even in log-SNR.

    Of the grid only N and its ends count; the last step, to the clean sample, is one more call.
    """

    order, calls_per_step, space, guards = 2, 1, "epsilon", True

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        asked = [level for level in grid.levels if level.sigma > 0.0]
        if len(asked) > 1 and from_noise(*asked[:2]):  # log-SNR begins at the second level
            p = build.predict(asked[0], 0)
            asked = asked[1:]
            build.advance(first_order(p, asked[0]))
        first, last, calls = asked[0], asked[-1], len(asked) - 1
        ends_clean = grid.levels[-1].sigma == 0.0
        now, step = first, grid.steps - calls - ends_clean
        orders = self._orders(calls)
        for k, order in enumerate(orders, start=1):
            after = last if k == len(orders) else between(self.scheduler, first, last, k / len(orders))
            ways = [self._whole, self._split] if order > 1 else [self._split]
            build.attempt(after, [functools.partial(way, build, step, order, now, after) for way in ways])
            now, step = after, step + order
        if ends_clean:
            build.advance(build.predict(now, grid.steps - 1).sample)

    def _whole(self, build: PlanBuilder, step: int, order: int, now: Level, after: Level) -> list[Form]:
        """One step of this order."""
        p = build.predict(now, step)
        tableau = EXPONENTIAL["midpoint2" if order == 2 else "etd3"]
        scheme = exponential_scheme(self.scheduler, tableau, "epsilon", now, after)
        result, predictions = run_scheme(build, step, scheme, p)
        return [result, first_order(predictions[-1], after)]

    def _split(self, build: PlanBuilder, step: int, order: int, now: Level, after: Level) -> list[Form]:
        """As many steps of first order."""
        levels = [now, *(between(self.scheduler, now, after, k / order) for k in range(1, order))]
        for level, following in itertools.pairwise(levels):
            build.advance(first_order(build.predict(level, step), following))
        return [first_order(build.predict(levels[-1], step), after)]

    def _orders(self, calls: int) -> list[int]:
        """Of each step: 3, and what is left at the end."""
        orders = [3] * (calls // 3)
        if calls % 3:
            orders.append(calls % 3)
        elif orders:
            orders[-1:] = [2, 1]
        return orders
