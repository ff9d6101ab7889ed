"""Samplers whose noise is part of the method: stages that share it, churn, restarts, Langevin steps."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, final

from ..config.options import Option
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import Form, PlanBuilder
from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError
from .base import BaseSampler
from .integrals import interpolated, power
from .ranges import ETA, NOISE_FACTOR
from .single_step import between
from .steps import along, ancestral, first_order, from_noise

__all__ = [
    "DPMppSDESampler", "EDMSampler", "LCMSampler", "PredictorCorrectorSampler", "RestartSampler", "SEEDSSampler",
    "TCDSampler",
]  # fmt: skip


@final
@SAMPLERS.register("dpmpp_sde")
class DPMppSDESampler(BaseSampler):
    """DPM-Solver++ (SDE) of k-diffusion: ``dpmpp_2s_ancestral`` with noise in the middle stage, too.

    Options:
        eta, s_noise: how much of the posterior's noise is added, and a factor of it.
        r: where in log-SNR the middle stage is.
        brownian: the noise of the stage is the first part of the step's, as of one Brownian motion;
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
        eta, r = self.options["eta"], self.options["r"]
        for i, now, after in grid.intervals():
            first = build.predict(now, i)
            x = build.x
            if after.sigma == 0.0 or now.alpha == 0.0:
                down, n = ancestral(now, after, eta)
                state = down.alpha * first.sample + down.sigma * first.epsilon
                build.advance(state + self.options["s_noise"] * n * build.noise(i, now, after) if n else state)
                continue
            middle = between(self.scheduler, now, after, r)
            down, n = ancestral(now, middle, eta)
            fresh = build.noise(i, now, middle) if n else None
            state = _data_step(x, first.sample, now, down)
            build.advance(state if fresh is None else state + self.options["s_noise"] * n * fresh)
            second = build.predict(middle, i).sample
            down, n = ancestral(now, after, eta)
            samples = ((1.0 - 0.5 / r) * first.sample + 0.5 / r * second, first.sample)
            added = Form({})
            if n:
                noise = build.noise(i, middle, after)
                if self.options["brownian"] and fresh is not None:
                    share = math.sqrt(min(1.0, _share(now, middle, after)))
                    noise = share * fresh + math.sqrt(max(0.0, 1.0 - share**2)) * noise
                added = self.options["s_noise"] * n * noise
            build.settle(after, [_data_step(x, sample, now, down) + added for sample in samples])


def _share(now: Level, middle: Level, after: Level) -> float:
    """How much of the variance of a step's noise its first part has, Brownian motion running in σ/α."""
    return (now.noise_to_signal - middle.noise_to_signal) / (now.noise_to_signal - after.noise_to_signal)


def _data_step(x: Form, sample: Form, now: Level, after: Level) -> Form:
    """The exact step with constant x₀."""
    return after.sigma / now.sigma * x + (after.alpha - after.sigma / now.sigma * now.alpha) * sample


@final
@SAMPLERS.register("seeds")
class SEEDSSampler(BaseSampler):
    """SEEDS-2 and SEEDS-3, exponential SDE solvers (Gonzalez et al. 2023, arXiv 2305.14267, Algorithms 2-4), on x₀.

    The stages' noise is one Brownian motion: what a stage has seen of it is part of the step's.

    Options:
        stages: 2 or 3 model calls a step.
        eta, s_noise: η ≥ 0, the noise (1: the reverse SDE; 0: a singlestep DPM-Solver++), and a factor of it.
    """

    order, calls_per_step, stochastic, guards = 2, 2, True, True
    declared_options = {"stages": Option(2, choices=(2, 3)), "eta": ETA.at(1.0), "s_noise": NOISE_FACTOR}

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.order = self.calls_per_step = self.options["stages"]

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        kernel, eta = power(self.options["eta"]), self.options["eta"]
        rule = "midpoint" if self.order == 2 else "exact"
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            x, known, noise, before = build.x, [(now, p.sample)], Form({}), now
            short = after.sigma == 0.0 or now.alpha == 0.0
            places = () if short else ((0.5,) if self.order == 2 else (1 / 3, 2 / 3))
            for level in [*(between(self.scheduler, now, after, c) for c in places), after]:
                # the first stage knows one prediction; later ones the first and the last
                used = [known[0]] if len(known) == 1 else [known[0], known[-1]]
                # noise so far decays to this level, and the interval's own is added
                own = interpolated("sample", before, level, [before], lambda lam: lam, kernel).noise
                decay = 0.0 if short else math.exp(-eta * (level.half_log_snr - before.half_log_snr))
                noise = noise * (0.0 if short else level.sigma / before.sigma * decay)
                if own:
                    noise = noise + self.options["s_noise"] * own * build.noise(i, before, level)
                rungs = []
                for nodes in (used, used[:1]):
                    move = interpolated("sample", now, level, [v for v, _ in nodes], lambda lam: lam, kernel, rule)
                    terms = (weight * y for weight, (_, y) in zip(move.weights, nodes, strict=True))
                    rungs.append(sum(terms, move.of_x * x + noise))
                if level is after:
                    build.settle(after, rungs)
                else:
                    build.advance(rungs[0])
                    known.append((level, build.predict(level, i).sample))
                before = level


