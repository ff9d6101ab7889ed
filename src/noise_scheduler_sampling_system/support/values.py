"""Equality by value: a copy of an object, or one from a pickle or another process, equals the original."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, equal

__all__ = ["ByValue", "same"]


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal. Tensors must be equal bit for bit and on one device; NaN equals NaN."""
    if one is other:
        return True
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        alike = isinstance(one, Tensor) and isinstance(other, Tensor) and one.dtype == other.dtype
        return alike and one.device == other.device and equal(one, other)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and _same_arrays(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


def _same_arrays(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")


class ByValue:
    """Base of objects that are equal if their classes and attributes are. Of a dataclass, its fields count.

    Attributes:
        made_on_use: names of attributes that are filled in use, such as caches. They do not count, and are empty in
            copies.
    """

    made_on_use: ClassVar[frozenset[str]] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: type(value)() if name in self.made_on_use else value
            for name, value in vars(self).items()
            if not isinstance(getattr(type(self), name, None), functools.cached_property)
        }

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and same(_compared(self), _compared(other)))

    def __hash__(self) -> int:
        return hash(type(self))  # attributes may be unhashable


def _compared(value: Any) -> dict[str, Any]:
    """The attributes of an object that count for equality."""
    state: dict[str, Any] = value.__getstate__()
    if not is_dataclass(value):
        return state
    # a value pickled by an earlier version lacks the fields that came later: they have their defaults
    return {
        each.name: state[each.name] if each.name in state else getattr(value, each.name)
        for each in fields(value)
        if each.compare
    }
