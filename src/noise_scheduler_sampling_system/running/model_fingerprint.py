"""A short name for a model, from its class and a sample of its parameters."""

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

#: The number of parameters that are read, spread evenly over a network, and of entries in each: other weights differ.
_PARAMETERS, _ENTRIES = 64, 4
#: How deep the functions that a model calls are followed.
_DEPTH = 3


def fingerprint(model: Any) -> str:
    """A short name of a model: its class, its number of parameters, and a hash.

    The hash of a network covers the names, shapes, types and a sample of the values of its parameters, on every device
    alike. That of a function covers its code, and the functions and networks that it calls. That of another object
    covers the numbers, texts, functions and networks among its public attributes. An attribute ``fingerprint`` of the
    model replaces these. Counters, caches and the values of buffers do not count, because a run may change them.
    """
    digest = hashlib.sha256()
    for entry in _content(model, _DEPTH):
        digest.update(entry + b"\n")
    inner = unwrapped(model)
    count = sum(p.numel() for p in inner.parameters()) if isinstance(inner, torch.nn.Module) else 0
    size = f", {count:,} parameters" if count else ""
    return f"{_name(inner)}{size}, {digest.hexdigest()[:16]}"


def refuse_other_model(saved: str | None, model: Any, path: NoisePath) -> None:
    """Raise where a run is resumed with another model.

    Args:
        saved: the fingerprint of the model that made the state; None in older files.
        model: the model to go on with; None is the embedded model of digits.
        path: for the embedded model.

    Raises:
        ConfigurationError: the models differ, or the model was left out.
    """
    if saved is None:
        if model is None:
            logger.warning("the state does not name the model that made it, and none is given: the digits are used")
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
    """The bytes that are hashed, in an order that is the same in every process."""
    if isinstance(thing, functools.partial):
        yield from _content(thing.func, depth)
        if thing.args or thing.keywords:
            yield repr((_portable(thing.args), _portable(thing.keywords))).encode()
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
    """A few values of a tensor, from the middle of every dimension, without a copy of the rest."""
    while tensor.ndim > 1:
        tensor = tensor[len(tensor) // 2]
    flat = tensor.reshape(-1)
    return flat[:: -(-len(flat) // _ENTRIES)].to(torch.float32)


def _of_function(function: Any, depth: int) -> Iterator[bytes]:
    code: CodeType = function.__code__
    yield hashlib.sha256(code.co_code).digest()
    yield repr([value for value in code.co_consts if isinstance(value, int | float | str)]).encode()
    yield repr(
        (
            _portable(function.__defaults__ or ()),
            _portable(function.__kwdefaults__ or {}),
            code.co_names,
        )
    ).encode()
    around = {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # the cell is still empty
            around[name] = cell.cell_contents
    for name, value in sorted(around.items()):
        yield from _of_attribute(name, value, depth)


def _of_attribute(name: str, value: Any, depth: int) -> Iterator[bytes]:
    """The bytes of an attribute that is a float, a text or callable; whole numbers may be counters."""
    if isinstance(value, float | str):
        yield f"{name}={value!r}".encode()
    elif callable(value) and not isinstance(value, type) and depth > 0:
        yield name.encode()
        yield from _content(value, depth - 1)


def _portable(value: Any) -> Any:
    """A value whose text is the same in every process: tensors as shapes, other objects as the name of their class."""
    if isinstance(value, Mapping):
        return {str(key): _portable(item) for key, item in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value]
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.tolist()}" if value.numel() <= _ENTRIES else f"{tuple(value.shape)}"
    return value if isinstance(value, bool | int | float | str | None) else type(value).__qualname__
