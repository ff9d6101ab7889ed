"""The faults of a run: their exceptions, and the checks that find them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, final

import torch
from torch import Tensor

from ..plans.base import Plan
from ..support.errors import ModelOutputError, NumericsError

__all__ = [
    "FiniteWatch", "ModelStoppedError", "OutputReusedError", "StepControlError", "changed_input", "explained",
    "is_finite", "left_range", "place_of_row", "refuse_not_finite", "refuse_wrong_shape",
]  # fmt: skip

#: The types that are added up in themselves.
_WIDE: Final = (torch.float32, torch.float64)


class OutputReusedError(Exception):
    """The model returns the same memory at every call, so the run must copy its outputs."""


class ModelStoppedError(Exception):
    """The model raised StopIteration, which Python would turn into a RuntimeError inside a generator.

    Args:
        error: what the model raised.
    """

    def __init__(self, error: StopIteration) -> None:
        super().__init__(error)
        self.error = error


class StepControlError(NumericsError):
    """Adaptive steps did not reach the end, and another run would not either."""


def explained(error: BaseException, note: str) -> None:
    """Add a note to an exception of foreign code, which is then raised unchanged."""
    if hasattr(error, "add_note") and note not in getattr(error, "__notes__", ()):  # from Python 3.11 on
        error.add_note(note)


def place_of_row(plan: Plan, i: int) -> str:
    """A row as errors name it: its step, t, σ and model call."""
    call = f"model call {plan.calls_before(i) + 1} of {plan.nfe}" if plan.asked[i] else "no model call"
    t, _, sigma = plan.level(i)
    return f"step {plan.step[i]}, t = {t:g}, σ = {sigma:.4g} ({call})"


@final
@dataclass
class FiniteWatch:
    """Sums that stay on the device and are read once; a sum is finite only if every entry is."""

    _sums: list[Tensor] = field(default_factory=list)

    def note(self, value: Tensor) -> None:
        """Add a tensor, without a read from the device."""
        self._sums.append(_sum(value))

    def all_finite(self, last: Tensor) -> bool:
        """Whether every tensor was finite; reads from the device.

        Args:
            last: the tensor that was noted last. Where it is the only one, its entries are checked too.
        """
        if len(self._sums) == 1:
            return math.isfinite(self._sums[0].item()) or bool(torch.isfinite(last.detach()).all())
        return bool(torch.isfinite(torch.stack([each.float() for each in self._sums])).all())


def _sum(value: Tensor) -> Tensor:
    """The sum, in float32 at least, which is many times faster than a check of each entry."""
    value = value.detach() if value.requires_grad else value
    return value.sum() if value.dtype in _WIDE else value.sum(dtype=torch.float32)


def is_finite(value: Tensor) -> bool:
    """Whether every entry is finite; reads from the device."""
    # finite entries may add up to infinity; only then is each one checked
    return math.isfinite(_sum(value).item()) or bool(torch.isfinite(value.detach()).all())


def refuse_wrong_shape(output: Tensor, x: Tensor, plan: Plan, i: int, *, split: bool) -> None:
    """Raise where a model's output does not have the shape of its input.

    Args:
        output: of the model.
        x: its input.
        plan: of the run.
        i: the row.
        split: whether the output has a variance in a second half of channels.

    Raises:
        ModelOutputError: it has another shape.
    """
    expected = list(x.shape)
    if split:
        expected[1] *= 2
    if list(output.shape) == expected:
        return
    doubled = output.ndim == x.ndim and x.ndim > 1 and output.shape[1] == 2 * x.shape[1]
    raise ModelOutputError(
        f"the model returned shape {tuple(output.shape)}, expected {tuple(expected)}",
        where=place_of_row(plan, i),
        why="it seems to predict a variance too" if doubled else "",
        suggestion="set variance_type='learned_range'"
        if doubled
        else "return the prediction for every entry of x (or an object with .sample)",
    )


def refuse_not_finite(output: Tensor, plan: Plan, i: int) -> None:
    """Raise where a model's output holds NaN or Inf; reads from the device.

    Raises:
        ModelOutputError: with the number of such entries, and the samples that they are in.
    """
    if is_finite(output):
        return
    bad = ~torch.isfinite(output)
    samples = bad.flatten(1).any(dim=1).nonzero().flatten().tolist()
    raise ModelOutputError(
        f"the model returned NaN or Inf in {int(bad.sum())} of {output.numel()} entries (samples {samples[:8]})",
        where=place_of_row(plan, i),
        why="a network in half precision overflows easily; an untrained one may return anything",
        suggestion="run the model in float32 or bfloat16, check its inputs, or lower the guidance scale",
    )


def changed_input(where: str) -> ModelOutputError:
    """The error of a model that changed its input.

    Args:
        where: the model call.
    """
    return ModelOutputError(
        "the model changed its input in-place",
        where=where,
        why="the sampler still needs that state",
        suggestion="clone x at the top of the model's forward, or avoid operations that end in _",
    )


def left_range(plan: Plan, i: int, dtype: torch.dtype) -> NumericsError:
    """The error of a row whose model output is finite and whose next state is not.

    Args:
        plan: of the run.
        i: the row.
        dtype: of the state.
    """
    return NumericsError(
        f"the state after {place_of_row(plan, i)} is not finite, though the model's output is",
        where=place_of_row(plan, i),
        why=f"values left the range of {dtype}",
        suggestion="run with dtype=torch.float32, or clip the predicted clean sample",
    )
