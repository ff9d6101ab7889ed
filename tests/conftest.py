"""Shared by all tests."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)  # on a busy machine waiting OpenMP threads cost far more than the second core brings

try:
    import torchvision  # noqa: F401
except Exception:  # built for another PyTorch: as good as absent, though transformers only looks for its files
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.modules["torchvision"] = None  # type: ignore[assignment]


def pytest_collection_finish() -> None:
    """Leave what imports made out of every later garbage collection, which would walk through all of it."""
    gc.collect(1)
    gc.freeze()


@pytest.fixture
def registries() -> Iterator[None]:
    """Put the registries back after a test that registers something."""
    from noise_scheduler_sampling_system.config.registries import SAMPLERS, SCHEDULES, SPACINGS

    kept = [(registry, dict(registry._entries)) for registry in (SCHEDULES, SAMPLERS, SPACINGS)]
    yield
    for registry, entries in kept:
        registry._entries = entries
