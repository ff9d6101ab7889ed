"""Steps whose length follows from a tolerance: embedded pairs of Runge-Kutta methods with a PI controller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import numpy as np

from ..config.options import Option
from ..config.registries import SAMPLERS
from ..grids.time_grid import TimeGrid
from ..plans.builder import PlanBuilder
from ..plans.plan import SamplingPlan
from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError
from ..support.registry import did_you_mean
from .base import BaseSampler
from .schemes import Scheme, exponential_scheme, run_scheme, runge_kutta_scheme
from .tableaux import BUTCHER, EXPONENTIAL, ButcherTableau, ExponentialTableau, phi

__all__ = ["AdaptiveSampler", "Controller", "Pair", "coordinate", "level_at_coordinate"]


class Pair(NamedTuple):
    """Two methods that share their model calls, in one tableau.

    The last stage of the tableau is at the end of the step, and its state is the result. The tableau's own result is
    the embedded one, of lower order. Their difference estimates the error.

    Attributes:
        tableau: the embedded method.
        reads_end: whether it reads the prediction at the result, which is then the first prediction of the next step.
    """

    tableau: ButcherTableau | ExponentialTableau
    reads_end: bool

    @classmethod
    def of(cls, value: Any) -> Pair:
        """Make a pair from a name, or from a tableau with embedded weights.

        Raises:
            ConfigurationError: neither.
        """
        if isinstance(value, str) and value in _EXPONENTIAL_PAIRS:
            return cls(_EXPONENTIAL_PAIRS[value], False)
        given = BUTCHER.get(value) if isinstance(value, str) else value
        if not isinstance(given, ButcherTableau) or given.embedded is None:
            raise ConfigurationError(
                f"got {value!r}",
                where="tableau",
                why="two methods that share their model calls estimate the error of a step",
                suggestion=did_you_mean(value, _NAMES)
                if isinstance(value, str)
                else "give a name or a ButcherTableau with embedded weights",
            )
        if given.a[-1] == given.b[:-1] and given.b[-1] == 0.0:
            return cls(ButcherTableau(given.a, given.embedded), given.embedded[-1] != 0.0)
        return cls(ButcherTableau((*given.a, given.b), (*given.embedded, 0.0)), False)

    @property
    def method(self) -> ButcherTableau | ExponentialTableau:
        """The method of the result alone."""
        tableau = self.tableau
        if isinstance(tableau, ButcherTableau):
            return ButcherTableau(tableau.a[:-1], tableau.a[-1])
        return replace(tableau, order=tableau.order + 1, c=tableau.c[:-1], weights=tableau.weights[:-1])


def _paired(result: ExponentialTableau, order: int, embedded: Any) -> ExponentialTableau:
    return ExponentialTableau(order, (*result.c, 1.0), (*result.weights, embedded))


#: DPM-Solver-12 and -23 (Lu et al. 2022, arXiv 2206.00927, App. C): both orders share their first calls.
_EXPONENTIAL_PAIRS = {
    "dpm_solver_12": _paired(EXPONENTIAL["midpoint2"], 1, lambda z: (0.0, 0.0)),
    "dpm_solver_23": _paired(EXPONENTIAL["etd3"], 2, lambda z: (1.5 * phi(1, z), 0.0, 0.0)),
}
_NAMES = (*(name for name, tableau in BUTCHER.items() if tableau.embedded), *_EXPONENTIAL_PAIRS)


@final
@dataclass(frozen=True)
class Controller:
    """The length of the next step (Hairer & Wanner, Solving Ordinary Differential Equations II, §IV.2, eq. 2.43).

    Attributes:
        pcoeff, icoeff: of the proportional and the integral part, as in diffrax: the factor is
            safety·error^(−(pcoeff + icoeff)/order)·previous^(pcoeff/order).
        safety: below 1, so that fewer steps fail.
        order: the error is proportional to this power of the step's length.
    """

    pcoeff: float
    icoeff: float
    safety: float
    order: int

    def factor(self, error: float, previous: float) -> float:
        """The factor of the length, from 0.2 to 10.

        Args:
            error: the error of this step over the tolerance; above 1 the step fails.
            previous: the same of the last step that did not fail.
        """
        now, before = max(error, _TINY), max(previous, _TINY)
        wanted = now ** (-(self.pcoeff + self.icoeff) / self.order) * before ** (self.pcoeff / self.order)
        return float(min(max(self.safety * wanted, 0.2), self.safety if error > 1.0 else 10.0))


_TINY = 1e-10


@final
@SAMPLERS.register("adaptive")
class AdaptiveSampler(BaseSampler):
    """An embedded pair with steps of its own choice, on the probability-flow ODE.

    A step is accepted if the difference of the pair's two results is within the tolerance: in the sample with the
    largest difference, its root mean square is at most atol + rtol·(that of the result). So the samples of a batch
    share their steps, and the steps depend on the batch. With ``max_batch_size=1`` each sample has its own steps,
    the same in every batch. The result is that of the higher order.

    Of a grid the sampler uses the ends, the length of the first interval (as the first trial) and, for guidance that
    counts steps, the other levels. ``num_inference_steps`` gives a grid from the start of the config's spacing to the
    cleanest level that the model knows. From there one DDIM step, whose error is not estimated, leads to the clean
    sample.

    Options:
        tableau: "bogacki_shampine" (3 calls a step), "heun2" (2), "dormand_prince" (6), "dpm_solver_12" (2) or
            "dpm_solver_23" (3); or a ButcherTableau with embedded weights.
        frame: the form of the ODE (:func:`~.schemes.runge_kutta_scheme`), and the unit of a step's length: "log_snr",
            "sigma" or "flow". "auto" is "flow" for a run from zero signal and "log_snr" otherwise. The pairs of
            DPM-Solver allow "log_snr" only.
        rtol, atol: the tolerance; ``atol`` is in units of the state.
        pcoeff, icoeff, safety: of the :class:`Controller`. With pcoeff = 0 and icoeff = 1 it uses the last step only.
        first_step: the length of the first step, in the frame's variable; None: that of the grid.
        max_calls: the largest number of model calls of a run; beyond it the run is an error.
    """

    declared_options = {
        "tableau": Option("bogacki_shampine", kind=object, check=Pair.of),
        "frame": Option("auto", choices=("auto", "log_snr", "sigma", "flow")),
        "rtol": Option(0.001, minimum=0.0, maximum=1.0),
        "atol": Option(0.0, minimum=0.0),
        "pcoeff": Option(0.4, minimum=0.0, maximum=10.0),
        "icoeff": Option(0.3, above=0.0, maximum=10.0),
        "safety": Option(0.9, above=0.0, below=1.0),
        "first_step": Option(None, kind=float, above=0.0),
        "max_calls": Option(1000, minimum=1, maximum=10**9),
    }

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.pair = Pair.of(self.options["tableau"])
        method, chosen = self.pair.method, self.options
        self.order = method.order
        self.calls_per_step = len(method.b if isinstance(method, ButcherTableau) else method.c)
        self.controller = Controller(
            chosen["pcoeff"], chosen["icoeff"], chosen["safety"], order=self.pair.tableau.order + 1
        )
        if not chosen["rtol"] + chosen["atol"] > 0.0:
            raise ConfigurationError(
                "rtol and atol are both 0", where="rtol", suggestion="give a tolerance above 0, e.g. rtol=1e-3"
            )
        if isinstance(self.pair.tableau, ExponentialTableau) and chosen["frame"] not in ("auto", "log_snr"):
            raise ConfigurationError(
                f"got {chosen['frame']!r}",
                where="frame",
                why=f"{chosen['tableau']!r} is a method over log-SNR",
                suggestion="leave it out, or use another pair",
            )

    def plan(
        self, num_inference_steps: int | None = None, *, timesteps: Sequence[float] | None = None,
        grid: TimeGrid | None = None,
    ) -> SamplingPlan:  # fmt: skip
        raise ConfigurationError(
            "the steps depend on the model's predictions, so the plan is not known before the run",
            where="adaptive",
            suggestion="call sample(..., return_result=True): its result has the plan and the grid of the run, "
            "which can be used again",
        )

    def grid(
        self, num_inference_steps: int | None = None, *, timesteps: Sequence[float] | None = None,
        grid: TimeGrid | None = None,
    ) -> TimeGrid:  # fmt: skip
        """The grid whose ends and first interval a run uses: N steps of the spacing, down to the cleanest level."""
        chosen = super().grid(num_inference_steps, timesteps=timesteps, grid=grid)
        lowest = self.scheduler.level(self.scheduler.t_min)
        *others, end = chosen.levels
        if (
            num_inference_steps is None
            or end.sigma
            or others[-1].noise_to_signal <= lowest.noise_to_signal * (1 + 1e-9)
        ):
            return chosen
        return TimeGrid((*others, lowest, end))

    def frame_on(self, grid: TimeGrid) -> str:
        """The form of the ODE for runs on a grid.

        Raises:
            ConfigurationError: the grid has a level without signal, where the form is not defined.
        """
        frame = str(self.options["frame"])
        if all(level.alpha > 0.0 for level in grid.levels):
            return "log_snr" if frame == "auto" else frame
        if frame in ("log_snr", "sigma") or isinstance(self.pair.tableau, ExponentialTableau):
            raise ConfigurationError(
                "the grid has a level without signal, where the method is not defined",
                where="frame",
                suggestion="use frame='flow' with a Runge-Kutta pair, or start at a level with signal",
            )
        return "flow"

    def trial(self, step: int, now: Level, after: Level, frame: str) -> SamplingPlan:
        """A plan of one step with both results: the states before and after the last row.

        To the clean sample the step is DDIM's, and both results are the same.
        """
        if after.sigma == 0.0:
            return self._compiled(TimeGrid((now, after)), frame, step)
        build = PlanBuilder(_SPACES[frame] if isinstance(self.pair.tableau, ButcherTableau) else "epsilon")
        first = build.predict(now, step)
        scheme = self._scheme(self.pair.tableau, now, after, frame)
        scheme = replace(scheme, levels=(*scheme.levels[:-1], after))
        build.advance(run_scheme(build, step, scheme, first)[0])
        plan = build.build(after, math.hypot(now.alpha, now.sigma), sampler="adaptive", order=self.order, options={})
        return plan if self.pair.reads_end else replace(plan, asks=np.array([1] * (len(plan) - 1) + [0]))

    def on_grid(self, grid: TimeGrid) -> SamplingPlan:
        """The plan of the result's method, with the steps of this grid.

        Raises:
            ConfigurationError: a level where the method is not defined.
        """
        return self._compiled(grid, self.frame_on(grid))

    def _compiled(self, grid: TimeGrid, frame: str, first: int = 0) -> SamplingPlan:
        method = self.pair.method
        build = PlanBuilder(_SPACES[frame] if isinstance(method, ButcherTableau) else "epsilon")
        for i, now, after in grid.intervals():
            p = build.predict(now, first + i)
            if after.sigma == 0.0:
                build.advance(p.sample)
            else:
                build.advance(run_scheme(build, first + i, self._scheme(method, now, after, frame), p)[0])
        start = grid.levels[0]
        scale = math.hypot(start.alpha, start.sigma)
        return build.build(grid.levels[-1], scale, sampler="adaptive", order=self.order, options=_savable(self.options))

    def _scheme(self, tableau: ButcherTableau | ExponentialTableau, now: Level, after: Level, frame: str) -> Scheme:
        if isinstance(tableau, ExponentialTableau):
            return exponential_scheme(self.scheduler, tableau, "epsilon", now, after)
        return runge_kutta_scheme(self.scheduler, tableau, frame, now, after)


#: The space of plans for each form of the ODE.
_SPACES = {"log_snr": "sample", "sigma": "epsilon", "flow": "flow_prediction"}


def coordinate(frame: str, level: Level) -> float:
    """The variable of a step's length, at a level.

    For "flow" it is σ/(α + σ) − 1, which distinguishes levels near pure noise.
    """
    if frame == "log_snr":
        return level.half_log_snr
    return level.noise_to_signal if frame == "sigma" else -level.alpha / (level.alpha + level.sigma)


def level_at_coordinate(path: NoisePath, frame: str, value: float) -> Level:
    """The inverse of :func:`coordinate`, for levels with signal and noise."""
    if frame == "log_snr":
        return path.level_at(2.0 * value)
    return path.level_at(-2.0 * math.log(value) if frame == "sigma" else 2.0 * math.log(-value / (1.0 + value)))


def _savable(options: Any) -> dict[str, Any]:
    """Options as data that a plan's file can hold; other values become their repr."""
    return {name: value if value is None or isinstance(value, str | int | float) else repr(value)
            for name, value in options.items()}  # fmt: skip
