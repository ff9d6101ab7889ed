"""Samplers that add noise to a state between steps: churn, restarts and Langevin steps."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, final

from ...config.options import Option
from ...config.registries import SAMPLERS
from ...grids.time_grid import TimeGrid
from ...plans.builder import PlanBuilder
from ...plans.linear_form import Form
from ...schedules.path import Level, NoisePath
from ...support.errors import ConfigurationError
from ..base import BaseSampler
from ..schemes import between
from ..shared_options import ETA, NOISE_FACTOR
from ..steps import along, ancestral, first_order, from_noise, renoised

__all__ = ["EDMSampler", "PredictorCorrectorSampler", "RestartSampler"]


@final
@SAMPLERS.register("edm")
class EDMSampler(BaseSampler):
    """The stochastic sampler of EDM (Karras et al. 2022, arXiv 2206.00364, Algorithm 2): churn, then a Heun step.

    Churn adds noise before a step until the level is (1 + γ)·σ/α, γ = min(s_churn/N, √2 − 1), or the schedule's
    noisiest.

    Options:
        s_churn: the sum of γ over all steps; 0 is ``heun``.
        s_tmin, s_tmax: churn where σ/α is between these.
        s_noise: a factor of the added noise.
        corrector: False leaves the second half of the Heun step out (k-diffusion's ``euler`` with churn).
    """

    order, calls_per_step, space, stochastic, guards = 2, 2, "epsilon", True, True
    declared_options = {
        "s_churn": Option(40.0, minimum=0.0),
        "s_tmin": Option(0.0, minimum=0.0),
        "s_tmax": Option(1e9, minimum=0.0),
        "s_noise": NOISE_FACTOR,
        "corrector": Option(True),
    }

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.order = self.calls_per_step = 2 if self.options["corrector"] else 1

    @property
    def first_order_eta(self) -> float:
        return 1.0 if self.options["s_churn"] else 0.0

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        for i, now, after in grid.intervals():
            gamma = self._gamma(grid, now)
            shares = (1.0, 0.5, 0.0) if gamma else (0.0,)
            ways = [functools.partial(self._churned, build, i, now, after, share * gamma) for share in shares]
            if gamma:
                ways.append(functools.partial(_ancestral_step, build, i, now, after))
            build.attempt(after, ways)

    def _gamma(self, grid: TimeGrid, now: Level) -> float:
        o = self.options
        inside = o["s_tmin"] <= now.noise_to_signal <= o["s_tmax"]
        return min(o["s_churn"] / grid.steps, math.sqrt(2.0) - 1.0) if inside else 0.0

    def _churned(self, build: PlanBuilder, i: int, now: Level, after: Level, gamma: float) -> list[Form]:
        """Add noise up to (1 + γ)·σ/α; return Heun's step from there, then Euler's."""
        most = self.scheduler.level(self.scheduler.t_max).noise_to_signal
        churned = min(now.noise_to_signal * (1.0 + gamma), most)
        if now.noise_to_signal < churned < math.inf and not from_noise(now, after):
            start = self.scheduler.level_at(-2.0 * math.log(churned))
            build.advance(renoised(build.x, build.noise(i), now, start, self.options["s_noise"]))
            now = start
        return _heun(build, i, now, after, corrector=self.options["corrector"])


def _heun(build: PlanBuilder, i: int, now: Level, after: Level, corrector: bool = True) -> list[Form]:
    """Heun's step, where it is defined, then Euler's."""
    first = build.predict(now, i)
    x, euler = build.x, first_order(first, after)
    if not corrector or after.sigma == 0.0 or from_noise(now, after):
        return [euler]
    build.advance(euler)
    second = build.predict(after, i)
    return [along(x, (first.epsilon + second.epsilon) / 2, now, after), euler]


def _ancestral_step(build: PlanBuilder, i: int, now: Level, after: Level, eta: float = 1.0) -> list[Form]:
    p, (down, n) = build.predict(now, i), ancestral(now, after, eta)
    state = first_order(p, down)
    return [state + n * build.noise(i, now, after) if n else state]


@final
@SAMPLERS.register("restart")
class RestartSampler(BaseSampler):
    """Restart sampling (Xu et al. 2023, arXiv 2306.14878, Algorithm 1): Heun steps that go back up and come down again.

    Options:
        restarts: K, the number of times that the interval is repeated.
        t_min, t_max: the interval, in σ/α; it is moved to the nearest levels of the grid.
        restart_steps: the number of Heun steps down the interval.
        s_noise: a factor of the added noise.
    """

    order, calls_per_step, space, stochastic, guards = 2, 2, "epsilon", True, True
    declared_options = {
        "restarts": Option(1, minimum=1, maximum=100),
        "t_min": Option(0.3, above=0.0),
        "t_max": Option(2.0, above=0.0),
        "restart_steps": Option(4, minimum=1, maximum=100),
        "s_noise": NOISE_FACTOR,
    }

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        step = 0
        for now, after in self._intervals(grid):
            if after.noise_to_signal > now.noise_to_signal:
                build.advance(renoised(build.x, build.noise(step), now, after, self.options["s_noise"]))
                continue
            ways = (_heun, _ancestral_step)
            build.attempt(after, [functools.partial(way, build, step, now, after) for way in ways])
            step += 1

    def calls_of(self, steps: int) -> int:
        return super().calls_of(steps + self.options["restarts"] * self.options["restart_steps"])

    def _intervals(self, grid: TimeGrid) -> list[tuple[Level, Level]]:
        """The intervals of the grid; those of the restarts follow the one that ends at the lower level."""
        o = self.options
        inner = [level for level in grid.levels if level.sigma > 0.0 and level.alpha > 0.0]
        valid = 0.0 < o["t_min"] < o["t_max"] and len(inner) > 1
        low, high = (
            min(inner, key=lambda v: abs(math.log(v.noise_to_signal / at))) if valid else grid.levels[0]
            for at in (o["t_min"], o["t_max"])
        )
        if low is high:
            raise ConfigurationError(
                f"the grid of {grid.steps} steps has no interval between σ/α = {o['t_min']:g} and {o['t_max']:g}",
                where="t_min",
                suggestion="take more steps, or a wider interval",
            )
        fractions = [k / o["restart_steps"] for k in range(1, o["restart_steps"])]
        down = [high, *(between(self.scheduler, high, low, c) for c in fractions), low]
        result: list[tuple[Level, Level]] = []
        for _, now, after in grid.intervals():
            result.append((now, after))
            if after is low:
                for _ in range(o["restarts"]):
                    result += [(low, high), *itertools.pairwise(down)]
        return result


@final
@SAMPLERS.register("predictor_corrector")
class PredictorCorrectorSampler(BaseSampler):
    """Ancestral steps, each followed by Langevin steps at its level (Song et al. 2021, arXiv 2011.13456, App. G).

    A Langevin step is x ← x − δσ·ε + √(2δ)·σ·ξ with δ = 2·snr². The paper's step size is 2(snr·‖ξ‖/‖score‖)². Here
    ‖ξ‖/‖score‖ is replaced by σ, its value for average norms of ε and ξ, so that the step is linear.

    Options:
        corrector_steps: the number of Langevin steps at a level.
        snr: r of the paper.
        eta: of the ancestral predictor; 0 is Euler.
    """

    order, calls_per_step, stochastic = 1, 2, True
    declared_options = {
        "corrector_steps": Option(1, minimum=1, maximum=100),
        "snr": Option(0.16, minimum=0.0, maximum=10.0),
        "eta": ETA.at(1.0),
    }

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.calls_per_step = 1 + self.options["corrector_steps"]

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        delta = 2.0 * self.options["snr"] ** 2
        for i, now, after in grid.intervals():
            build.advance(_ancestral_step(build, i, now, after, self.options["eta"])[0])
            for _ in range(self.options["corrector_steps"] if after.sigma > 0.0 else 0):
                epsilon = build.predict(after, i).epsilon
                moved = build.x - delta * after.sigma * epsilon
                build.advance(moved + math.sqrt(2.0 * delta) * after.sigma * build.noise(i))
