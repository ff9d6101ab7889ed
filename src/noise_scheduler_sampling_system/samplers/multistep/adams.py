"""Adams-Bashforth methods: the polynomial through the latest ε, or through the latest ε − x₀."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, final

from ...config.options import Option
from ...config.registries import SAMPLERS
from ...grids.time_grid import TimeGrid
from ...plans.builder import PlanBuilder
from ...plans.linear_form import Form
from ...schedules.path import Level, NoisePath
from ...support.errors import ConfigurationError
from ..base import BaseSampler
from ..integrals import Move, adams
from ..shared_options import EXACT_OR_PUBLISHED, ORDER, START
from ..steps import along, first_order, straight_distance
from .base import Known, MultistepSampler, extrapolates

__all__ = ["AdamsSampler", "GradientEstimationSampler", "IPNDMSampler", "IPNDMvSampler", "LMSSampler"]


@final
@SAMPLERS.register("lms")
class LMSSampler(MultistepSampler):
    """Linear multistep (k-diffusion's ``lms``): Adams-Bashforth on dx̄/dσ̄ = ε for steps of any size, in closed form."""

    order, space, variable = 3, "epsilon", "sigma"
    declared_options = {"order": ORDER.at(4), "start": START}


@final
@SAMPLERS.register("ipndm")
class IPNDMSampler(MultistepSampler):
    """Improved PNDM (Zhang & Chen 2023, arXiv 2204.13902, App. H.2): Adams-Bashforth weights of equal steps.

    Second order on grids whose steps change smoothly, first on others. On even σ/α it is of fourth order except for
    the start.
    """

    order, space, variable = 2, "epsilon", "sigma"
    declared_options = {"order": ORDER.at(4)}

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.order = min(self.options["order"], 2)

    def move(self, space: str, now: Level, after: Level, nodes: Sequence[Level]) -> Move:
        whole = super().move(space, now, after, nodes[:1])
        equal = adams([-float(k) for k in range(len(nodes))], 0.0, 1.0)
        return Move(whole.of_x, tuple(whole.weights[0] * w for w in equal), 0.0)


@final
@SAMPLERS.register("ipndm_v")
class IPNDMvSampler(MultistepSampler):
    """iPNDM for steps of any size (diff-sampler's ``ipndm_v``), with the right weights, which are those of ``lms``.

    The v is for variable step, not for v-prediction. ``solver_type="as_published"`` has the weights of that code. They
    are wrong at order 3. At order 4 they do not add up to one on uneven steps, which no plan allows.
    """

    order, space, variable = 3, "epsilon", "sigma"
    declared_options = {"order": ORDER.at(4), "solver_type": EXACT_OR_PUBLISHED, "start": START}

    def move(self, space: str, now: Level, after: Level, nodes: Sequence[Level]) -> Move:
        published = self.options["solver_type"] == "as_published"
        if published and self.options["order"] > 3:
            raise ConfigurationError(
                "the published weights of order 4 do not add up to one", where="order", suggestion="take order=3"
            )
        if len(nodes) < 3 or not published:
            return super().move(space, now, after, nodes)
        whole = super().move(space, now, after, nodes[:1])
        h, h1, h2 = (b - a for a, b in itertools.pairwise(level.noise_to_signal for level in (after, *nodes)))
        wrong = 0.5 * (1.0 - h * h / (3.0 * h1 * (h1 + h2)))
        weights = (1.0 + h / (2.0 * h1) + wrong, -h / (2.0 * h1) - (1.0 + h1 / h2) * wrong, wrong * h1 / h2)
        return Move(whole.of_x, tuple(whole.weights[0] * w for w in weights), 0.0)


@final
@SAMPLERS.register("adams")
class AdamsSampler(BaseSampler):
    """Adams-Bashforth on the ODE of the straight path, on any path: with w = α + σ, d(x/w)/d(σ/w) = ε − x₀.

    This is the Adams method of ε − x₀; those of ε are ``lms`` and ``ipndm``. The form is regular from pure noise to
    clean data, so the steps at both ends keep their order.

    Options:
        order: the number of predictions.
        start: as for :class:`MultistepSampler`.
    """

    order, space, guards, spacing = 3, "flow_prediction", True, "kl_optimal"
    declared_options = {"order": ORDER.at(3), "start": START}

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.order = min(self.options["order"], 3 if self.options["start"] == "corrected" else 2)

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        known: list[tuple[Level, Form]] = []  # newest first
        first = build.x
        for i, now, after in grid.intervals():
            slope = build.predict(now, i).of("flow_prediction")
            starts = [build.x / (now.alpha + now.sigma)]
            if i == 1 and self.order > 2:  # the trapezoidal rule replaces the first step, which was Euler's
                before, slope_before = known[0]
                starts.insert(0, first + straight_distance(before, now) / 2 * (slope_before + slope))
            first = starts[-1]
            known = [(now, slope), *known][: self.options["order"]]
            build.settle(after, (_straight(now, after, x, used) for x in starts for used in _usable(now, after, known)))


def _usable(now: Level, after: Level, known: Known) -> Iterator[Known]:
    """Yield the predictions that an Adams step may use: first the most, last the newest alone."""
    for k in range(len(known), 0, -1):
        if k == 1 or not extrapolates(_adams_weights(now, after, known[:k])):
            yield known[:k]


def _adams_weights(now: Level, after: Level, known: Known) -> list[float]:
    return adams([straight_distance(now, level) for level, _ in known], 0.0, straight_distance(now, after))


def _straight(now: Level, after: Level, start: Form, known: Known) -> Form:
    """The state after an Adams step in the coordinates of the straight path, from x/w = start."""
    state, step = start, straight_distance(now, after)
    for weight, (_, y) in zip(_adams_weights(now, after, known), known, strict=True):
        state = state + step * weight * y
    return (after.alpha + after.sigma) * state


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
                build.advance(first_order(p, after))
            else:
                epsilon = p.epsilon if past is None else gamma * p.epsilon + (1.0 - gamma) * past
                build.advance(along(build.x, epsilon, now, after))
                past = p.epsilon
