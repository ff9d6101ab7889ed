"""The model, the condition and the guidance of a calibration as plain data.

The provenance of a plan holds them, and they tell the checkpoint of one calibration from that of another.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..guidance.base import Guidance
from ..models.exact import ExactModel
from ..pipeline.request import DEFAULT_SCALE
from .student import PlanRunner

__all__ = ["described", "fingerprint", "guidance_named", "setting_facts"]


def setting_facts(
    pipeline: PlanRunner,
    model: Any,
    shape: Sequence[int],
    condition: Mapping[str, Any] | None,
    null_condition: Mapping[str, Any] | None,
    scale: float | None,
    guidance: Guidance | Sequence[Guidance] | None,
) -> dict[str, Any]:
    """Return what plans are calibrated for; two settings are the same if these facts are equal."""
    by_default = condition is not None and scale is None and guidance is None
    return {
        "shape": list(shape), "guidance_scale": DEFAULT_SCALE if by_default else scale,
        "guidance": guidance_named(guidance), "condition": described(condition),
        "null_condition": described(null_condition), "schedule": repr(pipeline.scheduler), "model": fingerprint(model),
    }  # fmt: skip


def fingerprint(model: Any) -> str:
    """Return a short name of a model: its class, and a hash of its weights or of the numbers and tensors it holds.

    The hash covers what wrappers hold: attributes, bound methods and ``functools.partial``. For a function it covers
    the code, the defaults, and the tensors and callables that it takes from outside.
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
    """Yield the numbers and tensors of an object, and of the objects that it holds down to a depth."""
    if isinstance(thing, bool | int | float | str):
        yield repr(thing).encode()
    elif isinstance(thing, Tensor):
        yield f"{tuple(thing.shape)} {thing.dtype}".encode()
        flat = thing.detach().flatten()
        # some 4,096 entries of a large tensor are enough to tell its weights from others
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
            inner = _of_function(thing)
            inner |= {"self": thing.__self__} if hasattr(thing, "__self__") else {}
            inner |= getattr(thing, "__dict__", {}) if not isinstance(thing, type) else {}
            inner |= {"fingerprint": thing.fingerprint} if isinstance(thing, ExactModel) else {}
        for key in sorted(inner):
            found = list(_held(inner[key], depth - 1))
            if found:
                yield key.encode()
                yield from found


def _of_function(function: Any) -> dict[str, Any]:
    """Return what a function computes with: its code, its defaults, and the tensors and callables around it.

    Numbers around it are left out, because they may be counters.
    """
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return {}
    found: dict[str, Any] = {"code": hashlib.sha256(code.co_code).hexdigest(), "defaults": function.__defaults__ or ()}
    found["keyword defaults"] = function.__kwdefaults__ or {}
    found["constants"] = [value for value in code.co_consts if isinstance(value, int | float)]
    around = {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # the variable has no value yet
            around[name] = cell.cell_contents
    found |= {f"around {key}": value for key, value in around.items() if isinstance(value, Tensor) or callable(value)}
    return found


def guidance_named(guidance: Guidance | Sequence[Guidance] | None) -> str | None:
    """Return guidance as text without the addresses of functions, so that it is the same in another process."""
    return None if guidance is None else re.sub(r" at 0x[0-9a-f]+", "", repr(guidance))


def described(condition: Mapping[str, Any] | None) -> Any:
    """Return a condition as plain data: the values of short tensors, the dtype, shape and hash of others."""

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
