"""Callbacks: their check, their call, and the copies that they receive."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, final

import numpy as np
from torch import Tensor

from ..support.errors import ConfigurationError, shown
from .faults import explained
from .results import SamplingStep

__all__ = ["Callback", "Copies", "asks_to_stop", "checked_callback", "refuse_changes"]

Callback = Callable[[SamplingStep], object]
K = TypeVar("K")


@final
class Copies(Mapping[K, Tensor], Generic[K]):
    """Copies of a run's tensors, each made when it is first read; the originals stay unchanged.

    Attributes:
        made: the copies so far.
    """

    def __init__(self, originals: Mapping[K, Tensor]) -> None:
        self._originals, self.made = dict(originals), dict[K, Tensor]()

    @property
    def originals(self) -> Mapping[K, Tensor]:
        """The run's own tensors, for checks that read only shape and type."""
        return MappingProxyType(self._originals)

    def __getitem__(self, key: K) -> Tensor:
        if key not in self.made:
            self.made[key] = self._originals[key].clone()
        return self.made[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._originals)

    def __len__(self) -> int:
        return len(self._originals)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def checked_callback(callback: Any) -> Callback | None:
    """A function of one :class:`SamplingStep`, or None.

    Raises:
        ConfigurationError: the callback is not a function, takes other arguments (diffusers' callbacks do), or is a
            coroutine or a generator, whose call does nothing.
    """
    if callback is None:
        return None
    if not callable(callback) or isinstance(callback, type):
        raise ConfigurationError(
            f"got {shown(callback)}", where="callback", suggestion="give a function of one SamplingStep"
        )
    if inspect.iscoroutinefunction(callback) or inspect.isgeneratorfunction(callback):
        raise ConfigurationError(
            "is a coroutine or a generator, whose call does nothing", where="callback", suggestion="give a function"
        )
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return callback  # type: ignore[no-any-return]
    try:
        signature.bind(None)
    except TypeError as error:
        raise ConfigurationError(
            f"cannot be called with one argument: {error}",
            where="callback",
            why="diffusers' callback(step, timestep, latents) and callback_on_step_end(pipe, step, timestep, kwargs) "
            "are functions of other arguments",
            suggestion="give a function of one SamplingStep: its index, t and x are diffusers' step, timestep, latents",
        ) from None
    return callback  # type: ignore[no-any-return]


def asks_to_stop(callback: Callback, step: SamplingStep) -> bool:
    """Call a callback, and tell whether it ends the run: it returns True or raises StopIteration."""
    try:
        answer = callback(step)
    except StopIteration:
        return True
    except Exception as error:
        explained(error, f"raised by the callback after step {step.index}, t = {step.t:g}, model call {step.nfe}")
        raise
    refuse_changes(step, "callback")
    return isinstance(answer, bool | np.bool_) and bool(answer)


def refuse_changes(step: SamplingStep, where: str) -> None:
    """Raise where the tensors of a step were changed in-place.

    They are copies, so the change has no effect on the run, which its author expects.

    Raises:
        ConfigurationError: a tensor was changed.
    """
    state = step.state
    held = [step.x, state.state.x]
    held += [
        copy for each in (state.state.history, state.memory) if isinstance(each, Copies) for copy in each.made.values()
    ]
    # tensors of inference mode do not count their changes
    if any(tensor._version for tensor in held if not tensor.is_inference()):
        raise ConfigurationError(
            f"the tensors of step {step.index} were changed in-place",
            where=where,
            why="they are copies: the run would go on without the change",
            suggestion="work on step.x.clone(); to change the run itself use guidance, or start again from the changed "
            "state: initial_sample=x, grid=TimeGrid(...)",
        )
