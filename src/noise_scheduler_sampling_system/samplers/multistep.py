"""Multistep methods: one model call a step, and the polynomial through the latest predictions.

One class with a few knobs; a sampler is a choice of them. See integrals.py for the mathematics.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, final

import numpy as np

from ..config.options import Option
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import Form, PlanBuilder
from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError
from .base import BaseSampler
from .integrals import Kernel, Move, adams, interpolated, power
from .ranges import ETA, NOISE_FACTOR, ORDER, START
from .steps import from_noise, straight_distance

__all__ = [
    "AdamsSampler",
    "DEISSampler", "DPM2MSampler", "DPM3MSampler", "DPMpp2MSDESampler", "DPMpp2MSampler", "DPMpp3MSDESampler",
    "DPMpp3MSampler", "ERSDESampler", "IPNDMSampler", "IPNDMvSampler", "LMSSampler", "MultistepSampler",
    "RESMultistepSampler", "SASolverSampler", "UniPCSampler",
]  # fmt: skip

#: By how much a multistep step may multiply errors of the predictions before its order is lowered.
_LARGEST_GAIN = 25.0
#: (level, prediction), newest first
Known = Sequence[tuple[Level, Form]]


class MultistepSampler(BaseSampler, ABC):
    """Exponential Adams methods, with a corrector or without, of the ODE or of an SDE.

    The prediction (``space``) is taken for a polynomial of degree order − 1 in ``variable``, and the
    step is its exact integral. The first steps have fewer predictions to go by; so have the steps
    from zero signal and, where the variable is not finite there, to the clean sample.

    Options, where a sampler has them:
        order: the number of predictions used.
        solver_type: the exact weights, or a published shortcut (:func:`~.integrals.interpolated`).
        eta: η ≥ 0, the noise: 0 is the ODE, 1 the reverse SDE.
        s_noise: the noise is multiplied by this (1 in theory).
        corrector: use each new prediction to correct the step that led to it, without a further call.
        corrector_order: of the corrector, the new prediction counted; default: one more than ``order``.
        start: the first step has one prediction to go by. "corrected": methods of order 3 correct it with the
            second prediction, without a further call, which they need to keep their order; "plain": they do not.
        lower_order_final: lower the order towards the end as far as steps are left; the last step is then
            of first order, the whole of second at most.
    """

    guards, spacing = True, "kl_optimal"
    variable: ClassVar[str] = "log_snr"
    declared_options = {"order": ORDER}

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        limit = 3 if self.options.get("start") == "corrected" else 2
        if self.options.get("lower_order_final", False) or self.options.get("solver_type") == "as_published":
            limit = 2
        self.order = min(self.options["order"], limit)

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        past: list[tuple[Level, Form]] = []
        correct: Callable[[tuple[Level, Form]], Form] | None = None
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            space = self.space if now.alpha > 0.0 else "sample"  # without signal only x₀ says where to go
            newest, starts = (now, p.of(space)), [build.x]
            if correct is not None:
                starts.insert(0, build.shortened(correct(newest)))
            if correct is not None and self.options.get("evaluate_again", False):
                build.settle(now, starts)
                newest, starts = (now, build.predict(now, i).of(space)), [build.x]
            known = [newest, *past][: self.orders(grid, i, len(past))]
            rungs = self._rungs(now, after, known, space)
            move, used = first = next(rungs)
            noise = self.options.get("s_noise", 1.0) * move.noise * build.noise(i, now, after) if move.noise else None
            corrects = self.options.get("corrector", False) or (i == 0 and self.order > 2)
            correct = self._corrector(now, after, starts[0], used, noise) if corrects else None
            # from the corrected state with ever fewer predictions, then from the plain one
            ladder = itertools.chain(
                ((starts[0], rung) for rung in itertools.chain([first], rungs)),
                ((x, rung) for x in starts[1:] for rung in self._rungs(now, after, known, space)),
            )
            build.settle(after, (_moved(move, x, used, noise) for x, (move, used) in ladder))
            past = [newest, *past] if now.alpha > 0.0 or self.space == "sample" else []

    def _rungs(self, now: Level, after: Level, known: Known, space: str) -> Iterator[tuple[Move, Known]]:
        """The step with all of these predictions, with fewer of them, and with the newest alone."""
        published = self.options.get("solver_type") == "as_published"
        for k in range(len(known), 0, -1):
            move = self.move(space, now, after, [level for level, _ in known[:k]])
            # a step far longer than those before: fewer predictions say more of it
            if k == 1 or published or not extrapolates(move.weights):
                yield move, known[:k]

    def orders(self, grid: TimeGrid, i: int, known: int) -> int:
        """The number of predictions that step i uses; ``known`` is how many there are from earlier ones."""
        finite = self.space == "epsilon" and self.variable == "sigma"
        if known == 0 or grid.levels[i].alpha == 0.0 or (grid.levels[i + 1].sigma == 0.0 and not finite):
            return 1
        left = grid.steps - i if self.options.get("lower_order_final", False) else known + 1
        wanted: int = self.options["order"]
        return min(wanted, known + 1, left)

    def kernel(self, now: Level) -> Kernel:
        """The SDE of the step from this level."""
        return power(self.options.get("eta", 0.0))

    def move(self, space: str, now: Level, after: Level, nodes: Sequence[Level]) -> Move:
        """The coefficients of a step, given the levels of the predictions that it uses."""
        variable = {"log_snr": lambda lam: lam, "sigma": lambda lam: np.exp(-lam), "time": self._time}[self.variable]
        rule = self.options.get("solver_type", "exact")
        return interpolated(space, now, after, nodes, variable, self.kernel(now), rule)

    def _time(self, half_log_snr: Any) -> Any:
        return self.scheduler.time(2.0 * half_log_snr)

    def _corrector(
        self, now: Level, after: Level, x: Form, used: Known, noise: Form | None
    ) -> Callable[[tuple[Level, Form]], Form] | None:
        """What makes the state at ``after`` from the prediction there, or None."""
        forgets = from_noise(now, after) if self.space == "epsilon" else now.alpha == 0.0 and noise is not None
        if after.sigma == 0.0 or forgets:
            return None
        kept = used[: self.options["corrector_order"] - 1] if "corrector_order" in self.options else used

        def corrected(newest: tuple[Level, Form]) -> Form:
            known = [*kept[:1], newest, *kept[1:]] if kept else [newest]
            return _moved(self.move(self.space, now, after, [level for level, _ in known]), x, known, noise)

        return corrected


def extrapolates(weights: Sequence[float]) -> bool:
    """Whether the weights of the predictions nearly cancel, and would multiply the errors of these.

    Adams-Bashforth of order 4 multiplies them by 6.7 on even steps; steps that grow ninefold make it
    a thousand.
    """
    gain = sum(map(abs, weights))
    return not math.isfinite(gain) or gain > _LARGEST_GAIN * abs(sum(weights))


def _moved(move: Move, x: Form, known: Known, noise: Form | None) -> Form:
    state = move.of_x * x
    for weight, (_, y) in zip(move.weights, known, strict=True):
        state = state + weight * y
    return state if noise is None else state + noise


@final
@SAMPLERS.register("dpmpp_2m")
class DPMpp2MSampler(MultistepSampler):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2); "midpoint" is as published."""

    order = 2
    declared_options = {
        "order": ORDER,
        "solver_type": Option("midpoint", choices=("midpoint", "exact")),
        "lower_order_final": Option(False),
    }


