"""Pseudo numerical methods for diffusion models: linear multistep on ε, with one of two starts."""

from __future__ import annotations

import math
from typing import final

from ...config.choices import SamplingMethod
from ...config.options import Option
from ...config.registries import SAMPLERS
from ...grids.time_grid import TimeGrid
from ...plans.builder import PlanBuilder
from ...plans.linear_form import Form
from ...schedules.path import Level
from ...support.errors import ConfigurationError
from ..base import BaseSampler
from ..integrals import adams
from ..steps import along, first_order, from_noise

__all__ = ["PNDMSampler"]


@final
@SAMPLERS.register(SamplingMethod.PNDM)
class PNDMSampler(BaseSampler):
    """PNDM (Liu et al. 2022, arXiv 2202.09778, eq. 11-14): Adams-Bashforth of order 4 in t on ε.

    Each step is DDIM's with an extrapolated ε. The paper proves second order. On evenly spaced times the weights are
    the paper's; on other times they belong to the polynomial through the actual times.

    Options:
        skip_prk_steps: start with a Heun step (PLMS, N + 1 calls) instead of three Runge-Kutta steps (PRK, N + 9 calls,
            at least 4 steps).

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline
        >>> [DiffusionPipeline(None, "pndm", skip_prk_steps=skip).plan(10).nfe for skip in (True, False)]
        [11, 19]
    """

    order = 2
    space = "epsilon"
    guards = True
    declared_options = {"skip_prk_steps": Option(True)}

    def write(self, build: PlanBuilder, grid: TimeGrid) -> None:
        times = ends(grid)
        runge_kutta = 0 if self.options["skip_prk_steps"] else 3
        if runge_kutta and grid.steps < 4:
            raise ConfigurationError(
                f"the Runge-Kutta start takes 3 of {grid.steps} steps, and no multistep step is left",
                where="num_inference_steps",
                suggestion="take at least 4 steps, or skip_prk_steps=True",
            )
        history: list[tuple[float, Form]] = []  # (time, ε), newest first
        for i, now, after in grid.intervals():
            first = build.predict(now, i)
            x = build.x
            if from_noise(now, after):  # the polynomial cannot use a level without signal: it begins at the next one
                build.advance(first_order(first, after))
                continue
            begun = len(history)
            history = [(now.t, first.epsilon), *history[:3]]
            if begun < runge_kutta:
                self._runge_kutta(build, i, now, after, x, first.epsilon)
            elif begun == 0 and after.sigma > 0.0 and not math.isnan(after.t):  # the model can be evaluated at the end
                euler = along(x, first.epsilon, now, after)
                build.advance(euler)
                second = build.predict(after, i)
                build.settle(after, (along(x, (first.epsilon + second.epsilon) / 2, now, after), euler))
            else:
                used = (history[:k] for k in range(len(history), 0, -1))
                build.settle(after, (along(x, _mean(known, times[i], times[i + 1]), now, after) for known in used))

    def _runge_kutta(self, build: PlanBuilder, i: int, now: Level, after: Level, x: Form, first: Form) -> None:
        """Write one classical Runge-Kutta step in t; each stage is a DDIM step (eq. 9 of the paper)."""
        middle = self.scheduler.level((now.t + after.t) / 2)
        slopes = [first]
        for level in (middle, middle, after):
            build.advance(along(x, slopes[-1], now, level))
            slopes.append(build.predict(level, i).epsilon)
        whole = along(x, (slopes[0] + 2.0 * slopes[1] + 2.0 * slopes[2] + slopes[3]) / 6, now, after)
        build.settle(after, (whole, along(x, first, now, after)))


def _mean(known: list[tuple[float, Form]], start: float, stop: float) -> Form:
    """The mean over a step in t of the polynomial through (time, ε)."""
    terms = [w * e for w, (_, e) in zip(adams([t for t, _ in known], start, stop), known, strict=True)]
    return sum(terms[1:], terms[0])


def ends(grid: TimeGrid) -> list[float]:
    """The times of all levels. The clean end does not have one; it continues the last spacing."""
    times = list(grid.times)
    last = grid.levels[-1].t
    if math.isnan(last):  # the clean end
        last = 2 * times[-1] - times[-2] if len(times) > 1 else times[-1] - 1.0
    return [*times, last]
