"""Tensors that follow the data from device to device."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

__all__ = ["Constants", "as_double", "as_tensor", "working_dtype"]


def working_dtype(device: torch.device) -> torch.dtype:
    """The dtype that exact models compute in: float64, or float32 on Apple's MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def as_double(value: Any) -> Tensor:
    """Numbers of any kind as a float64 tensor on the CPU, whatever torch's default dtype and device are."""
    given = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, dtype=np.float64))
    return given.to(torch.float64)


def as_tensor(value: Any) -> Tensor:
    """A tensor as it is; numbers as a tensor on the CPU, whatever torch's default device is."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")


@final
class Constants:
    """A few fixed tensors, copied to each device the first time they are asked for there.

    Floating-point tensors take the :func:`working_dtype`, integers keep theirs. Two threads may
    both make the first copy; either is right.

    Args:
        tensors: any shapes.
    """

    def __init__(self, *tensors: Tensor) -> None:
        # copies of their own, so that a caller may change the originals, and made outside of
        # inference mode, so that what one caller makes suits another's autograd
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
