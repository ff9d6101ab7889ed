"""Shared by all tests."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

#: What was registered before the tests of a session.
_KEPT = pytest.StashKey[list[tuple[Any, str, dict[str, Any]]]]()

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


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Put the library's log level back, which commands and benchmarks set."""
    library = logging.getLogger("noise_scheduler_sampling_system")
    before = library.level, library.manager.disable
    yield
    library.setLevel(before[0])
    logging.disable(before[1])


def _tables() -> list[tuple[Any, str, dict[str, Any]]]:
    """Every table of names, with what it holds now."""
    from noise_scheduler_sampling_system.config.registries import (
        DENSITIES,
        NOISES,
        PRESETS,
        SAMPLERS,
        SCHEDULES,
        SPACINGS,
        WEIGHTINGS,
    )
    from noise_scheduler_sampling_system.integrations.diffusers.pipelines.backbones import BACKBONES

    registries = (PRESETS, SAMPLERS, SCHEDULES, SPACINGS, DENSITIES, WEIGHTINGS, NOISES, BACKBONES)
    return [(each, name, dict(getattr(each, name))) for each in registries for name in ("_entries", "_aliases")]


def _put_back(kept: list[tuple[Any, str, dict[str, Any]]]) -> None:
    for registry, name, table in kept:
        setattr(registry, name, table)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note what is registered: tools/run_tests.py runs one file after another in one process."""
    session.stash[_KEPT] = _tables()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave nothing registered for the file that comes next."""
    if _KEPT in session.stash:
        _put_back(session.stash[_KEPT])


@pytest.fixture
def registries() -> Iterator[None]:
    """Put the registries back after a test that registers something."""
    kept = _tables()
    yield
    _put_back(kept)