@final
@SAMPLERS.register("edm")
class EDMSampler(BaseSampler):
    """The stochastic sampler of EDM (Karras et al. 2022, arXiv 2206.00364, Algorithm 2): churn, then a Heun step.

    Before a step noise is added until the level is (1 + γ)·σ/α, γ = min(s_churn/N, √2 − 1), and no
    more than the schedule has.

    Options:
        s_churn: how much in all; 0 is ``heun``.
        s_tmin, s_tmax: churn where σ/α is between these.
        s_noise: the added noise is multiplied by this.
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
        """Noise up to (1 + γ)·σ/α, then Heun's step down; and Euler's."""
        most = self.scheduler.level(self.scheduler.t_max).noise_to_signal
        churned = min(now.noise_to_signal * (1.0 + gamma), most)
        if now.noise_to_signal < churned < math.inf and not from_noise(now, after):
            start = self.scheduler.level_at(-2.0 * math.log(churned))
            build.advance(_risen(build, i, now, start, self.options["s_noise"]))
            now = start
        return _heun(build, i, now, after, corrector=self.options["corrector"])


def _heun(build: PlanBuilder, i: int, now: Level, after: Level, corrector: bool = True) -> list[Form]:
    """Heun's step where it is defined, then Euler's."""
    first = build.predict(now, i)
    x, euler = build.x, first_order(first, after)
    if not corrector or after.sigma == 0.0 or from_noise(now, after):
        return [euler]
    build.advance(euler)
    second = build.predict(after, i)
    return [along(x, (first.epsilon + second.epsilon) / 2, now, after), euler]


def _ancestral_step(build: PlanBuilder, i: int, now: Level, after: Level) -> list[Form]:
    p, (down, n) = build.predict(now, i), ancestral(now, after, 1.0)
    state = first_order(p, down)
    return [state + n * build.noise(i, now, after) if n else state]


def _risen(build: PlanBuilder, i: int, now: Level, to: Level, s_noise: float = 1.0) -> Form:
    """The state with so much fresh noise that it is at a noisier level."""
    scale = to.alpha / now.alpha
    return scale * build.x + s_noise * math.sqrt(to.sigma**2 - (scale * now.sigma) ** 2) * build.noise(i)


@final
@SAMPLERS.register("restart")
class RestartSampler(BaseSampler):
    """Restart sampling (Xu et al. 2023, arXiv 2306.14878, Algorithm 1): Heun steps that go back up and come down again.

    Options:
        restarts: K, how often each interval is repeated.
        t_min, t_max: the interval, in σ/α; the levels of the grid nearest to them are used.
        restart_steps: Heun steps of each way down.
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
        o, step = self.options, 0
        for now, after in self._intervals(grid):
            if after.noise_to_signal > now.noise_to_signal:
                build.advance(_risen(build, step, now, after, o["s_noise"]))
                continue
            ways = (_heun, _ancestral_step)
            build.attempt(after, [functools.partial(way, build, step, now, after) for way in ways])
            step += 1

    def _intervals(self, grid: TimeGrid) -> list[tuple[Level, Level]]:
        """The intervals of the grid, with those of the restarts after the one that ends at the lower level."""
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

    A Langevin step is x ← x − δσ·ε + √(2δ)·σ·ξ with δ = (snr)²; the paper's step size, 2(snr·‖ξ‖/‖score‖)²,
    with the norms that ε and ξ have on average, ‖ξ‖/‖score‖ = σ, so that the step stays linear.

    Options:
        corrector_steps: Langevin steps a level.
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
            p = build.predict(now, i)
            down, n = ancestral(now, after, self.options["eta"])
            state = down.alpha * p.sample + down.sigma * p.epsilon
            build.advance(state + n * build.noise(i, now, after) if n else state)
            for _ in range(self.options["corrector_steps"] if after.sigma > 0.0 else 0):
                epsilon = build.predict(after, i).epsilon
                moved = build.x - delta * after.sigma * epsilon
                build.advance(moved + math.sqrt(2.0 * delta) * after.sigma * build.noise(i))


@final
@SAMPLERS.register("lcm")
class LCMSampler(BaseSampler):
    """Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, Alg. 1; Luo et al. 2023, arXiv 2310.04378).

    Each step predicts the clean sample, c_skip·x + c_out·x₀, and noises it afresh to the next level.

    Options:
        timestep_scaling: of the boundary condition, c_skip = σ_d²/(s² + σ_d²) and c_out =
            s/√(s² + σ_d²) with s = timestep_scaling·t and σ_d = ½; 0 leaves it out (c_skip = 0, c_out = 1).
    """

    stochastic = True
    declared_options = {"timestep_scaling": Option(0.0, minimum=0.0, maximum=1e6)}

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.carries_constants = not self.options["timestep_scaling"]

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        scaling, sigma_data = self.options["timestep_scaling"], 0.5
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            clean = p.sample
            if scaling:
                square = (scaling * now.t) ** 2 + sigma_data**2
                clean = sigma_data**2 / square * p.x + scaling * now.t / math.sqrt(square) * clean
            noised = after.alpha * clean
            build.advance(noised + after.sigma * build.noise(i) if after.sigma else noised)


@final
@SAMPLERS.register("tcd")
class TCDSampler(BaseSampler):
    """Trajectory consistency sampling (Zheng et al. 2024, arXiv 2402.19159): down past the next level, and up again.

    Options:
        eta: γ of the paper, in [0, 1]: 0 is deterministic (DDIM), 1 starts afresh from the clean sample.
    """

    stochastic = True
    declared_options = {"eta": Option(0.3, minimum=0.0, maximum=1.0)}

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            low = self._lower(after)
            build.advance(low.alpha * p.sample + low.sigma * p.epsilon)
            if after.sigma > low.sigma:
                build.advance(_risen(build, i, low, after))

    def _lower(self, after: Level) -> Level:
        """The level at (1 − γ) of the next level's time."""
        if after.sigma == 0.0 or self.options["eta"] == 0.0:
            return after
        path = self.scheduler
        t = (1.0 - self.options["eta"]) * after.t
        t = math.floor(t) if path.discrete else t
        return path.level(t) if t >= path.t_min and self.options["eta"] < 1.0 else Level(after.t, 1.0, 0.0)
