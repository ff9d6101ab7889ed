"""The Triton kernel of one pass a step. This module is imported only where Triton is installed."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["combine"]

#: Numbers differ from row to row, and so do addresses of entries of a table: no kernel is compiled for each.
_FACTORS = ("a", "b", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "u", "v")


@triton.jit
def _number(factor, LOADS: tl.constexpr):
    return tl.load(factor).to(tl.float32) if LOADS else factor


@triton.jit(do_not_specialize=_FACTORS, do_not_specialize_on_alignment=_FACTORS)
def combine(
    after, kept, x, y, h0, h1, h2, h3, h4, h5, h6, h7, a, b, c0, c1, c2, c3, c4, c5, c6, c7, u, v, n,
    TERMS: tl.constexpr, KEEPS: tl.constexpr, LOADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """after ← a·x + b·y + Σ_{j<TERMS} c_j·h_j and, with KEEPS, kept ← u·x + v·y, for n numbers.

    With LOADS the factors are addresses of numbers.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    state = tl.load(x + i, mask=inside).to(tl.float32)
    output = tl.load(y + i, mask=inside).to(tl.float32)
    total = _number(a, LOADS) * state + _number(b, LOADS) * output
    if TERMS > 0:
        total += _number(c0, LOADS) * tl.load(h0 + i, mask=inside).to(tl.float32)
    if TERMS > 1:
        total += _number(c1, LOADS) * tl.load(h1 + i, mask=inside).to(tl.float32)
    if TERMS > 2:
        total += _number(c2, LOADS) * tl.load(h2 + i, mask=inside).to(tl.float32)
    if TERMS > 3:
        total += _number(c3, LOADS) * tl.load(h3 + i, mask=inside).to(tl.float32)
    if TERMS > 4:
        total += _number(c4, LOADS) * tl.load(h4 + i, mask=inside).to(tl.float32)
    if TERMS > 5:
        total += _number(c5, LOADS) * tl.load(h5 + i, mask=inside).to(tl.float32)
    if TERMS > 6:
        total += _number(c6, LOADS) * tl.load(h6 + i, mask=inside).to(tl.float32)
    if TERMS > 7:
        total += _number(c7, LOADS) * tl.load(h7 + i, mask=inside).to(tl.float32)
    tl.store(after + i, total.to(after.dtype.element_ty), mask=inside)
    if KEEPS:
        prediction = _number(u, LOADS) * state + _number(v, LOADS) * output
        tl.store(kept + i, prediction.to(kept.dtype.element_ty), mask=inside)
