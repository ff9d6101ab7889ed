"""What a step of a :class:`PlanScheduler` returns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import ItemsView, Iterator, Sequence, ValuesView
from typing import Any, final

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from .call_plan import CallPlan

__all__ = ["LazyPrediction", "PlanSchedulerOutput", "StepTuple"]

_CLEAN = "pred_original_sample"


@final
class LazyPrediction:
    """The clean sample that a network predicted in a model call, computed on demand.

    Args:
        plan, call: the plan of the run, and the number of the call.
        x, output: the state, and the network's output for it.
        dtype: of the state that the step returns.
    """

    __slots__ = ("_call", "_dtype", "_output", "_plan", "_x")

    def __init__(self, plan: CallPlan, call: int, x: Tensor, output: Tensor, dtype: torch.dtype) -> None:
        self._plan, self._call, self._x, self._output, self._dtype = plan, call, x, output, dtype

    def __call__(self, name: str) -> Tensor:
        """The value that diffusers' classes return under this name, in the state's dtype.

        LCM and TCD return, under another name than the clean sample's, the state before its noise is added.
        """
        plan = self._plan
        noiseless = name != _CLEAN and plan.plan.sampler in ("lcm", "tcd")
        made = (plan.without_noise if noiseless else plan.clean_sample)(self._call, self._x, self._output)
        return made.to(self._dtype)


# not a dataclass, as diffusers' outputs are: its fields differ with the class that the scheduler replaces
@final
class PlanSchedulerOutput(SchedulerOutput):
    """The result of a step, with the keys of the class that the scheduler replaces.

    Attributes:
        prev_sample: the next state, of the sample's shape and dtype.
        pred_original_sample: the clean sample that the network predicts, computed on demand. It is there even if the
            class does not have such a key.

    Args:
        prev_sample: the next state.
        prediction: computes the other values by their names.
        names: the other keys.
        values: further keys and their values.
    """

    def __init__(
        self, prev_sample: Tensor, prediction: LazyPrediction | None = None, names: Sequence[str] = (), **values: Tensor
    ) -> None:  # fmt: skip
        OrderedDict.__init__(self)
        self.__dict__["_prediction"] = prediction
        for name in names:
            OrderedDict.__setitem__(self, name, None)
        for name, value in {"prev_sample": prev_sample, **values}.items():
            self[name] = value
        if names:
            OrderedDict.move_to_end(self, "prev_sample", last=False)

    def __getattr__(self, name: str) -> Any:
        prediction = self.__dict__.get("_prediction")
        if prediction is None or not (name == _CLEAN or OrderedDict.__contains__(self, name)):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = prediction(name)
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
    """Unpickles; pickles of version 1.3 hold this name."""
    return PlanSchedulerOutput(**values)


@final
class StepTuple(tuple[Tensor, Tensor]):
    """The pair (next state, what the class returns beside it), the second computed on demand.

    Most pipelines use only the first.
    """

    _prediction: LazyPrediction
    _name: str

    @classmethod
    def of(cls, after: Tensor, prediction: LazyPrediction, name: str) -> StepTuple:
        """A pair.

        Args:
            after: the next state.
            prediction, name: what computes the second value, and the name of that value.
        """
        made = tuple.__new__(cls, (after, after))
        made._prediction, made._name = prediction, name
        return made

    def __getitem__(self, index: Any) -> Any:
        if index == 0 or index == -2:
            return tuple.__getitem__(self, 0)
        return tuple(self)[index]

    def __iter__(self) -> Iterator[Tensor]:
        yield tuple.__getitem__(self, 0)
        yield self._prediction(self._name)

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (list(self),)