@final
@SAMPLERS.register("dpmpp_3m")
class DPMpp3MSampler(MultistepSampler):
    """DPM-Solver++(3M) (Lu et al. 2022, arXiv 2211.01095, App. B) with the exact weights, which make it third order.

    The paper's code and all that follow it halve the second-order term: ``solver_type="as_published"``
    is of second order only.
    """

    order = 3
    declared_options = {
        "order": ORDER.at(3),
        "solver_type": Option("exact", choices=("exact", "as_published")),
        "start": START,
        "lower_order_final": Option(False),
    }


@final
@SAMPLERS.register("dpmpp_2m_sde")
class DPMpp2MSDESampler(MultistepSampler):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, §5.3; η as in k-diffusion). η = 0 is ``dpmpp_2m``."""

    order, stochastic = 2, True
    declared_options = {
        "order": ORDER,
        "solver_type": Option("midpoint", choices=("midpoint", "exact")),
        "eta": ETA.at(1.0),
        "s_noise": NOISE_FACTOR,
        "lower_order_final": Option(False),
    }


@final
@SAMPLERS.register("dpmpp_3m_sde")
class DPMpp3MSDESampler(MultistepSampler):
    """SDE-DPM-Solver++(3M) of k-diffusion with the exact weights; "as_published" halves the second-order term."""

    order, stochastic = 3, True
    declared_options = {
        "order": ORDER.at(3),
        "solver_type": Option("exact", choices=("exact", "as_published")),
        "start": START,
        "eta": ETA.at(1.0),
        "s_noise": NOISE_FACTOR,
        "lower_order_final": Option(False),
    }


@final
@SAMPLERS.register("dpm_2m")
class DPM2MSampler(MultistepSampler):
    """Multistep DPM-Solver of order 2 on ε (Lu et al. 2022, arXiv 2206.00927, App. D)."""

    order, space = 2, "epsilon"
    declared_options = {
        "order": ORDER,
        "solver_type": Option("midpoint", choices=("midpoint", "exact")),
        "lower_order_final": Option(False),
    }


@final
@SAMPLERS.register("dpm_3m")
class DPM3MSampler(MultistepSampler):
    """Multistep DPM-Solver of order 3 on ε; "as_published" halves the second-order term."""

    order, space = 3, "epsilon"
    declared_options = {
        "order": ORDER.at(3),
        "solver_type": Option("exact", choices=("exact", "as_published")),
        "start": START,
        "lower_order_final": Option(False),
    }


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
    """

    order, space = 3, "epsilon"
    declared_options = {
        "order": ORDER.at(3),
        "polynomial": Option("t", choices=("t", "rho", "log_rho")),
        "start": START,
        "lower_order_final": Option(False),
    }

    @property
    def variable(self) -> str:  # type: ignore[override]
        return {"t": "time", "rho": "sigma", "log_rho": "log_snr"}[self.options["polynomial"]]


