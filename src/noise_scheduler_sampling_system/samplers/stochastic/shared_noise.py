"""Single-step SDE samplers: the stages of a step share one Brownian motion."""

from __future__ import annotations

import math
from typing import Any, final

from ...config.options import Option
from ...config.registries import SAMPLERS
from ...grids.time_grid import TimeGrid
from ...plans.builder import PlanBuilder, Prediction
from ...plans.linear_form import Form
from ...schedules.path import Level, NoisePath
from ..base import BaseSampler
from ..integrals import Kernel, interpolated, power
from ..schemes import between
from ..shared_options import ETA, NOISE_FACTOR
from ..steps import ancestral, first_order

__all__ = ["DPMppSDESampler", "SEEDSSampler"]


@final
@SAMPLERS.register("dpmpp_sde")
class DPMppSDESampler(BaseSampler):
    """DPM-Solver++ (SDE) of k-diffusion: ``dpmpp_2s_ancestral`` with noise in the middle stage, too.

    Options:
        eta, s_noise: the share of the posterior's noise that is added, and a factor of it.
        r: the place of the middle stage in the step, in log-SNR.
        brownian: the noise of the stage is the first part of the step's noise, as in one Brownian motion.
            False draws the two independently (as diffusers' singlestep SDE solvers do).
    """

    order, calls_per_step, stochastic, guards = 2, 2, True, True
    declared_options = {
        "eta": ETA.at(1.0),
        "s_noise": NOISE_FACTOR,
        "r": Option(0.5, above=0.0, maximum=1.0),
        "brownian": Option(True),
    }

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        for i, now, after in grid.intervals():
            first = build.predict(now, i)
            if after.sigma == 0.0 or now.alpha == 0.0:
                down, n = ancestral(now, after, self.options["eta"])
                state = first_order(first, down)
                build.advance(state + self.options["s_noise"] * n * build.noise(i, now, after) if n else state)
            else:
                self._two_stages(build, i, now, after, first)

    def _two_stages(self, build: PlanBuilder, i: int, now: Level, after: Level, first: Prediction) -> None:
        x, eta, r, factor = build.x, self.options["eta"], self.options["r"], self.options["s_noise"]
        middle = between(self.scheduler, now, after, r)
        down, n = ancestral(now, middle, eta)
        fresh = build.noise(i, now, middle) if n else None
        state = _data_step(x, first.sample, now, down)
        build.advance(state if fresh is None else state + factor * n * fresh)
        second = build.predict(middle, i).sample
        down, n = ancestral(now, after, eta)
        samples = ((1.0 - 0.5 / r) * first.sample + 0.5 / r * second, first.sample)
        added = Form({})
        if n:
            noise = build.noise(i, middle, after)
            if self.options["brownian"] and fresh is not None:
                share = math.sqrt(min(1.0, _share(now, middle, after)))
                noise = share * fresh + math.sqrt(max(0.0, 1.0 - share**2)) * noise
            added = factor * n * noise
        build.settle(after, [_data_step(x, sample, now, down) + added for sample in samples])


def _share(now: Level, middle: Level, after: Level) -> float:
    """The share of a step's noise variance that its first part has, in a Brownian motion over σ/α."""
    return (now.noise_to_signal - middle.noise_to_signal) / (now.noise_to_signal - after.noise_to_signal)


def _data_step(x: Form, sample: Form, now: Level, after: Level) -> Form:
    """The exact step with constant x₀."""
    return after.sigma / now.sigma * x + (after.alpha - after.sigma / now.sigma * now.alpha) * sample


@final
@SAMPLERS.register("seeds")
class SEEDSSampler(BaseSampler):
    """SEEDS-2 and SEEDS-3, exponential SDE solvers (Gonzalez et al. 2023, arXiv 2305.14267, Algorithms 2-4), on x₀.

    The noise of a stage is part of the noise of the step, as in one Brownian motion.

    Options:
        stages: 2 or 3 model calls a step.
        eta, s_noise: η ≥ 0, the amount of noise (1: the reverse SDE; 0: a singlestep DPM-Solver++), and a factor of it.
    """

    order, calls_per_step, stochastic, guards = 2, 2, True, True
    declared_options = {"stages": Option(2, choices=(2, 3)), "eta": ETA.at(1.0), "s_noise": NOISE_FACTOR}

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.order = self.calls_per_step = self.options["stages"]

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        kernel = power(self.options["eta"])
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            x, known, noise, before = build.x, [(now, p.sample)], Form({}), now
            exact_end = after.sigma == 0.0 or now.alpha == 0.0  # one call, and no noise of an earlier stage is left
            places = () if exact_end else ((0.5,) if self.order == 2 else (1 / 3, 2 / 3))
            for level in [*(between(self.scheduler, now, after, c) for c in places), after]:
                decay = 0.0 if exact_end else self._decay(before, level)
                noise = self._noise(build, i, before, level, noise * decay, kernel)
                # the first stage has one prediction; a later one reads the first and the last
                used = known if len(known) == 1 else [known[0], known[-1]]
                rungs = [self._state(now, level, nodes, x, noise, kernel) for nodes in (used, used[:1])]
                if level is after:
                    build.settle(after, rungs)
                else:
                    build.advance(rungs[0])
                    known.append((level, build.predict(level, i).sample))
                before = level

    def _decay(self, before: Level, level: Level) -> float:
        """The factor by which a step multiplies the noise in its state."""
        eta = self.options["eta"]
        return level.sigma / before.sigma * math.exp(-eta * (level.half_log_snr - before.half_log_snr))

    def _noise(self, build: PlanBuilder, i: int, before: Level, level: Level, decayed: Form, kernel: Kernel) -> Form:
        """The noise in the state at a level: what is left of earlier noise, and that of the last part of the step."""
        own = interpolated("sample", before, level, [before], lambda lam: lam, kernel).noise
        return decayed + self.options["s_noise"] * own * build.noise(i, before, level) if own else decayed

    def _state(
        self, now: Level, level: Level, nodes: list[tuple[Level, Form]], x: Form, noise: Form, kernel: Kernel
    ) -> Form:
        """The state at a level, from the state at the step's start and the predictions at the nodes."""
        rule = "midpoint" if self.order == 2 else "exact"
        move = interpolated("sample", now, level, [node for node, _ in nodes], lambda lam: lam, kernel, rule)
        terms = (weight * y for weight, (_, y) in zip(move.weights, nodes, strict=True))
        return sum(terms, move.of_x * x + noise)
