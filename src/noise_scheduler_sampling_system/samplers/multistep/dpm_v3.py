"""DPM-Solver-v3: a multistep method whose parametrisation follows from measured statistics of the model."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import numpy as np

from ...config.options import Option
from ...config.registries import SAMPLERS
from ...grids.time_grid import TimeGrid
from ...plans.builder import PlanBuilder, Prediction
from ...plans.linear_form import Form
from ...schedules.path import Level, NoisePath
from ..base import BaseSampler
from ..integrals import gauss, lagrange
from ..model_statistics import ModelStatistics
from ..shared_options import ORDER

__all__ = ["DPMv3Sampler"]

#: Where f grows or decays by more than e^7.5 (1,800) in a step, its end tells nothing of its start: no correction.
_FADED = 7.5


@final
@SAMPLERS.register("dpm_v3")
class DPMv3Sampler(BaseSampler):
    """DPM-Solver-v3 (Zheng et al. 2023, arXiv 2310.13268, Algorithms 1 and 2), with scalar statistics.

    With λ for time and f = (1 − l)·(σ/α)·ε − l·x₀ (:mod:`~.samplers.model_statistics`), a step keeps the newest
    prediction constant and adds what the other predictions tell of the change of f,

        x' = α'·x₀ + σ'·ε − α'·Σ_k w_k·(f_k − f̄_k),    w_k = e^(−L')·∫ e^(L+S)·ℓ_k dλ·e^(−S_k).

    f̄_k is f of the constant x₀ and ε at the level of prediction k. ℓ_k are the Lagrange polynomials in λ. L and S are
    the integrals of l and s from the step's start. Where the state was corrected, x₀ and ε belong to the corrected
    state and the predicted f.

    The published step takes the constant part from the statistics, too: x'/α' = e^(−L')·x/α − Σ_k w_k·f_k. The
    difference is of the order of the step's error. But the published step is not exact for constant data or constant
    noise, as a plan has to be, and this one is. With one prediction it is DDIM's step for all statistics.

    Options:
        statistics: :class:`~.samplers.model_statistics.ModelStatistics`, or the path of their file. None is l = 1 and
            s = 0: then this is ``unipc`` with exact weights or, without the corrector, ``dpmpp_3m``.
        order: the number of predictions.
        corrector: each new prediction corrects the step that led to it, without another call.
    """

    order = 3
    guards, spacing = True, "beta57"
    declared_options = {
        "statistics": Option(None, kind=ModelStatistics | str | os.PathLike),
        "order": ORDER.at(3),
        "corrector": Option(True),
    }

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        given = self.options["statistics"]
        self.statistics = ModelStatistics.of(given)
        if given is not None:  # plans are written to files
            name = os.fspath(given) if isinstance(given, str | os.PathLike) else self.statistics.fingerprint
            self.options = {**self.options, "statistics": name}
        self.order = min(self.options["order"] + (1 if self.options["corrector"] else 0), 3)

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        known: list[Prediction] = []  # newest first
        corrected: Callable[[Prediction], Form] | None = None
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            starts = [(p.sample, p.epsilon)]
            if corrected is not None:
                state = build.shortened(corrected(p))
                of_x = float(self.statistics.linear(now.half_log_snr))
                clean = p.sample + (1.0 - of_x) / now.alpha * (state - p.x)  # the same f at the corrected state
                starts.insert(0, (clean, (state - now.alpha * clean) / now.sigma))
            if now.alpha == 0.0 or after.sigma == 0.0:  # λ is not finite
                build.settle(after, (after.alpha * clean + after.sigma * epsilon for clean, epsilon in starts))
                known, corrected = [], None
                continue
            known = [p, *known][: self.options["order"]]
            growth = self.statistics.growth.integral
            fades = abs(growth(after.half_log_snr) - growth(now.half_log_snr)) > _FADED
            corrects = not fades and (self.options["corrector"] or (i == 0 and self.order > 2))
            corrected = functools.partial(self._moved, after, *starts[0], known) if corrects else None
            build.settle(after, self._rungs(after, starts, known))

    def _rungs(self, after: Level, starts: Sequence[tuple[Form, Form]], known: Sequence[Prediction]) -> Iterator[Form]:
        """Yield the step with all predictions and with fewer: from the corrected state, then from the plain one."""
        for clean, epsilon in starts:
            for k in range(len(known), 0, -1):
                yield self._moved(after, clean, epsilon, known[:k])

    def _moved(
        self, after: Level, clean: Form, epsilon: Form, known: Sequence[Prediction], at_end: Prediction | None = None
    ) -> Form:
        """The step with constant x₀ and ε, and the change that the other predictions tell.

        Args:
            known: predictions, newest first.
            at_end: the prediction at the step's end, which corrects the step.
        """
        linear, growth = self.statistics.linear, self.statistics.growth
        used = known if at_end is None else [*known, at_end]
        stop, places = after.half_log_snr, np.array([p.level.half_log_snr for p in used])
        points, measure = gauss(float(places[0]), stop)
        kernel = measure * np.exp(linear.integral(points) - linear.integral(stop) + growth.integral(points))
        weights = lagrange(places, points) @ kernel * np.exp(-growth.integral(places))
        state = after.alpha * clean + after.sigma * epsilon
        for p, of_x, weight in zip(used[1:], linear(places[1:]).tolist(), weights[1:].tolist(), strict=True):
            change = (1.0 - of_x) * p.level.noise_to_signal * (p.epsilon - epsilon) - of_x * (p.sample - clean)
            state = state - after.alpha * weight * change
        return state
