"""One pass over memory for a whole step, by a kernel: C on the CPU, Triton on CUDA.

A step reads k tensors and writes the next state and, where a later row reads it, this row's prediction. Eager PyTorch
makes one pass for each term. A kernel makes one for all of them. It computes

    after = a·x + b·y + Σ_j c_j·h_j,    kept = u·x + v·y.

Where a kernel cannot be made, one line is logged and the eager path stays. ``NOISE_SAMPLING_KERNELS=off`` in the
environment turns the kernels off.
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor

from . import c_kernel, triton_kernel
from .c_kernel import kernel
from .operands import MOST_TERMS, Terms

__all__ = ["MOST_TERMS", "WORTH_FUSING", "fused_combination", "kernel"]

#: From this number of entries on, the kernel is faster than the eager path on a CPU.
WORTH_FUSING: Final = 1 << 16


def fused_combination(
    x: Tensor, a: Any, y: Tensor, b: Any, terms: Terms, keep: tuple[Any, Any] | None
) -> tuple[Tensor, Tensor | None] | None:
    """a·x + b·y + Σ factor·term and, with ``keep`` = (u, v), also u·x + v·y; None where no kernel fits.

    Args:
        x, y: the state and the output, of one shape.
        a, b: their factors: numbers on the host; on CUDA all factors may be tensors () on the device.
        terms: further tensors of that shape with their factors.
        keep: the factors of the prediction that is kept.

    Returns:
        Two new tensors; the second is None without ``keep``.
    """
    if len(terms) > MOST_TERMS:
        return None
    if x.device.type == "cuda":
        return triton_kernel.combination(x, a, y, b, terms, keep)
    if isinstance(a, Tensor):
        return None
    return c_kernel.combination(x, a, y, b, terms, keep)
