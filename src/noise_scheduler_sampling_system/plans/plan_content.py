"""The types, shapes and ranges of a plan's fields, and the hash of their content."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config.prediction import PREDICTION_TYPES
from ..support.errors import NumericsError, shown

__all__ = ["COLUMNS", "LEFT_OUT", "checked_fields", "content_hash", "json_data"]

#: The table's columns and their number of dimensions; "time" comes first and determines the number of rows.
COLUMNS = {
    "time": 1, "alpha": 1, "sigma": 1, "step": 1, "a": 1, "b": 2, "raw": 1, "c": 2, "noise_key": 2, "input_scale": 1,
    "log_variance": 2, "asks": 1, "null": 1, "noise_span": 2, "delta": 2, "both": 1, "to": 2,
}  # fmt: skip
#: Columns that may be None.
_OPTIONAL = frozenset({"asks", "null", "noise_span", "input_scale", "log_variance", "delta", "both", "to"})
#: Fields that plans without folded guidance do not have.
_FOLDED = ("delta", "both", "scale")
#: Fields that older plans do not have; left out where they are None, also of the hash.
LEFT_OUT = (*_FOLDED, "to")
_INTEGER = frozenset({"step", "noise_key", "asks", "both"})
#: Columns of which each row has this number of entries.
_WIDTHS = {"noise_key": 2, "noise_span": 2, "log_variance": 2, "to": 4}


def _is_number(value: Any, kind: type = float) -> bool:
    kinds = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _has_names(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


#: For each field that is not a column: what it may be, in words, and the test of a value.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "space": (f"one of {', '.join(PREDICTION_TYPES)}", lambda v: isinstance(v, str) and v in PREDICTION_TYPES),
    "prior_scale": ("a finite number > 0", lambda v: _is_number(v) and 0.0 < v <= sys.float_info.max),
    "carries": (
        "those of 'data' and 'noise' that the rows carry, each once",
        lambda v: isinstance(v, list | tuple) and set(map(str, v)) <= {"data", "noise"} and len(set(v)) == len(v),
    ),
    "sampler": ("a name", lambda v: isinstance(v, str) and v != ""),
    "order": ("a whole number from 0 to 100", lambda v: _is_number(v, int) and 0 <= v <= 100),
    "options": ("a mapping with names as keys", _has_names),
    "provenance": ("a mapping with names as keys", _has_names),
    "scale": ("a finite number, or None", lambda v: v is None or (_is_number(v) and math.isfinite(v))),
}


def checked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a plan in their types, immutable.

    Raises:
        NumericsError: a field is of another type, shape or range.
    """
    checked: dict[str, Any] = {}
    for name in COLUMNS:
        rows = len(checked["time"]) if checked else None
        checked[name] = _column(name, values[name], rows)
    for name, (allowed, fits) in _FIELDS.items():
        if not fits(values[name]):
            raise NumericsError(
                f"got {shown(values[name])}", where=f"plan field {name!r}", suggestion=f"give {allowed}"
            )
    if len({values[name] is None for name in _FOLDED}) > 1:
        raise NumericsError(
            "some are given and some are not",
            where=f"plan fields {', '.join(map(repr, _FOLDED))}",
            suggestion="give all three, or none",
        )
    return {
        **values,
        **checked,
        "prior_scale": float(values["prior_scale"]),
        "carries": tuple(values["carries"]),
        "scale": None if values["scale"] is None else float(values["scale"]),
        "order": int(values["order"]),
        "options": MappingProxyType(dict(values["options"])),
        "provenance": MappingProxyType(dict(values["provenance"])),
    }


def _column(name: str, value: Any, rows: int | None) -> npt.NDArray[Any] | None:
    """Make a column a read-only array of its type and shape.

    Args:
        name: of the column.
        value: of the column.
        rows: M, the plan's number of rows; None for the column "time", which determines it.

    Raises:
        NumericsError: the column holds something other than numbers, fractions where it counts, or has another shape.
    """
    where = f"plan column {name!r}"
    if value is None and name in _OPTIONAL:
        return None
    try:
        given = np.asarray(value)
        valid = given.dtype.kind in ("iufb" if name in ("asks", "both") else "iuf") or given.size == 0
        with np.errstate(invalid="ignore"):  # a number that does not fit differs after the cast
            array = np.array(given, dtype=np.int64 if name in _INTEGER else np.float64)
        valid = valid and (name not in _INTEGER or bool((array == given).all()))
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        kind = "whole numbers" if name in _INTEGER else "numbers"
        raise NumericsError(f"got {shown(value)}", where=where, suggestion=f"give an array of {kind}")
    expected = None if rows is None else rows + 1 if name in ("alpha", "sigma") else rows
    fits = array.ndim == COLUMNS[name] and array.shape[0] == (array.shape[0] if expected is None else expected)
    fits = fits and (name not in _WIDTHS or array.shape[1] == _WIDTHS[name])
    if not fits or (name in ("b", "c", "delta") and not array.shape[1]):
        raise NumericsError(
            f"has shape {array.shape}, expected {expected} rows and {COLUMNS[name]} dimension(s)",
            where=where,
            suggestion="let a sampler's plan() make the table",
        )
    array.flags.writeable = False
    return array


def content_hash(fields: Mapping[str, Any]) -> str:
    """SHA-256 of a plan's fields, as 64 hexadecimal digits.

    It covers the fields that are not columns, as JSON with sorted keys. Then it covers each column, in the order of
    their names: the name and shape as JSON, and the numbers as little-endian int64 or float64, where −0 is 0.
    """
    columns = {name: fields[name] for name in sorted(COLUMNS) if fields[name] is not None}
    left_out = {*COLUMNS, *(name for name in LEFT_OUT if fields[name] is None)}
    rest = {name: _normalised(value) for name, value in fields.items() if name not in left_out}
    digest = hashlib.sha256(_compact(rest))
    for name, column in columns.items():
        kind = "<i8" if name in _INTEGER else "<f8"
        array = np.ascontiguousarray(column, dtype=kind) + np.array(0, dtype=kind)
        digest.update(_compact([name, list(array.shape)]))
        digest.update(array.tobytes())
    return digest.hexdigest()


def _compact(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def json_data(value: Any) -> Any:
    """Convert arrays, tuples, enums and NumPy's numbers to what JSON has; other objects stay as they are."""
    if isinstance(value, np.ndarray | np.generic):
        return json_data(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): json_data(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_data(each) for each in value]
    return value.value if isinstance(value, Enum) else value


def _normalised(value: Any) -> Any:
    """Convert to plain data in which equal values are written alike: 1, 1.0 and True are 1."""
    value = json_data(value)
    if isinstance(value, dict):
        return {name: _normalised(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_normalised(each) for each in value]
    if isinstance(value, bool | int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if value is None or isinstance(value, float | str):
        return value
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"<{named.__module__}.{named.__qualname__}>"  # no file can hold it
