"""Custom samplers that have only ``step``, run by the same loop as plans."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor

from .errors import ConfigurationError, ModelOutputError
from .grids import TimeGrid
from .plan import SamplingPlan
from .run import BoundPlan, Noise, Runnable, State
from .samplers.base import BaseSampler
from .samplers.first_order import EulerSampler

__all__ = ["SteppedSampler", "levels_of", "stepped"]


@final
@dataclass(frozen=True)
class SteppedSampler(Runnable):
    """A grid's levels, with a custom sampler's ``step`` between them.

    ``step(model_output, timestep, sample)`` also receives, where its signature names them:
    ``next_timestep`` (None before the clean sample), ``step_index``, ``num_inference_steps``
    and ``noise`` (unit noise keyed by seed and step).

    Attributes:
        levels: a bound first-order plan: the levels, and how to read the model's output.
        sampler: whose ``step`` is called.
        accepts: the extra keywords that it takes.
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
        return ("output",) * self.plan.nfe  # a custom step may do anything

    def clean_sample(self, state: State) -> Tensor:
        return self.levels.clean_sample(state)

    def advance(self, state: State, output: Tensor, noise: Noise) -> State:
        i, times = state.row, self.plan.time
        is_last = i + 1 == self.plan.nfe
        offers: dict[str, Callable[[], Any]] = {
            "next_timestep": lambda: None if is_last else whole(times[i + 1]),
            "step_index": lambda: i,
            "num_inference_steps": lambda: self.plan.nfe,
            "noise": lambda: noise(i, 0),
        }
        extra = {name: offers[name]() for name in self.accepts}
        step: Callable[..., Any] = self.sampler.step
        result = step(output, whole(times[i]), state.x, **extra)
        after = result if isinstance(result, Tensor) else getattr(result, "prev_sample", None)
        if not isinstance(after, Tensor) or after.shape != state.x.shape:
            got = tuple(after.shape) if isinstance(after, Tensor) else type(result).__name__
            raise ModelOutputError(
                f"step() returned {got}",
                where=f"{type(self.sampler).__name__}.step, step {i}",
                suggestion=f"return the next sample, a tensor of shape {tuple(state.x.shape)}, or an object with "
                ".prev_sample",
            )
        return State(i + 1, after, {})


def stepped(sampler: BaseSampler, levels: BoundPlan) -> SteppedSampler:
    """Prepare a step-only sampler for the loop through the levels of a plan.

    Raises:
        ConfigurationError: its ``step`` demands something that the loop does not have.
    """
    if type(sampler).step is BaseSampler.step:
        raise ConfigurationError(
            f"{type(sampler).__name__} has neither write() nor step()",
            where=type(sampler).__name__,
            suggestion="override one of them",
        )
    parameters = inspect.signature(sampler.step).parameters
    offered = {"next_timestep", "step_index", "num_inference_steps", "noise"}
    for name, parameter in list(parameters.items())[3:]:
        required = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if required and name not in offered:
            raise ConfigurationError(
                f"step() demands {name!r}, which the pipeline does not have",
                where=f"{type(sampler).__name__}.step",
                suggestion=f"give it a default; the pipeline offers {', '.join(sorted(offered))}",
            )
    return SteppedSampler(levels, sampler, frozenset(offered & set(parameters)))


def levels_of(sampler: BaseSampler, grid: TimeGrid) -> SamplingPlan:
    """The levels of a grid as a plan (of first order) in the sampler's name."""
    return replace(EulerSampler(sampler.scheduler).plan(grid=grid), sampler=type(sampler).__name__)


def whole(time: float) -> float | int:
    """A time as an int where it is a whole number, as tables indexed by it need."""
    return int(time) if float(time).is_integer() else float(time)
