"""The Triton kernel of noise on the device. This module is imported only where Triton is installed."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["draw_normal"]


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):
    """A block of Philox-4x32-10: four words of 32 bits, from four of the counter and two of the key."""
    for _ in tl.static_range(10):
        first = c0.to(tl.uint64) * 0xD2511F53
        second = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (second >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (first >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = second.to(tl.uint32)
        c3 = first.to(tl.uint32)
        k0 = (k0.to(tl.uint64) + 0x9E3779B9).to(tl.uint32)
        k1 = (k1.to(tl.uint64) + 0xBB67AE85).to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def _box_muller(w0, w1):
    """Two normal numbers from two words."""
    # (w + ½)/2³² is in (0, 1]; some GPUs have a fast logarithm that is slightly positive at 1
    square = tl.maximum(-2.0 * tl.log((w0.to(tl.float32) + 0.5) * 2.3283064365386963e-10), 0.0)
    radius = tl.sqrt(square)
    angle = w1.to(tl.int32, bitcast=True).to(tl.float32) * 1.4629180792671596e-09  # π/2³¹
    return radius * tl.cos(angle), radius * tl.sin(angle)


@triton.jit(do_not_specialize=["place", "blocks"], do_not_specialize_on_alignment=["keys"])
def draw_normal(out, keys, place, blocks, size, total, BLOCK: tl.constexpr):
    """Write normal numbers, one row of ``size`` for each key, with ``blocks`` blocks of four for each row.

    ``keys`` has four words for each row: the seed and the index of a sample, the low half first. ``place`` is the last
    word of the counter; ``total`` is the number of blocks of all rows.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < total
    row, block = i // blocks, i % blocks
    k0 = tl.load(keys + 4 * row, mask=inside, other=0).to(tl.uint32, bitcast=True)
    k1 = tl.load(keys + 4 * row + 1, mask=inside, other=0).to(tl.uint32, bitcast=True)
    c1 = tl.load(keys + 4 * row + 2, mask=inside, other=0).to(tl.uint32, bitcast=True)
    c2 = tl.load(keys + 4 * row + 3, mask=inside, other=0).to(tl.uint32, bitcast=True)
    c0 = block.to(tl.uint32)
    w0, w1, w2, w3 = _philox(c0, c1, c2, tl.zeros_like(c0) + place.to(tl.uint32), k0, k1)
    n0, n1 = _box_muller(w0, w1)
    n2, n3 = _box_muller(w2, w3)
    number = 4 * block
    start = out + row * size + number
    tl.store(start, n0.to(out.dtype.element_ty), mask=inside & (number < size))
    tl.store(start + 1, n1.to(out.dtype.element_ty), mask=inside & (number + 1 < size))
    tl.store(start + 2, n2.to(out.dtype.element_ty), mask=inside & (number + 2 < size))
    tl.store(start + 3, n3.to(out.dtype.element_ty), mask=inside & (number + 3 < size))
