"""Times as users give them, numbers, arrays and tensors; functions of times return the same kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..support.errors import ConfigurationError

__all__ = ["Time", "as_times", "double", "in_kind", "mixed", "traced"]

Time = TypeVar("Time", float, npt.NDArray[np.float64], Tensor)


def in_kind(function: Callable[[Tensor], Tensor], value: Time) -> Time:
    """Apply a function of tensors to a number, an array or a tensor; return the same kind and floating-point type."""
    if isinstance(value, Tensor):
        result = function(value)
        return result.to(value.dtype) if value.is_floating_point() else result
    array = np.array(value)
    if array.dtype not in (np.float16, np.float32):  # integers become float64
        array = array.astype(np.float64)
    answer: Any = function(torch.from_numpy(array)).numpy().astype(array.dtype)
    if not answer.ndim:
        answer = answer[()] if isinstance(value, np.generic) else answer.item()
    return answer  # type: ignore[no-any-return]


def traced() -> bool:
    """Whether torch.compile or torch.func is tracing. Then values of tensors cannot be read."""
    compiler = getattr(torch, "compiler", None)  # torch 2.0 has none, and parts of it came later
    if compiler is not None and getattr(compiler, "is_compiling", bool)():
        return True
    peek = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None)
    return peek() is not None


def double(value: Tensor) -> Tensor:
    """A tensor in float64, or in float32 on Apple's MPS, which has no float64."""
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)


def as_times(x0: Tensor, noise: Tensor, t: Any, frame_dim: int = 1) -> Tensor:
    """The times of a batch, shape (), (B,) or (B, T); a number becomes a tensor on the CPU.

    Args:
        x0, noise: of one shape (B, ...).
        t: as the user gave it.
        frame_dim: the dimension of the samples that holds the T frames of times (B, T).

    Raises:
        ConfigurationError: samples, noise and times that do not fit together.
    """
    if not (x0.is_floating_point() or x0.is_complex()):
        raise ConfigurationError(
            f"the samples are {x0.dtype}", where="x0", suggestion="give floating-point samples: images in [-1, 1]"
        )
    if x0.shape != noise.shape:
        raise ConfigurationError(
            f"noise has shape {tuple(noise.shape)}, the samples {tuple(x0.shape)}",
            where="noise",
            suggestion="draw it with torch.randn_like(x0)",
        )
    if x0.device != noise.device:
        raise ConfigurationError(
            f"noise is on {noise.device}, the samples on {x0.device}",
            where="noise",
            suggestion="draw it with torch.randn_like(x0)",
        )
    times = t
    if not isinstance(times, Tensor):
        try:
            times = torch.from_numpy(np.array(t, dtype=np.float64))
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"got {type(t).__name__}", where="t", suggestion="give one time, or one a sample: shape (B,)"
            ) from None
    batch = x0.shape[0] if x0.ndim else 1
    if times.ndim == 2:
        _refuse_other_frames(x0, times, frame_dim)
    elif times.ndim > 2 or (times.ndim == 1 and times.shape[0] not in (1, batch)):
        raise ConfigurationError(
            f"t has shape {tuple(times.shape)} for a batch of {batch}",
            where="t",
            suggestion="give one time, one a sample: shape (B,), or one a frame: shape (B, T)",
        )
    return times


def _refuse_other_frames(x0: Tensor, times: Tensor, frame_dim: int) -> None:
    """Raise where times (B, T) are not those of the samples' frames."""
    if isinstance(frame_dim, bool) or not isinstance(frame_dim, int) or not 1 <= frame_dim < x0.ndim:
        raise ConfigurationError(
            f"got {frame_dim!r} for samples of shape {tuple(x0.shape)}",
            where="frame_dim",
            suggestion="give the dimension that counts frames: 1 for (B, T, ...), 2 for (B, C, T, H, W)",
        )
    wanted = (x0.shape[0], x0.shape[frame_dim])
    if times.shape[0] not in (1, wanted[0]) or times.shape[1] != wanted[1]:
        raise ConfigurationError(
            f"t has shape {tuple(times.shape)} for samples {tuple(x0.shape)} with frames in dimension {frame_dim}",
            where="t",
            suggestion=f"give one time a frame: shape {wanted}, or another frame_dim",
        )


def mixed(a: Any, b: Any, x0: Tensor, noise: Tensor) -> Tensor:
    """a·x₀ + b·ε in the type of x₀; a and b are numbers, or tensors that broadcast. Returns a new tensor."""
    noise = noise.to(x0.dtype)
    if isinstance(b, Tensor):
        return torch.addcmul(x0 * a, b, noise)
    return torch.add(x0 * a, noise, alpha=b)
