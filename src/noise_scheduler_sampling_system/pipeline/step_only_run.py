"""Runs of custom samplers that have only ``step``, by the loop that runs plans."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor

from ..grids.time_grid import TimeGrid
from ..plans.plan import SamplingPlan
from ..running.bound_plan import BoundPlan
from ..running.loop import Noise, PlannedRun, RowState
from ..samplers.base import BaseSampler
from ..samplers.first_order import EulerSampler
from ..support.errors import ConfigurationError, ModelOutputError

logger = logging.getLogger(__name__)

__all__ = ["StepOnlyRun", "levels_of", "stepped"]


@final
@dataclass(frozen=True)
class StepOnlyRun(PlannedRun):
    """The levels of a grid, with a custom sampler's ``step`` between them.

    ``step(model_output, timestep, sample)`` also receives the following, where its signature names them:
    ``next_timestep`` (None before the clean sample), ``step_index``, ``num_inference_steps``, ``noise`` (unit noise
    keyed by seed and step), ``pred_original_sample`` and ``epsilon`` (the model's prediction by the config's
    prediction type, clipped as the config says) and ``learned_variance`` (the model's second half of channels).

    Attributes:
        levels: a bound first-order plan; it holds the levels, and says how the model's output is read.
        sampler: whose ``step`` is called.
        accepts: the extra keywords that ``step`` takes.
    """

    levels: BoundPlan
    sampler: BaseSampler
    accepts: frozenset[str]

    @property
    def plan(self) -> SamplingPlan:  # type: ignore[override]
        return self.levels.plan

    @property
    def split(self) -> bool:  # type: ignore[override]
        return self.levels.split

    @property
    def hides(self) -> tuple[str | None, ...]:  # type: ignore[override]
        return ("output",) * len(self.plan)  # a custom step may hide any value

    @property
    def largest_factor(self) -> float:
        return self.levels.largest_factor

    def clean_sample(self, state: RowState) -> Tensor:
        return self.levels.clean_sample(state)

    def advance(self, state: RowState, output: Tensor, noise: Noise) -> RowState:
        i, x = state.row, state.x
        extra = {name: _OFFERS[name](self, state, output, noise) for name in self.accepts}
        step: Callable[..., Any] = self.sampler.step
        mean = output.chunk(2, dim=1)[0] if self.split else output
        # step may work in-place, and the user may hold x
        result = step(mean, whole(self.plan.time[i]), x.clone(), **extra)
        after = _next_sample(result)
        if not isinstance(after, Tensor) or after.shape != x.shape:
            got = tuple(after.shape) if isinstance(after, Tensor) else type(result).__name__
            raise ModelOutputError(
                f"step() returned {got}",
                where=f"{type(self.sampler).__name__}.step, step {i}",
                suggestion=f"return the next sample, of shape {tuple(x.shape)}, or an object with .prev_sample",
            )
        return RowState(i + 1, after, {})

    def predicted_clean(self, state: RowState, output: Tensor) -> Tensor:
        """The clean sample that the model's output for this state predicts, clipped."""
        return self.levels.clean_sample(state._replace(row=state.row + 1, evaluated_x=state.x, output=output))

    def predicted_noise(self, state: RowState, output: Tensor) -> Tensor:
        """ε, consistent with the clipped clean sample."""
        alpha, sigma = float(self.plan.alpha[state.row]), float(self.plan.sigma[state.row])
        return (state.x - alpha * self.predicted_clean(state, output)) / sigma

    def next_time(self, row: int) -> float | int | None:
        """The time of the next level, or None for the clean sample."""
        return whole(self.plan.time[row + 1]) if row + 1 < len(self.plan) else None


#: The extra keywords of a custom step, and how each is computed.
_OFFERS: dict[str, Callable[[StepOnlyRun, RowState, Tensor, Noise], Any]] = {
    "next_timestep": lambda run, state, output, noise: run.next_time(state.row),
    "step_index": lambda run, state, output, noise: state.row,
    "num_inference_steps": lambda run, state, output, noise: len(run.plan),
    "noise": lambda run, state, output, noise: noise(state.row, 0),
    "pred_original_sample": lambda run, state, output, noise: run.predicted_clean(state, output),
    "epsilon": lambda run, state, output, noise: run.predicted_noise(state, output),
    "learned_variance": lambda run, state, output, noise: output.chunk(2, dim=1)[1] if run.split else None,
}


def _next_sample(result: Any) -> Any:
    """The next sample in the result of a step: a tensor, a tuple that starts with one, a mapping or an object."""
    if isinstance(result, Mapping):
        return result.get("prev_sample")
    if isinstance(result, tuple) and not hasattr(result, "prev_sample"):
        return result[0] if result else None
    return result if isinstance(result, Tensor) else getattr(result, "prev_sample", None)


def stepped(sampler: BaseSampler, levels: BoundPlan) -> StepOnlyRun:
    """The run of a step-only sampler through the levels of a plan.

    Raises:
        ConfigurationError: its ``step`` demands a keyword that the pipeline does not have.
    """
    if type(sampler).step is BaseSampler.step:
        raise ConfigurationError(
            f"{type(sampler).__name__} has neither write() nor step()",
            where=type(sampler).__name__,
            suggestion="override one of them",
        )
    parameters = inspect.signature(sampler.step).parameters
    for name, parameter in list(parameters.items())[3:]:
        required = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if required and name not in _OFFERS:
            raise ConfigurationError(
                f"step() demands {name!r}, which the pipeline does not have",
                where=f"{type(sampler).__name__}.step",
                suggestion=f"give it a default; the pipeline offers {', '.join(sorted(_OFFERS))}",
            )
    accepts = frozenset(_OFFERS.keys() & parameters.keys())
    if levels.clip is not None and not accepts & {"pred_original_sample", "epsilon"}:
        logger.warning(
            "%s.step takes neither pred_original_sample nor epsilon: clipping and thresholding do not act on the "
            "output that it takes", type(sampler).__name__,
        )  # fmt: skip
    return StepOnlyRun(levels, sampler, accepts)


def levels_of(sampler: BaseSampler, grid: TimeGrid) -> SamplingPlan:
    """The levels of a grid as a plan under the sampler's name; its order 0 marks that it holds only levels."""
    return replace(EulerSampler(sampler.scheduler).plan(grid=grid), sampler=type(sampler).__name__, order=0)


def whole(time: float) -> float | int:
    """A time as an int where it is a whole number, so that it can index a table."""
    return int(time) if float(time).is_integer() else float(time)
