"""Copies from the host to a device that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sent"]


def sent(values: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the host on a device, as a new type if one is given.

    A copy to CUDA goes through pinned memory: one from other memory would wait until the device has done its work.
    """
    values = values if dtype is None else values.to(dtype)
    if device.type != "cuda":
        return values if device.type == "cpu" else values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
