"""What a step of a :class:`PlanScheduler` returns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import ItemsView, Iterator, Sequence, ValuesView
from typing import Any, final

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from .program import Program

__all__ = ["Later", "PlanSchedulerOutput", "StepTuple"]

_CLEAN = "pred_original_sample"


@final
class Later:
    """The clean sample that a network predicted in a model call, computed when it is asked for.

    Args:
        program, call: what was followed, and how far.
        x, output: the state that the network was asked about, and its answer.
        kind: of the state that is handed out.
    """

    __slots__ = ("_call", "_kind", "_output", "_program", "_x")

    def __init__(self, program: Program, call: int, x: Tensor, output: Tensor, kind: torch.dtype) -> None:
        self._program, self._call, self._x, self._output, self._kind = program, call, x, output, kind

    def __call__(self, name: str) -> Tensor:
        """The value of this name, of the state's type.

        Args:
            name: as diffusers' classes call what they return beside the next state. That of LCM and TCD is the
                state before its noise is added.
        """
        program = self._program
        unnoised = name != _CLEAN and program.plan.sampler in ("lcm", "tcd")
        made = (program.unnoised if unnoised else program.clean)(self._call, self._x, self._output)
        return made.to(self._kind)


# its fields are those of each class of diffusers: there is nothing for a dataclass to generate
class PlanSchedulerOutput(SchedulerOutput):
    """What a step gives, with the keys that the scheduler's own class gives.

    Attributes:
        prev_sample: the next state, of the sample's shape and type.
        pred_original_sample: the clean sample that the network predicts, computed when it is asked for; also where
            the class has no such key.

    Args:
        prev_sample: the next state.
        later: makes the other values, by their names.
        names: of the other keys.
        values: other keys and their values.
    """

    def __init__(
        self, prev_sample: Tensor, later: Later | None = None, names: Sequence[str] = (), **values: Tensor
    ) -> None:  # fmt: skip
        OrderedDict.__init__(self)
        self.__dict__["_later"] = later
        for name in names:
            OrderedDict.__setitem__(self, name, None)
        for name, value in {"prev_sample": prev_sample, **values}.items():
            self[name] = value
        if names:
            OrderedDict.move_to_end(self, "prev_sample", last=False)

    def __getattr__(self, name: str) -> Any:
        later = self.__dict__.get("_later")
        if later is None or not (name == _CLEAN or OrderedDict.__contains__(self, name)):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = later(name)
        if name in self:
            self[name] = value
        else:
            self.__dict__[name] = value
        return value

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self and key != _CLEAN:
                raise KeyError(key)
            return getattr(self, key)
        if key == 0:
            return self.prev_sample
        if key == 1 and len(self) == 1:
            return getattr(self, _CLEAN)
        return self.to_tuple()[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - this is that method

    def items(self) -> Any:
        return ItemsView(self)

    def values(self) -> Any:
        return ValuesView(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (dict(self.items()),)


def _again(values: dict[str, Any]) -> PlanSchedulerOutput:
    return PlanSchedulerOutput(**values)


@final
class StepTuple(tuple[Tensor, Tensor]):
    """The pair (next state, what the class returns beside it); the latter is computed when it is asked for.

    Most pipelines take the first and drop the rest.
    """

    _later: Later
    _name: str

    @classmethod
    def of(cls, after: Tensor, later: Later, name: str) -> StepTuple:
        """A pair.

        Args:
            after: the next state.
            later, name: what makes the other value, and what it is called.
        """
        made = tuple.__new__(cls, (after, after))
        made._later, made._name = later, name
        return made

    def __getitem__(self, index: Any) -> Any:
        if index == 0 or index == -2:
            return tuple.__getitem__(self, 0)
        return tuple(self)[index]

    def __iter__(self) -> Iterator[Tensor]:
        yield tuple.__getitem__(self, 0)
        yield self._later(self._name)

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (list(self),)
