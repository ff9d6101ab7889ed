"""Shared by all tests."""

from __future__ import annotations

import sys

import torch

torch.set_num_threads(1)  # on a busy machine waiting OpenMP threads cost far more than the second core brings

try:
    import torchvision  # noqa: F401
except Exception:  # built for another PyTorch: as good as absent, though transformers only looks for its files
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.modules["torchvision"] = None  # type: ignore[assignment]
