"""Batches that fit into memory: a batch that does not fit is halved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from ..support.errors import OutOfMemoryError

__all__ = ["in_batches", "out_of_memory", "release_cache"]

logger = logging.getLogger(__name__)
R = TypeVar("R")

#: Messages of PyTorch, its CPU allocator and NVIDIA's libraries when memory runs out.
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")


def in_batches(run: Callable[[int, int], R], count: int, size: int, device: torch.device) -> list[R]:
    """Run samples in batches: [run(start, stop), ...].

    When memory runs out, the batch is halved and the same samples are run again. Noise is keyed by sample, so the
    result is the same.

    Args:
        run: (start, stop) ↦ the result of samples start to stop.
        count: the number of samples.
        size: the largest batch.
        device: whose cache is released when memory runs out.

    Raises:
        OutOfMemoryError: a single sample does not fit.
    """
    results, start = [], 0
    while start < count:
        stop = min(start + size, count)
        try:
            results.append(run(start, stop))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
        else:
            start = stop
            continue
        # outside the except block, whose traceback keeps the tensors of the failed run alive
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
    """Return cached memory to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def out_of_memory(error: Exception) -> bool:
    """Whether an error of PyTorch or of NVIDIA's libraries says that memory ran out."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, MemoryError):
        return not isinstance(error, OutOfMemoryError)
    text = str(error).lower()
    return any(sign in text for sign in _SIGNS)
