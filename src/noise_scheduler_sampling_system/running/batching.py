"""Many samples in batches that fit into memory: the batch is halved when it does not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from ..support.errors import OutOfMemoryError

__all__ = ["in_batches", "release_cache"]

logger = logging.getLogger(__name__)
R = TypeVar("R")

#: How PyTorch, its CPU allocator, and NVIDIA's libraries say it where the error has no type of its own.
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")


def in_batches(run: Callable[[int, int], R], count: int, size: int, device: torch.device) -> list[R]:
    """[run(start, stop), ...] over ``count`` samples, at most ``size`` at a time.

    When memory runs out the batch is halved and the same samples are run again; noise is
    keyed by sample, so the result is the same.

    Raises:
        OutOfMemoryError: one sample alone does not fit.
    """
    results, start = [], 0
    while start < count:
        stop = min(start + size, count)
        try:
            results.append(run(start, stop))
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
        else:
            start = stop
            continue
        # outside the except block, which would keep the failed run's tensors alive
        release_cache(device)
        if stop - start == 1:
            raise OutOfMemoryError(
                "out of memory with a single sample",
                where=f"sample {start}",
                why=message,
                suggestion="lower the resolution, use a half-precision model, or free memory on the device",
            )
        size = (stop - start + 1) // 2
        logger.warning("out of memory (%s): going on with batches of %d", message, size)
    return results


def release_cache(device: torch.device) -> None:
    """Give cached memory back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, MemoryError):
        return not isinstance(error, OutOfMemoryError)
    text = str(error).lower()
    return any(sign in text for sign in _SIGNS)