@final
@SAMPLERS.register("lms")
class LMSSampler(MultistepSampler):
    """Linear multistep (k-diffusion's ``lms``): Adams-Bashforth on dx̄/dσ̄ = ε for steps of any size, in closed form."""

    order, space, variable = 3, "epsilon", "sigma"
    declared_options = {"order": ORDER.at(4), "start": START}


@final
@SAMPLERS.register("adams")
class AdamsSampler(BaseSampler):
    """Adams-Bashforth on the ODE of the straight path, on any path: with w = α + σ, d(x/w)/d(σ/w) = ε − x₀.

    This form is regular from pure noise to clean data, so the steps at both ends keep their order.

    Options:
        order: the number of predictions used.
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
            if i == 1 and self.order > 2:  # the trapezoidal rule in place of Euler's first step
                before, slope_before = known[0]
                starts.insert(0, first + straight_distance(before, now) / 2 * (slope_before + slope))
            first = starts[-1]
            known = [(now, slope), *known][: self.options["order"]]
            build.settle(after, (_straight(now, after, x, used) for x in starts for used in _usable(now, after, known)))


def _usable(now: Level, after: Level, known: Known) -> Iterator[Known]:
    """The predictions that an Adams step may use, ever fewer of them."""
    for k in range(len(known), 0, -1):
        if k == 1 or not extrapolates(_adams_weights(now, after, known[:k])):
            yield known[:k]


def _adams_weights(now: Level, after: Level, known: Known) -> list[float]:
    return adams([straight_distance(now, level) for level, _ in known], 0.0, straight_distance(now, after))


def _straight(now: Level, after: Level, start: Form, known: Known) -> Form:
    """An Adams step on the straight path's coordinates, from x/w = start."""
    state, step = start, straight_distance(now, after)
    for weight, (_, y) in zip(_adams_weights(now, after, known), known, strict=True):
        state = state + step * weight * y
    return (after.alpha + after.sigma) * state


@final
@SAMPLERS.register("ipndm")
class IPNDMSampler(MultistepSampler):
    """Improved PNDM (Zhang & Chen 2023, arXiv 2204.13902, App. H.2): Adams-Bashforth weights of equal steps.

    Second order on grids whose steps change smoothly, first on others; fourth on even σ/α but for the start.
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
    """iPNDM for steps of any size (diff-sampler's ``ipndm_v``), with the right weights, those of ``lms``.

    ``solver_type="as_published"`` are the weights of that code, wrong at order 3; at order 4 they do
    not even add up to one on uneven steps, which no plan allows.
    """

    order, space, variable = 3, "epsilon", "sigma"
    declared_options = {
        "order": ORDER.at(4),
        "solver_type": Option("exact", choices=("exact", "as_published")),
        "start": START,
    }

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
@SAMPLERS.register("unipc")
class UniPCSampler(MultistepSampler):
    """UniPC (Zhao et al. 2023, arXiv 2302.04867): multistep predictor of order p, and corrector of order p + 1.

    With exact weights the functions B₁ and B₂ of the paper make no difference; "bh1" and "bh2" are
    the published shortcuts for two predictions. ``predict_x0=False`` interpolates ε instead of x₀.
    """

    order = 3
    declared_options = {
        "order": ORDER.at(3),
        "solver_type": Option("bh2", choices=("bh1", "bh2", "exact")),
        "corrector": Option(True),
        "lower_order_final": Option(False),
        "predict_x0": Option(True),
    }

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        limit = 2 if self.options["lower_order_final"] or not self.options["corrector"] else 3
        self.order = min(self.options["order"] + (1 if self.options["corrector"] else 0), limit)

    @property
    def space(self) -> str:  # type: ignore[override]
        return "sample" if self.options["predict_x0"] else "epsilon"


@final
@SAMPLERS.register("sa_solver")
class SASolverSampler(MultistepSampler):
    """SA-Solver (Xue et al. 2023, arXiv 2309.05019): stochastic Adams, predictor and corrector.

    Options:
        order, corrector_order: of the predictor and the corrector (the new prediction counted).
        tau: τ, the noise: η = τ² while between ``tau_start`` and ``tau_end`` (fractions of the
            schedule's time), 0 elsewhere.
        solver_type: "bh1" is the published shortcut for two predictions.
        evaluate_again: ask the model about the corrected state, too (PECE): two calls a step.
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

        def grown(lam: Any) -> Any:
            return np.exp(np.minimum(np.exp(-0.3 * lam), 700.0))

        return Kernel(
            log=lambda lam: -lam + np.log(grown(lam) + 10.0),
            slope=lambda lam: -1.0 - 0.3 * np.exp(-0.3 * lam) / (1.0 + 10.0 / grown(lam)),
        )
