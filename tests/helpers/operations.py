"""Counting the operations that PyTorch dispatches."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HOST_READS", "Count"]

VIEWS = {
    "view", "_unsafe_view", "reshape", "unbind", "select", "expand", "slice", "split", "unsafe_split", "alias",
    "detach", "chunk",
}  # fmt: skip
HOST_READS = {"_local_scalar_dense", "item", "nonzero", "is_nonzero"}


class Count(TorchDispatchMode):
    """Every operation that PyTorch dispatches: its name, and the sizes it works on."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []
        self.largest: list[int] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        if name not in VIEWS:
            self.names.append(name)
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            self.largest.append(max((t.numel() for t in tensors), default=0))
        return function(*args, **(kwargs or {}))
