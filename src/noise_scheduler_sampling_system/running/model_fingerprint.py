"""Telling a model from another, cheaply: by its class, its parameters and their shapes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from .stated_prediction import unwrapped

__all__ = ["fingerprint", "refuse_other_model"]

logger = logging.getLogger(__name__)

#: Of so many parameters, spread evenly over a network, so many entries are read: enough to tell other weights.
_PARAMETERS, _ENTRIES = 64, 4
_DEPTH = 3


def fingerprint(model: Any) -> str:
    """A short name of a model: its class, its number of parameters, and a hash.

    Of a network: names, shapes, types and a sample of the values of its parameters, whatever the device. Of a function:
    what it does, and the functions and networks that it calls. Of another object: the numbers, names, functions
    and networks among its public attributes. A model may say its own, as an attribute ``fingerprint``. What a model
    changes while it runs (counters, caches, buffers) plays no part.
    """
    digest = hashlib.sha256()
    for entry in _content(model, _DEPTH):
        digest.update(entry + b"\n")
    inner = unwrapped(model)
    count = sum(p.numel() for p in inner.parameters()) if isinstance(inner, torch.nn.Module) else 0
    size = f", {count:,} parameters" if count else ""
    return f"{_name(inner)}{size}, {digest.hexdigest()[:16]}"


def refuse_other_model(saved: str | None, model: Any, path: NoisePath) -> None:
    """Raise unless a stopped run's model is the one that is given; ``None`` is the embedded one of digits.

    Raises:
        ConfigurationError: another model, or it was forgotten.
    """
    if saved is None:  # which older files do not say
        if model is None:
            logger.warning("the state does not say which model made it, and none is given: the digits are used")
        return
    if model is None:
        from ..models import DigitsModel

        here = fingerprint(DigitsModel(path))
    else:
        here = fingerprint(model)
    if here != saved:
        raise ConfigurationError(
            "is missing" if model is None else f"the run was made with another model, {saved}; this is {here}",
            where="model",
            why=f"the run was made with {saved}" if model is None else "its class, parameters or their values differ",
            suggestion="give the model that the run was made with, beside resume; to go on with another on purpose, "
            "dataclasses.replace(state, model=None)",
        )


def _name(thing: Any) -> str:
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def _content(thing: Any, depth: int) -> Iterator[bytes]:
    """What tells a model from another, in an order that is the same in every process."""
    if isinstance(thing, functools.partial):
        yield from _content(thing.func, depth)
        if thing.args or thing.keywords:
            yield repr((_plain(thing.args), _plain(thing.keywords))).encode()
        return
    thing = unwrapped(thing)
    yield _name(thing).encode()
    own = getattr(thing, "fingerprint", None)
    if isinstance(own, str):
        yield own.encode()
    elif isinstance(thing, torch.nn.Module):
        yield from _of_network(thing)
    elif isinstance(getattr(thing, "__code__", None), CodeType):
        yield from _of_function(thing, depth)
    if not isinstance(own, str) and not isinstance(thing, type):
        for name, value in sorted(getattr(thing, "__dict__", {}).items()):
            if not name.startswith("_"):
                yield from _of_attribute(name, value, depth)
        if hasattr(thing, "__self__") and depth > 0:  # a bound method
            yield from _content(thing.__self__, depth - 1)


def _of_network(network: torch.nn.Module) -> Iterator[bytes]:
    parameters = list(network.named_parameters())
    told = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in (*parameters, *network.named_buffers())]
    yield repr(told).encode()
    real = [p.detach() for _, p in parameters if p.numel() and p.device.type != "meta"]
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in real[:: -(-len(real) // _PARAMETERS) or 1]:
        by_device.setdefault(tensor.device, []).append(_entries(tensor))
    for values in by_device.values():  # one read from each device
        yield torch.cat(values).cpu().numpy().tobytes()


def _entries(tensor: Tensor) -> Tensor:
    """A few of its values, from the middle row, without a copy of the rest."""
    while tensor.ndim > 1:
        tensor = tensor[len(tensor) // 2]
    flat = tensor.reshape(-1)
    return flat[:: -(-len(flat) // _ENTRIES)].to(torch.float32)


def _of_function(function: Any, depth: int) -> Iterator[bytes]:
    code: CodeType = function.__code__
    yield hashlib.sha256(code.co_code).digest()
    yield repr([value for value in code.co_consts if isinstance(value, int | float | str)]).encode()
    yield repr((_plain(function.__defaults__ or ()), _plain(function.__kwdefaults__ or {}), code.co_names)).encode()
    around = {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not bound yet
            around[name] = cell.cell_contents
    for name, value in sorted(around.items()):
        yield from _of_attribute(name, value, depth)


def _of_attribute(name: str, value: Any, depth: int) -> Iterator[bytes]:
    """Numbers with a fraction, names, and what can be called; whole numbers may be counters."""
    if isinstance(value, float | str):
        yield f"{name}={value!r}".encode()
    elif callable(value) and not isinstance(value, type) and depth > 0:
        yield name.encode()
        yield from _content(value, depth - 1)


def _plain(value: Any) -> Any:
    """Numbers and names as they are, tensors as their shapes, and others as their kind: without addresses."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.tolist()}" if value.numel() <= _ENTRIES else f"{tuple(value.shape)}"
    return value if isinstance(value, bool | int | float | str | None) else type(value).__qualname__
