"""Loops that a user writes: the rows of a plan, applied one at a time to what the network returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from ..running.bound_plan import BoundPlan
from ..running.loop import Branches, RowState
from ..running.noise import NoiseSource, resolve_keys
from ..running.noise_keys import Keys
from ..support.errors import ConfigurationError
from ..support.values import ByValue

__all__ = ["SamplerOutput", "SamplerState", "apply_row"]


@final
@dataclass(frozen=True)
class SamplerState:
    """The state of a hand-written loop: the plan, the state of the run, and the noise that later rows read again."""

    bound: BoundPlan
    run: RowState
    drawn: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)


@final
@dataclass(frozen=True, eq=False)
class SamplerOutput(ByValue):
    """What one call of :meth:`BaseSampler.step` returns.

    Attributes:
        prev_sample: the next state, one model call closer to the clean sample.
        pred_original_sample: the clean sample that the model output predicts, clipped.
        state: the argument of the next call; None for a custom sampler without a state.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None
    state: SamplerState | None = None


def apply_row(
    state: SamplerState,
    model_output: Tensor | Branches,
    time: float,
    sample: Tensor,
    *,
    noise: Tensor | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    sampler: str,
) -> SamplerOutput:
    """Apply the next row of a plan; see :meth:`BaseSampler.step`, whose arguments these are.

    Args:
        sampler: the name of the sampler's class, for messages.

    Raises:
        ConfigurationError: the plan has no further row, or its next row is at another time; a tensor is given where
            the plan needs two branches.
    """
    plan, row = state.bound.plan, state.run.row
    if row >= len(plan):
        raise ConfigurationError(
            f"all {len(plan)} rows of the plan are done", where="state", suggestion="start() a new run"
        )
    if time != float(plan.time[row]):
        raise ConfigurationError(
            f"model call {row + 1} of the plan is at t = {plan.time[row]:g}, not {time:g}",
            where="timestep",
            suggestion="loop over plan.time, one step a row",
        )
    if state.bound.branches and not isinstance(model_output, Branches):
        raise ConfigurationError(
            f"{sampler} needs the unconditional prediction beside the guided one",
            where="model_output",
            suggestion="give Branches(guided, unconditional)",
        )
    drawn = dict(state.drawn)

    def draw(step: int, stage: int) -> Tensor:
        if (step, stage) not in drawn:
            keys = resolve_keys(None, generator, sample.shape[0]) if noise is None else Keys.of(())
            source = NoiseSource(keys, tuple(sample.shape[1:]), sample.dtype, sample.device)
            drawn[step, stage] = source(step, stage) if noise is None else noise
        return drawn[step, stage]

    # the history may keep the output, and the caller may reuse its memory
    output = model_output if not plan.history else _copied(model_output)
    after = state.bound.advance(RowState(row, sample, state.run.history), output, draw)
    clean = state.bound.clean_sample(after._replace(evaluated_x=sample, output=model_output))  # type: ignore[arg-type]
    return SamplerOutput(after.x, clean, SamplerState(state.bound, after, drawn if plan.c.shape[1] > 1 else {}))


def _copied(output: Tensor | Branches) -> Tensor | Branches:
    return Branches(*(part.clone() for part in output)) if isinstance(output, Branches) else output.clone()
