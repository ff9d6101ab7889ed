"""Fixed tensors on the device of the data."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

__all__ = ["Constants", "as_double", "tensor_of", "working_dtype"]


def working_dtype(device: torch.device) -> torch.dtype:
    """The dtype that exact models compute in: float64, or float32 on Apple's MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def as_double(value: Any) -> Tensor:
    """Numbers of any kind as a float64 tensor on the CPU. Torch's default dtype and device do not matter."""
    given = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, dtype=np.float64))
    return given.to(torch.float64)


def tensor_of(value: Any) -> Tensor:
    """A tensor unchanged; numbers as a tensor on the CPU. Torch's default device does not matter."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")


@final
class Constants:
    """A few fixed tensors, copied to a device when they are first needed there.

    Floating-point tensors get the :func:`working_dtype`; integers keep their dtype. Thread-safe: two threads may both
    make the first copy, and the copies are equal.

    Args:
        tensors: any shapes.
    """

    def __init__(self, *tensors: Tensor) -> None:
        # cloned, because a caller may change the originals; outside of inference mode, because another caller may
        # use the copies with autograd
        with torch.inference_mode(False):
            self._cpu = tuple(tensor.detach().cpu().clone() for tensor in tensors)
        self._copies: dict[torch.device, tuple[Tensor, ...]] = {}

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        """The tensors on a device, in the order given."""
        if device not in self._copies:
            dtype = working_dtype(device)
            with torch.inference_mode(False):
                self._copies[device] = tuple(
                    c.to(device, dtype if c.is_floating_point() else c.dtype) for c in self._cpu
                )
        return self._copies[device]
