"""What a step of a :class:`PlanScheduler` returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

from torch import Tensor

from .program import Program

__all__ = ["PlanSchedulerOutput"]


@final
class PlanSchedulerOutput(Sequence[Tensor]):
    """What a step gives, as an object or as the pair (prev_sample, pred_original_sample).

    Attributes:
        prev_sample: the next state, of the sample's shape and type.
        pred_original_sample: the clean sample that the network predicts, computed when it is asked for.
    """

    __slots__ = ("_call", "_output", "_program", "_x", "prev_sample")

    def __init__(self, prev_sample: Tensor, program: Program, call: int, x: Tensor, output: Tensor) -> None:
        self.prev_sample = prev_sample
        self._program, self._call, self._x, self._output = program, call, x, output

    @property
    def pred_original_sample(self) -> Tensor:
        clean = self._program.clean(self._call, self._x, self._output)
        return clean.to(self.prev_sample.dtype)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        if index == 0:
            return self.prev_sample
        if index == "prev_sample" or index == "pred_original_sample":
            return getattr(self, index)
        return (self.prev_sample, self.pred_original_sample)[index]

    def __iter__(self) -> Iterator[Tensor]:
        yield self.prev_sample
        yield self.pred_original_sample
