"""The multistep method: a polynomial through the latest predictions, integrated exactly.

One class with a few options, and each sampler declares its own. integrals.py has the mathematics.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from ...grids.time_grid import TimeGrid
from ...plans.builder import PlanBuilder
from ...plans.linear_form import Form
from ...schedules.path import Level, NoisePath
from ...support.errors import ConfigurationError, shown
from ..base import BaseSampler
from ..integrals import Kernel, Move, interpolated, power
from ..shared_options import ORDER
from ..steps import from_noise

__all__ = ["Known", "MultistepSampler", "extrapolates"]

#: A step uses fewer predictions where it would multiply their errors by more than this.
_LARGEST_GAIN = 25.0
#: The quantities whose integrals integrals.py has.
_SPACES = ("sample", "epsilon")
#: The variables of the polynomial, as functions of half the log-SNR; None: the path's time.
_VARIABLES: Final[Mapping[str, Callable[[Any], Any] | None]] = {
    "log_snr": lambda lam: lam, "sigma": lambda lam: np.exp(-lam), "time": None
}  # fmt: skip
#: Predictions with their levels, newest first.
Known = Sequence[tuple[Level, Form]]


class MultistepSampler(BaseSampler, ABC):
    """Exponential Adams methods for the ODE or an SDE, with or without a corrector.

    The method replaces the prediction (``space``) by a polynomial of degree order − 1 in ``variable``, and integrates
    it exactly. The first steps have fewer predictions. A step from zero signal uses one prediction. So does a step to
    the clean sample, unless space is "epsilon" and variable is "sigma".

    Options, where a sampler declares them:
        order: the number of predictions. A class without this option uses as many as its ``order``.
        solver_type: the exact weights, or a published shortcut (:func:`~.integrals.interpolated`).
        eta: η ≥ 0, the amount of noise: 0 is the ODE, 1 the reverse SDE.
        s_noise: a factor of the noise (1 in theory).
        corrector: each new prediction corrects the step that led to it, without another call.
        corrector_order: the number of the corrector's predictions, the new one included; default: ``order`` + 1.
        start: the first step has one prediction. "corrected": the second prediction corrects it, without another
            call, if ``order`` ≥ 3; such a method would lose its order otherwise. "plain": nothing corrects it.
        lower_order_final: a step uses at most as many predictions as steps are left. The last step is then of first
            order, and the method at most of second.
    """

    guards, spacing = True, "beta57"
    variable: ClassVar[str] = "log_snr"
    declared_options = {"order": ORDER}

    def __init__(self, scheduler: NoisePath, **options: Any) -> None:
        super().__init__(scheduler, **options)
        if self.space not in _SPACES:
            raise ConfigurationError(
                f"got {shown(self.space)}",
                where=f"{type(self).__name__}.space",
                why="MultistepSampler integrates predictions of x₀ or ε",
                suggestion="set 'sample' or 'epsilon'; for another quantity derive from BaseSampler and write the "
                "plan, as AdamsSampler does",
            )
        if self.variable not in _VARIABLES:
            raise ConfigurationError(
                f"got {shown(self.variable)}",
                where=f"{type(self).__name__}.variable",
                suggestion=f"set one of {', '.join(map(repr, _VARIABLES))}",
            )
        limit = 3 if self.options.get("start") == "corrected" else 2
        if self.options.get("lower_order_final", False) or self.options.get("solver_type") == "as_published":
            limit = 2
        self.order = min(self._predictions, limit)

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        past: list[tuple[Level, Form]] = []
        correct: Callable[[tuple[Level, Form]], Form] | None = None
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            space = self.space if now.alpha > 0.0 else "sample"  # without signal, ε says nothing of the data
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
            # the guard tries the corrected state with fewer and fewer predictions, then the uncorrected state
            ladder = itertools.chain(
                ((starts[0], rung) for rung in itertools.chain([first], rungs)),
                ((x, rung) for x in starts[1:] for rung in self._rungs(now, after, known, space)),
            )
            build.settle(after, (_moved(move, x, used, noise) for x, (move, used) in ladder))
            past = [newest, *past] if now.alpha > 0.0 or self.space == "sample" else []

    @property
    def _predictions(self) -> int:
        """The most predictions of a step: the option ``order``, or the order of a class that has no such option."""
        number: int = self.options.get("order", type(self).order)
        return number

    def _rungs(self, now: Level, after: Level, known: Known, space: str) -> Iterator[tuple[Move, Known]]:
        """Yield the step with all of these predictions, then with fewer, and last with the newest alone."""
        published = self.options.get("solver_type") == "as_published"
        for k in range(len(known), 0, -1):
            move = self.move(space, now, after, [level for level, _ in known[:k]])
            # where a step is far longer than the steps before it, fewer predictions are more accurate
            if k == 1 or published or not extrapolates(move.weights):
                yield move, known[:k]

    def orders(self, grid: TimeGrid, i: int, known: int) -> int:
        """The number of predictions that step i uses, given the number from earlier steps (``known``)."""
        finite = self.space == "epsilon" and self.variable == "sigma"
        if known == 0 or grid.levels[i].alpha == 0.0 or (grid.levels[i + 1].sigma == 0.0 and not finite):
            return 1
        left = grid.steps - i if self.options.get("lower_order_final", False) else known + 1
        return min(self._predictions, known + 1, left)

    def kernel(self, now: Level) -> Kernel:
        """The SDE of the step from this level."""
        return power(self.options.get("eta", 0.0))

    def move(self, space: str, now: Level, after: Level, nodes: Sequence[Level]) -> Move:
        """The coefficients of a step, given the levels of the predictions that it uses."""
        variable = _VARIABLES[self.variable] or self._time
        rule = self.options.get("solver_type", "exact")
        return interpolated(space, now, after, nodes, variable, self.kernel(now), rule)

    def _time(self, half_log_snr: Any) -> Any:
        return self.scheduler.time(2.0 * half_log_snr)

    def _corrector(
        self, now: Level, after: Level, x: Form, used: Known, noise: Form | None
    ) -> Callable[[tuple[Level, Form]], Form] | None:
        """A function that makes the state at ``after`` from the prediction there; None where it is not defined."""
        forgets = from_noise(now, after) if self.space == "epsilon" else now.alpha == 0.0 and noise is not None
        if after.sigma == 0.0 or forgets:
            return None
        kept = used[: self.options["corrector_order"] - 1] if "corrector_order" in self.options else used

        def corrected(newest: tuple[Level, Form]) -> Form:
            known = [*kept[:1], newest, *kept[1:]] if kept else [newest]
            return _moved(self.move(self.space, now, after, [level for level, _ in known]), x, known, noise)

        return corrected


def extrapolates(weights: Sequence[float]) -> bool:
    """Whether the weights of the predictions nearly cancel, so that the step would multiply the predictions' errors.

    Adams-Bashforth of order 4 multiplies them by 6.7 on even steps, and by a thousand where steps grow ninefold.
    """
    gain = sum(map(abs, weights))
    return not math.isfinite(gain) or gain > _LARGEST_GAIN * abs(sum(weights))


def _moved(move: Move, x: Form, known: Known, noise: Form | None) -> Form:
    state = move.of_x * x
    for weight, (_, y) in zip(move.weights, known, strict=True):
        state = state + weight * y
    return state if noise is None else state + noise
