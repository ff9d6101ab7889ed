"""What a calibration was of, as plain data: for its provenance, and to tell its checkpoint from another's."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..guidance.base import Guidance

__all__ = ["described", "fingerprint", "guidance_named"]


def fingerprint(model: Any) -> str:
    """A short name of a model: its class, and a hash of its weights, or else of the numbers and tensors it holds.

    Wrappers are looked into: attributes, bound methods, ``functools.partial``, and what a function closes over.
    """
    if model is None:
        return "embedded digits"
    kind = type(model) if not hasattr(model, "__qualname__") else model
    name = f"{kind.__module__}.{kind.__qualname__}"
    digest = hashlib.sha256()
    for entry in _held(model, 3):
        digest.update(entry)
    return f"{name} {digest.hexdigest()[:16]}"


def _held(thing: Any, depth: int) -> Iterator[bytes]:
    """The numbers and tensors of an object and, so many levels down, of the objects that it holds."""
    if isinstance(thing, bool | int | float | str):
        yield repr(thing).encode()
    elif isinstance(thing, Tensor):
        yield f"{tuple(thing.shape)} {thing.dtype}".encode()
        flat = thing.detach().flatten()
        # a sample of a large tensor: enough to tell other weights
        yield flat[:: max(1, flat.numel() // 4096)].float().cpu().numpy().tobytes()
    elif depth > 0:
        inner: Mapping[str, Any]
        if isinstance(thing, torch.nn.Module):
            inner, depth = thing.state_dict(), 1
        elif isinstance(thing, functools.partial):
            inner = {"func": thing.func, "args": list(thing.args), **thing.keywords}
        elif isinstance(thing, Mapping):
            inner = {str(key): value for key, value in thing.items()}
        elif isinstance(thing, list | tuple):
            inner = {str(i): value for i, value in enumerate(thing)}
        else:
            inner = _closed_over(thing)
            inner |= {"self": thing.__self__} if hasattr(thing, "__self__") else {}
            inner |= getattr(thing, "__dict__", {}) if not isinstance(thing, type) else {}
        for key in sorted(inner):
            found = list(_held(inner[key], depth - 1))
            if found:
                yield key.encode()
                yield from found


def _closed_over(function: Any) -> dict[str, Any]:
    """The tensors and callables that a function closes over; numbers may be counters."""
    found = {}
    for i, cell in enumerate(getattr(function, "__closure__", None) or ()):
        try:
            value = cell.cell_contents
        except ValueError:  # not bound yet
            continue
        if isinstance(value, Tensor) or callable(value):
            found[f"cell {i}"] = value
    return found


def guidance_named(guidance: Guidance | Sequence[Guidance] | None) -> str | None:
    """Guidance as text that is the same in another process: without the addresses of functions."""
    return None if guidance is None else re.sub(r" at 0x[0-9a-f]+", "", repr(guidance))


def described(condition: Mapping[str, Any] | None) -> Any:
    """What a condition was: the values of short ones; shapes, and a hash, of others."""

    def describe(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if isinstance(value, Tensor):
            if value.numel() <= 64 and not value.is_floating_point():
                return value.tolist()
            flat = value.detach().cpu().contiguous().view(torch.uint8).numpy()
            return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(flat.tobytes()).hexdigest()[:16]}"
        if isinstance(value, Mapping):
            return {str(key): describe(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [describe(item) for item in value]
        return value if isinstance(value, bool | int | float | str | None) else repr(type(value))

    return None if condition is None else describe(condition)
