"""Checks of single arguments of a run. Each returns the argument in the form that the run needs, or raises."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigurationError, OutOfMemoryError, shown

__all__ = [
    "STATE_TYPES", "as_array", "as_tensor", "checked_condition", "checked_count", "checked_dtype", "checked_flag",
    "checked_number", "checked_shape", "checked_times", "refuse_special", "refuse_too_large",
]  # fmt: skip

#: The types that a state may have. PyTorch has no arithmetic for narrower ones.
STATE_TYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: The types of a whole number; floats are among them, because a division returns one.
_WHOLE: Final = (int, float, np.integer, np.floating, Tensor)
#: The largest number of steps, model calls or trajectories. A plan of more steps would take minutes to write.
_MOST = 1_000_000
#: Bytes of the noise key of a sample.
_KEY_BYTES = 16


def checked_flag(value: Any, where: str) -> bool:
    """True or False; 1, 0 and NumPy's booleans are accepted.

    Raises:
        ConfigurationError: anything else. The text "no" would count as true.
    """
    if isinstance(value, bool | np.bool_) or (isinstance(value, int | np.integer) and value in (0, 1)):
        return bool(value)
    raise ConfigurationError(f"got {shown(value)}", where=where, suggestion="give True or False")


def checked_number(
    value: Any, where: str, low: float = -math.inf, high: float = math.inf, *, finite: bool = True
) -> float:
    """A number from low to high, as a float; infinities are allowed with ``finite=False``.

    Raises:
        ConfigurationError: anything else.
    """
    try:
        valid = not isinstance(value, bool | str) and low <= value <= high and not (finite and math.isinf(value))
        float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        valid = False
    if not valid:
        kind = "a finite number" if finite else "a number"
        bounds = "" if (low, high) == (-math.inf, math.inf) else f" from {low:g} to {high:g}"
        raise ConfigurationError(f"got {shown(value)}", where=where, suggestion=f"give {kind}{bounds}")
    return float(value)


def checked_count(count: Any, where: str = "num_inference_steps", most: float = _MOST) -> int:
    """A number of steps, model calls, trajectories or the like, as an int.

    Raises:
        ConfigurationError: anything but a whole number from 1 to ``most``.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise ConfigurationError(f"got {shown(count)}", where=where, suggestion="give a whole number ≥ 1")
    if count > most:
        raise ConfigurationError(
            f"got {shown(count)}", where=where, suggestion=f"give a whole number from 1 to {most:,}"
        )
    return int(count)


def checked_condition(condition: Any, where: str = "condition") -> dict[str, Any]:
    """The keywords of a model as a dict; None is an empty one.

    Raises:
        ConfigurationError: not a mapping of texts.
    """
    if condition is None:
        return {}
    if not isinstance(condition, dict | Mapping):  # a dict is found faster by its own type
        raise ConfigurationError(
            f"got {type(condition).__name__}", where=where, suggestion="give a mapping of keywords for the model"
        )
    for name in condition:
        if not isinstance(name, str):
            raise ConfigurationError(
                f"has the key {shown(name)}",
                where=where,
                why="its keys are keywords of the model",
                suggestion="give a mapping of text, e.g. {'class_labels': labels}",
            )
    return dict(condition)


