"""A digest of a value: equal values have equal digests in every process, and a digest fits into a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from .model_fingerprint import fingerprint

__all__ = ["OTHER_PROCESSOR", "digest"]

#: A suggestion where a plan is not the expected one. Levels come from logarithms and products, whose last digits differ
#: between processors, and so do the hashes of plans that are compiled from them.
OTHER_PROCESSOR: Final = "; if another type of processor compiled that plan, save it there (plan.save) and give plan="
#: Characters of a digest.
_LENGTH = 32


def digest(value: Any) -> str:
    """32 digits of the SHA-256 of a value's content.

    Tensors and arrays count by shape, type and every number; mappings by key, whatever their order; dataclasses by
    their fields; functions and networks by their :func:`~.model_fingerprint.fingerprint`.
    """
    hashed = hashlib.sha256()
    for entry in _content(value):
        hashed.update(len(entry).to_bytes(8, "little") + entry)
    return hashed.hexdigest()[:_LENGTH]


def _content(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous()
        yield f"tensor {tuple(flat.shape)} {flat.dtype}".encode()
        yield flat.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"array {value.shape} {value.dtype.str}".encode()
        yield repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}".encode()
        for key in sorted(value, key=repr):
            yield repr(key).encode()
            yield from _content(value[key])
    elif isinstance(value, list | tuple):
        yield f"list {len(value)}".encode()
        for item in value:
            yield from _content(item)
    elif isinstance(value, Enum | bool | int | float | complex | str | bytes | None | torch.dtype | torch.device):
        yield repr(value).encode()
    elif isinstance(value, np.generic):
        yield repr(value.item()).encode()
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value).__qualname__.encode()
        for each in fields(value):
            yield each.name.encode()
            yield from _content(getattr(value, each.name))
    else:
        yield fingerprint(value).encode()
