"""What a kernel of one pass a step can read, and where it must stay out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

__all__ = ["MOST_TERMS", "Terms", "is_plain", "is_turned_off", "is_untracked"]

#: Earlier predictions and noises that a step may read.
MOST_TERMS: Final = 8
_OFF: Final = "NOISE_SAMPLING_KERNELS"

#: Further tensors of a step with their factors: numbers on the host, or tensors () on the device.
Terms: TypeAlias = Sequence[tuple[Tensor, Any]]


def is_turned_off() -> bool:
    """Whether the environment turns the kernels off."""
    return os.environ.get(_OFF, "").lower() in ("off", "0", "no")


def is_plain(x: Tensor) -> bool:
    """Whether nothing follows the operations of PyTorch: no compilation, mode, transform or forward derivative."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.is_functorch_wrapped_tensor(x)
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_untracked(x: Tensor) -> bool:
    """Whether a tensor is of PyTorch's own class, has its numbers in a row, and needs no gradient."""
    return type(x) is Tensor and x.is_contiguous() and not (torch.is_grad_enabled() and x.requires_grad)