def checked_times(times: Any, where: str = "timesteps") -> tuple[float, ...]:
    """Timesteps (or sigmas) of a user as a tuple of floats.

    Raises:
        ConfigurationError: anything but a sequence of one or more numbers.
    """
    try:
        array = np.asarray(times.tolist() if hasattr(times, "tolist") else times, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a sparse or quantised tensor
        array = np.empty(0)
    if array.ndim != 1 or array.size == 0:
        raise ConfigurationError(
            f"got {shown(times)}",
            where=where,
            suggestion="give one or more numbers, from the noisiest to the cleanest",
        )
    return tuple(array.tolist())


def checked_dtype(dtype: Any, model_dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of the state. None means float32, or the model's dtype where that is wider.

    Raises:
        ConfigurationError: a dtype that a state cannot have.
    """
    if dtype is None:
        return torch.promote_types(torch.float32, model_dtype or torch.float32)
    if dtype not in STATE_TYPES if isinstance(dtype, torch.dtype) else True:
        raise ConfigurationError(
            f"got {shown(dtype)}, which is not a floating-point type that a state can have",
            where="dtype",
            suggestion="give torch.float32, torch.float64, torch.bfloat16 or torch.float16",
        )
    return dtype  # type: ignore[no-any-return]


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The shape of a batch.

    Raises:
        ConfigurationError: anything but two or more whole numbers ≥ 1.
    """
    try:
        given = tuple(shape)
        plain = {*map(type, given)} == {int}  # the most frequent case
        checked = given if plain else tuple([int(n) for n in given if _is_whole(n)])
        valid = len(checked) >= 2 and checked == given and min(checked) >= 1 and not isinstance(shape, set | dict)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        valid = False
    if not valid:
        raise ConfigurationError(
            f"got {shown(shape)}", where="shape", suggestion="give whole numbers ≥ 1: (batch, channels, height, width)"
        )
    return checked


def _is_whole(value: Any) -> bool:
    return isinstance(value, _WHOLE) and not isinstance(value, bool)


def refuse_too_large(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    """Raise where the samples alone exceed the memory of the device, before a tensor of their size is made.

    Raises:
        OutOfMemoryError: two states (before and after a step) and the keys of the noise do not fit.
    """
    needed, present = 2 * math.prod(shape) * dtype.itemsize + _KEY_BYTES * shape[0], _memory(device)
    if present is not None and needed > present:
        raise OutOfMemoryError(
            f"a batch of shape {shown(list(shape))} takes {_bytes(needed)}, and {device} has {_bytes(present)}",
            where="shape",
            suggestion="give a smaller batch, a lower resolution or a narrower dtype",
        )


def _bytes(count: int) -> str:
    power = min(max(count.bit_length() - 1, 0) // 10, 6)
    return f"{count // 1024**power} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[power]}"


def _memory(device: torch.device) -> int | None:
    """The bytes of memory of a device; None where they are unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu":
        with contextlib.suppress(AttributeError, ValueError, OSError):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def as_array(value: np.ndarray[Any, Any], where: str) -> Tensor:
    """An array of numbers as a tensor, without a copy where PyTorch can share its memory.

    Raises:
        ConfigurationError: an array of text, of objects, or of numbers of a type that PyTorch does not have.
    """
    try:
        plain = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))  # neither reversed nor byte-swapped
        # a read-only array is copied, because PyTorch would write into it
        return torch.from_numpy(plain if plain.flags.writeable else plain.copy()).reshape(value.shape)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"got {shown(value)}",
            where=where,
            why="PyTorch has no tensors of this type",
            suggestion="give an array of numbers; text must be encoded before the run",
        ) from error


def as_tensor(value: Any, where: str) -> Tensor:
    """A batch as a tensor of real numbers, from a tensor, an array or nested lists.

    Raises:
        ConfigurationError: anything else; a tensor that is complex, sparse, quantised or on the meta device.
    """
    try:
        if isinstance(value, Tensor):
            tensor = value
        elif isinstance(value, np.ndarray):
            tensor = as_array(value, where)
        elif isinstance(value, list | tuple):
            tensor = _stacked(value)
        else:
            raise TypeError
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ConfigurationError(
            f"got {shown(value)}", where=where, suggestion="give a tensor, an array or nested lists of numbers"
        ) from None
    refuse_special(tensor, where)
    dtype = tensor.dtype
    if dtype not in STATE_TYPES and (dtype is torch.bool or dtype.is_complex or dtype.is_floating_point):
        raise ConfigurationError(
            f"is of {tensor.dtype}", where=where, suggestion="give real numbers, e.g. of torch.float32"
        )
    return tensor


def _stacked(value: Any) -> Tensor:
    """Nested lists of numbers, arrays or tensors as one tensor."""
    if any(isinstance(item, Tensor) for item in value):
        return torch.stack([torch.as_tensor(item) for item in value])
    array = np.asarray(value)
    if array.dtype.kind not in "iufc":
        raise TypeError(array.dtype)
    return torch.from_numpy(array.astype(np.float64) if array.dtype.kind in "iu" else array)


def refuse_special(tensor: Tensor, where: str) -> None:
    """Raise unless a tensor is dense and has values.

    Raises:
        ConfigurationError: it is sparse, nested, quantised, or on the meta device.
    """
    if tensor.layout is not torch.strided:
        what, instead = f"is of layout {tensor.layout}", "give a dense tensor: to_dense()"
    elif tensor.is_quantized:
        what, instead = "is quantised", "give dequantize() of it"
    elif tensor.is_meta:
        what, instead = "is on the meta device, where tensors have no values", "give it with its values"
    else:
        return
    raise ConfigurationError(what, where=where, suggestion=instead)
