"""Arrays of numbers as short texts, for the page."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["packed", "packed_bytes", "packed_single"]

#: Half of the last kept bit of a float64 whose lowest 16 bits are left out.
_HALF = 0x8000


def packed(values: npt.ArrayLike) -> str:
    """Numbers as base64 of the upper 48 bits of their float64, little-endian: 8 characters each.

    They are rounded to the nearest, so the relative error is below 8e-12. Infinite numbers are kept.
    """
    bits = np.array(values, dtype="<f8").reshape(-1).view("<u8") + np.uint64(_HALF)
    return packed_bytes(np.ascontiguousarray(bits).view(np.uint8).reshape(-1, 8)[:, 2:])


def packed_single(values: npt.ArrayLike) -> str:
    """Numbers as base64 of float32, little-endian."""
    return packed_bytes(np.ascontiguousarray(values, dtype="<f4"))


def packed_bytes(values: npt.NDArray[Any]) -> str:
    """The bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
