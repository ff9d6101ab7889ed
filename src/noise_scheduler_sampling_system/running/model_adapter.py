"""Any callable as a model: its call, and the tensor in its output."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..models.experts import Experts
from ..support.argument_checks import STATE_TYPES
from ..support.errors import ConfigurationError, ModelOutputError, shown
from ..support.registry import did_you_mean
from .model_attributes import attribute
from .null_text import null_text
from .placement import device_of_parameter, first_float_parameter
from .second_time import SECOND_TIMES, at_two_times, refuse_one_time, refuse_two_times
from .signatures import CallSignature, signatures_of

__all__ = ["ModelAdapter", "map_tensors", "map_values"]

logger = logging.getLogger(__name__)

#: The models that a warning was logged for.
_WARNED: weakref.WeakSet[Any] = weakref.WeakSet()
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply a function to every tensor in nested mappings, lists and tuples."""
    return map_values(function, value, Tensor)


def map_values(function: Callable[[Any], Any], value: Any, kind: type | tuple[type, ...]) -> Any:
    """Apply a function to every value of a type in nested mappings, lists and tuples."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, Tensor):  # the searches below take longer
        return value
    if isinstance(value, dict | Mapping):
        return {key: map_values(function, item, kind) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_values(function, item, kind) for item in value)
    return value


def _has_mode(model: Any) -> bool:
    """Whether training mode can change the output: a module needs parameters, buffers or dropout for that."""
    if not isinstance(model, torch.nn.Module):
        return True
    held = (*model.parameters(), *model.buffers())
    return bool(held) or any(hasattr(part, "p") or "dropout" in type(part).__name__.lower() for part in model.modules())


def _first_time(model: Any) -> bool:
    """Whether no warning was logged for a model yet; a calibration makes many runs of one model."""
    with contextlib.suppress(TypeError):  # it has no weak references, or no hash
        if model in _WARNED:
            return False
        _WARNED.add(model)
    return True


@final
@dataclass(frozen=True)
class ModelAdapter:
    """Calls every kind of model in one way.

    Args:
        model: any callable (x, t, **condition) that returns a tensor, a tuple that starts with one, or an object or
            mapping with ``sample``.
        trains: whether the model is called in order to be trained, so that training mode is meant.
        two_times: whether the run asks at two times. The model is then called as (x, t, r=r, **condition), or with
            the name that its second time has (:data:`~.second_time.SECOND_TIMES`).

    Raises:
        ConfigurationError: the model is not callable.
    """

    model: Callable[..., Any]
    trains: bool = False
    two_times: bool = False
    #: The first one, looked up once for each run, because the search takes as long as a step of a small state.
    _parameter: Tensor | None = field(init=False, repr=False, compare=False)
    #: The two networks of :class:`Experts`; None for every other model.
    _experts: tuple[ModelAdapter, ModelAdapter] | None = field(init=False, repr=False, compare=False)
    #: The signature of the model's own call, not of a function that it wraps; None where it has none.
    _own: CallSignature | None = field(init=False, repr=False, compare=False)
    #: The signature of the network inside its wrappers.
    _network: CallSignature | None = field(init=False, repr=False, compare=False)
    #: (x, times, condition) ↦ what the model returns.
    _call: Callable[[Tensor, Tensor, Mapping[str, Any]], Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.model) or isinstance(self.model, type):
            what = f"the class {self.model.__name__}" if isinstance(self.model, type) else type(self.model).__name__
            raise ConfigurationError(
                f"{what} is not callable as a model",
                where="model",
                suggestion="give a network (an instance, not its class) or a function of (x, t, **condition)",
            )
        experts = None
        if isinstance(self.model, Experts):
            high, low = (ModelAdapter(network, self.trains, self.two_times) for network in self.model.networks)
            experts = (high, low)
        own, network = _signatures(self.model)
        parameter = first_float_parameter(self.model)
        vars(self).update(_parameter=parameter, _experts=experts, _own=own, _network=network)  # the class is frozen
        vars(self).update(_call=self._made_call())
        if (
            experts is None  # each of the two was checked
            and not self.trains
            and getattr(self.model, "training", False)
            and _has_mode(self.model)
            and _first_time(self.model)
        ):
            logger.warning("the model is in training mode (dropout and batch statistics are on); call model.eval()")

    def at(self, time: float | npt.NDArray[np.float64]) -> ModelAdapter:
        """The network that is called at the time of a row, or at the times of its frames: itself, unless there are two.

        Raises:
            ConfigurationError: frames of one row belong to different networks.
        """
        if self._experts is None:
            return self
        high, low = self._experts
        return high if self.model.is_high(time) else low  # type: ignore[attr-defined]

    def of_rows(self, times: npt.NDArray[np.float64]) -> tuple[ModelAdapter, ...] | None:
        """The network of each row of a plan, for a model of two networks; None for other models.

        Args:
            times: of the rows, shape (M,) or (M, T).
        """
        return None if self._experts is None else tuple(self.at(time) for time in times)

    @property
    def device(self) -> torch.device | None:
        """The device of the model, as :func:`.placement.device_of`."""
        return None if self._parameter is None else device_of_parameter(self.model, self._parameter)

    @property
    def dtype(self) -> torch.dtype | None:
        """The floating-point type of the model's parameters, if it has any."""
        parameter = self._parameter
        # the type of quantised weights is not the type of the model's input
        return None if parameter is None or parameter.element_size() < 2 else parameter.dtype

    def __call__(self, x: Tensor, t: Tensor, condition: Mapping[str, Any]) -> Tensor:
        """The network's raw output for states x, shape (B, ...).

        Args:
            x: the states.
            t: the times, shape (B,); (B, 2) where the run asks at two times, t and r; (B, T) for T frames.
            condition: keywords of the network.

        Raises:
            ModelOutputError: the output holds no tensor, or one of another batch, type, layout or device.
        """
        if self._experts is not None:
            high, low = self._experts
            is_high = self.model.is_high(t[:, 0] if self.two_times else t)  # type: ignore[attr-defined]
            return (high if is_high else low)(x, t, condition)
        answer = self._call(x, t, condition)
        output = _tensor_in(answer)
        if not isinstance(output, Tensor):
            raise ModelOutputError(
                f"the model returned {type(answer).__name__}",
                where="model",
                suggestion="return a tensor, a tuple that starts with one, or an object with .sample",
            )
        if output.shape[:1] != x.shape[:1]:
            raise ModelOutputError(
                f"the model returned shape {tuple(output.shape)} for a batch of {len(x)}",
                where="model",
                why=f"it was called with x of shape {tuple(x.shape)}",
                suggestion="return one prediction for each entry of the batch",
            )
        if output.dtype not in STATE_TYPES or output.layout is not torch.strided or output.device != x.device:
            raise ModelOutputError(
                f"the model returned a tensor of {output.dtype}, {output.layout}, on {output.device}",
                where="model",
                why=f"the state is of {x.dtype}, on {x.device}",
                suggestion="return real floating-point numbers in a dense tensor on the state's device",
            )
        return output

    def unchecked(self) -> Callable[[Tensor, Tensor, Mapping[str, Any]], Tensor]:
        """(x, t, condition) ↦ the network's raw output, without a check, for captured runs."""
        call = self._call
        return lambda x, t, condition: _tensor_in(call(x, t, condition))

    def _made_call(self) -> Callable[[Tensor, Tensor, Mapping[str, Any]], Any]:
        model = self.model
        if self.two_times:
            return at_two_times(model, self._second_time or SECOND_TIMES[0], time_by_name=self._time_by_name)
        if self._time_by_name:
            return lambda x, t, condition: model(x, timestep=t, **condition)
        return lambda x, t, condition: model(x, t, **condition)

    @functools.cached_property
    def _second_time(self) -> str | None:
        """The name of the model's second time, if it has one."""
        return next((name for name in SECOND_TIMES if name in self._parameters), None)

    def refuse_call(self, condition: Mapping[str, Any], where: str) -> None:
        """Raise where the model's signature does not accept this condition.

        Args:
            condition: keywords of the call.
            where: the place of the error.

        Raises:
            ConfigurationError: the model does not take (x, t), does not take these keywords, or requires others; or
                it has another number of times than the run.
        """
        for expert in self._experts or ():
            expert.refuse_call(condition, where)
        known = self._own
        if known is None or (self.two_times and self._experts is not None):
            return
        times = (self._second_time,) if self.two_times else ()
        call = (times, self._time_by_name, *condition)
        known.accepted.get(call, lambda: self._fits(known.signature, condition, where))

    def _fits(self, signature: inspect.Signature, condition: Mapping[str, Any], where: str) -> bool:
        """True where a signature accepts a condition; else an error. Of the condition, only the names count."""
        if self.two_times:
            refuse_one_time(self.model, self._second_time, condition, where)
            condition = {**condition, str(self._second_time): None}
        else:
            refuse_two_times(self.model, signature, condition)
        try:
            if self._time_by_name:
                signature.bind(None, timestep=None, **condition)
            else:
                signature.bind(None, None, **condition)
        except TypeError as error:
            self._refuse_no_time(signature)
            known = [name for name, p in signature.parameters.items() if p.kind in _BY_NAME]
            first = set(known[:1] if self._time_by_name else known[:2]) | ({"timestep"} & {*known})
            odd = next((name for name in condition if name not in known or name in first), None)
            raise ConfigurationError(
                f"the model cannot be called with it: {error}",
                where=where if odd is None else f"{where}[{odd!r}]",
                why="the run gives x and t" if odd in first else "",
                suggestion="give what the model requires in condition={...}"
                if odd is None
                else did_you_mean(odd, [name for name in known if name not in first]),
            ) from None
        return True

    def _refuse_no_time(self, signature: inspect.Signature) -> None:
        """Raise where the signature does not accept x and t, whatever the condition is."""
        try:
            signature.bind_partial(*((None,) if self._time_by_name else (None, None)))
        except TypeError as error:
            raise ConfigurationError(
                f"{shown(self.model)} cannot be called as model(x, t): {error}",
                where="model",
                suggestion="give a network or a function of (x, t, **condition)",
            ) from None

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return {} if self._network is None else self._network.signature.parameters

    @property
    def _time_by_name(self) -> bool:
        return self._network is not None and self._network.time_by_name

    def completed(self, condition: Mapping[str, Any], batch: int, device: torch.device) -> dict[str, Any]:
        """The condition, with zeros for text conditioning that a diffusers model requires and the user left out.

        Args:
            condition: the user's.
            batch: B.
            device: of the zeros.
        """
        if self._experts is not None:
            return self._experts[0].completed(condition, batch, device)
        given = dict(condition)
        if attribute(self.model, "config") is None:
            return given
        zeros = null_text(self.model, self._parameters, batch)
        missing = {name: value for name, value in zeros.items() if name not in given}
        if missing:
            logger.warning(
                "the model requires %s and none is given: zeros of the right shape are used; "
                "give condition={...} with encoded prompts for guided samples",
                ", ".join(missing),
            )
            dtype = self.dtype or torch.float32
            given |= map_tensors(lambda v: v.to(device, dtype), missing)
        return given


def _signatures(model: Any) -> tuple[CallSignature | None, CallSignature | None]:
    """The signature of a model's own call, and that of the network inside its wrappers."""
    is_module, network = isinstance(model, torch.nn.Module), model
    for wrapped in ("_orig_mod", "module"):  # torch.compile, DataParallel
        network = attribute(network, wrapped, network)
    plain = is_module and type(model).__call__ is torch.nn.Module.__call__ and not model._forward_pre_hooks
    own = signatures_of(model.forward if plain else model)  # a hook may change the arguments of forward
    if network is model and plain is is_module:
        return own
    return own.own, signatures_of(network.forward if isinstance(network, torch.nn.Module) else network).wrapped


def _tensor_in(output: Any) -> Any:
    """The tensor in what a model returned; what holds none is returned unchanged."""
    for _ in range(2):  # an output object may hold a tuple
        if isinstance(output, Tensor):
            return output
        if isinstance(output, tuple | list) and output:
            output = output[0]
        elif isinstance(output, Mapping) and "sample" in output:
            output = output["sample"]
        elif hasattr(output, "sample"):
            output = output.sample
    return output
