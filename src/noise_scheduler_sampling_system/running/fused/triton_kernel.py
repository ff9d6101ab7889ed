"""One pass over memory for a whole step on CUDA, by a Triton kernel that computes in float32.

It reads contiguous states of float32, bfloat16 or float16. The factors are numbers, or tensors () of a run that is
captured for several plans. The kernel is compiled at its first use for each number of terms.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from .operands import MOST_TERMS, Terms, is_plain, is_turned_off, is_untracked

__all__ = ["WORTH_LAUNCHING", "combination", "launch"]

logger = logging.getLogger(__name__)

#: From this number of entries on, a launch with factors on the host is taken to be faster than the eager path: Python
#: needs some 20 µs more for a Triton launch than for eager ones, in which a GPU moves tens of megabytes. A captured run
#: (factors on the device) has no such cost.
WORTH_LAUNCHING: Final = 1 << 20
_BLOCK: Final = 1024
_TYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


def combination(
    x: Tensor, a: Any, y: Tensor, b: Any, terms: Terms, keep: tuple[Any, Any] | None
) -> tuple[Tensor, Tensor | None] | None:
    """As :func:`.fused_combination`, for tensors on CUDA; None for those that the kernel does not fit."""
    if not is_plain(x) or (x.numel() < WORTH_LAUNCHING and not isinstance(a, Tensor)):
        return None
    if not _fits(x, x) or not _fits(y, x) or not all(_fits(h, x) for h, _ in terms):
        return None
    run = _kernel()
    if run is None:
        return None
    after, kept = torch.empty_like(x), torch.empty_like(x) if keep is not None else None
    try:
        with torch.cuda.device(x.device):
            launch(run, after, kept, x, a, y, b, terms, keep)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of Triton, its compiler, or the compiler of its launcher
        _give_up(error)
        return None
    return after, kept


def launch(
    run: Any, after: Tensor, kept: Tensor | None, x: Tensor, a: Any, y: Tensor, b: Any, terms: Terms, keep: Any
) -> None:
    """Write the combination into ``after`` and ``kept``."""
    none = MOST_TERMS - len(terms)
    tensors = [x, y, *(h for h, _ in terms), *[x] * none]
    loads = isinstance(a, Tensor)
    factors = [a, b, *(c for _, c in terms), *[a] * none, *(keep or (a, a))]
    if not loads:
        factors = [float(each) for each in factors]
    n = x.numel()
    run[(-(-n // _BLOCK),)](
        after, after if kept is None else kept, *tensors, *factors, n,
        TERMS=len(terms), KEEPS=kept is not None, LOADS=loads, BLOCK=_BLOCK,
        enable_fp_fusion=True,
    )  # fmt: skip


def _fits(y: Tensor, x: Tensor) -> bool:
    return is_untracked(y) and y.dtype in _TYPES and y.device == x.device and y.shape == x.shape


_failed: list[str] = []


def _give_up(error: Exception) -> None:
    if not _failed:
        logger.info("the Triton kernel of one pass a step cannot run (%s): a step makes one for each term", error)
    _failed.append(type(error).__name__)


def _kernel() -> Any | None:
    """The kernel, or None where it cannot be made or has failed."""
    return None if _failed or is_turned_off() else _made()


@functools.cache
def _made() -> Callable[..., Any] | None:
    try:
        from .triton_source import combine
    except ImportError:
        logger.info("triton is not installed: a step on CUDA makes one pass over memory for each of its terms")
        return None
    kernel: Callable[..., Any] = combine
    return kernel
