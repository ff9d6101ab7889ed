"""Samplers whose steps have an exact inverse: explicit two-step formulas in the states.

A step is x'' = A·x + f(x') with A ≠ 0, where x, x', x'' are the states at three consecutive levels, and the model is
evaluated at the middle one only. So x follows from x' and x'' by the same model call (analysis/inversion.py). A run
starts with one DDIM step.

A row of a plan has one state and predictions. Written so, these formulas read every earlier prediction, and a run of
the pipeline holds N of them. :class:`~.analysis.inversion.ReversibleRun` holds two states instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

from ..config.options import Option
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import PlanBuilder, Prediction
from ..plans.linear_form import Form
from ..schedules.path import Level, NoisePath
from .base import BaseSampler
from .steps import first_order

__all__ = ["BDIASampler", "BELMSampler"]

#: Shares of γ that the guard chooses from; a step with share 0 has no inverse.
_SHARES = (1.0, 1.0 / 16.0, 0.0)


class _TwoStepSampler(BaseSampler, ABC):
    space = "epsilon"

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        before: Prediction | None = None
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            first = [first_order(p, after)]
            build.settle(after, first if before is None else self._next(before.level, before.x, p, after))
            before = p

    @abstractmethod
    def _next(self, before: Level, x_before: Form, p: Prediction, after: Level) -> Sequence[Form]:
        """The next state from the last state and the current prediction: forms of falling order."""


@final
@SAMPLERS.register("bdia")
class BDIASampler(_TwoStepSampler):
    """Bi-directional integration approximation of DDIM (Zhang et al. 2023, arXiv 2307.10829).

    x'' = DDIM(x' → after) + γ·(x − DDIM(x' → before)). The term in γ corrects the error of the last step. Where step
    sizes change smoothly, the method is of second order for γ = 1, where the inverse is the same formula backwards, and
    of first order for γ < 1. The inverse divides by γ in every step, so that rounding grows as γ^−N: N = 50 needs γ
    above 0.9 in float32. (The authors' page also writes γ for what is 1 − γ here.)

    Where the correction would widen the data, the guard lowers γ of a step (:mod:`.spread`) to γ/16 or to 0. Such a
    step has no exact inverse, so :class:`~.analysis.inversion.ReversibleRun` keeps γ in every step, as
    ``guarded=False`` does.

    Options:
        gamma: γ in (0, 1]; 0 would be DDIM, which has no exact inverse.
    """

    guards = True
    declared_options = {"gamma": Option(1.0, above=0.0, maximum=1.0)}

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.order = 2 if self.options["gamma"] == 1.0 else 1

    def _next(self, before: Level, x_before: Form, p: Prediction, after: Level) -> Sequence[Form]:
        correction = float(self.options["gamma"]) * (x_before - first_order(p, before))
        return [first_order(p, after) + share * correction for share in _SHARES]


@final
@SAMPLERS.register("belm")
class BELMSampler(_TwoStepSampler):
    """The optimal bidirectional explicit linear multistep method, O-BELM (Wang et al. 2024, arXiv 2410.07273).

    In x̄ = x/α and σ̄ = σ/α, with h = σ̄'' − σ̄' and k = σ̄ − σ̄' (of opposite signs),

        x̄'' = (h/k)²·x̄ + (1 − (h/k)²)·x̄' + h·(1 − h/k)·ε(x'),

    the only such formula that is exact for solutions quadratic in σ̄: second order on any grid. From zero signal, where
    k is infinite, it is a DDIM step, which has no exact inverse.
    """

    order = 2

    def _next(self, before: Level, x_before: Form, p: Prediction, after: Level) -> Sequence[Form]:
        if before.alpha == 0.0:
            return [first_order(p, after)]  # the limit k → ∞
        here = p.level.noise_to_signal
        h, k = after.noise_to_signal - here, before.noise_to_signal - here
        weight = (h / k) ** 2
        mean = (weight / before.alpha) * x_before + ((1.0 - weight) / p.level.alpha) * p.x
        return [after.alpha * (mean + h * (1.0 - h / k) * p.epsilon)]
