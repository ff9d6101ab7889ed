"""What the fields of a plan may hold, what they say of each other, and the hash of what they hold."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config.prediction import PREDICTION_TYPES
from ..support.errors import NumericsError, shown

__all__ = [
    "COLUMNS",
    "OPTIONAL",
    "content_hash",
    "plain",
    "refuse_contradictions",
    "refuse_other_scale",
    "valid_column",
    "valid_field",
]

#: The table's columns and their number of dimensions.
COLUMNS = {
    "time": 1, "alpha": 1, "sigma": 1, "step": 1, "a": 1, "b": 2, "raw": 1, "c": 2, "noise_key": 2, "input_scale": 1,
    "log_variance": 2, "asks": 1, "null": 1, "noise_span": 2,
}  # fmt: skip
#: Columns that may be None.
OPTIONAL = frozenset({"asks", "null", "noise_span", "input_scale", "log_variance"})
_INTEGER = frozenset({"step", "noise_key", "asks"})
_PAIRS = frozenset({"noise_key", "noise_span", "log_variance"})
#: The largest step or stage in a key of noise.
_KEY = 2**31
#: How much more noise a row may bring in than its levels have; built-in samplers stay below 3.
_NOISE = 100.0
#: What an α of 0 in single precision may have below 0.
_ROUNDED = 1e-3
#: How many steps a row may pass over: a step of DPM-Solver-fast spans up to 3.
_SKIP = 10
#: How far the first state's scale may be from that of the first level, whose α and σ are published rounded.
_PRIOR = 0.01


def valid_column(name: str, value: Any, rows: int | None) -> npt.NDArray[Any] | None:
    """A column as a read-only array of its type and shape, in a plan of so many rows (None: it is the one that says).

    Raises:
        NumericsError: other than numbers, whole ones where they count something, or of another shape.
    """
    where = f"plan column {name!r}"
    if value is None and name in OPTIONAL:
        return None
    try:
        given = np.asarray(value)
        valid = given.dtype.kind in ("iufb" if name == "asks" else "iuf") or given.size == 0
        array = np.array(given, dtype=np.int64 if name in _INTEGER else np.float64)
        valid = valid and (name not in _INTEGER or bool((array == given).all()))
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        kind = "whole numbers" if name in _INTEGER else "numbers"
        raise NumericsError(f"got {shown(value)}", where=where, suggestion=f"give an array of {kind}")
    expected = None if rows is None else rows + 1 if name in ("alpha", "sigma") else rows
    fits = array.ndim == COLUMNS[name] and array.shape[0] == (array.shape[0] if expected is None else expected)
    if not fits or (name in _PAIRS and array.shape[1] != 2) or (name in ("b", "c") and not array.shape[1]):
        raise NumericsError(
            f"has shape {array.shape}, expected {expected} rows and {COLUMNS[name]} dimension(s)",
            where=where,
            suggestion="let a sampler's plan() make the table",
        )
    array.flags.writeable = False
    return array


def _is_number(value: Any, kind: type = float) -> bool:
    kinds = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


#: For each field that is no column: what it may be, in words, and whether a value is.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "space": (f"one of {', '.join(PREDICTION_TYPES)}", lambda v: isinstance(v, str) and v in PREDICTION_TYPES),
    "prior_scale": ("a finite number > 0", lambda v: _is_number(v) and 0.0 < v < math.inf),
    "carries": (
        "of 'data' and 'noise' what is carried, each once",
        lambda v: isinstance(v, list | tuple) and set(map(str, v)) <= {"data", "noise"} and len(set(v)) == len(v),
    ),
    "sampler": ("a name", lambda v: isinstance(v, str) and v != ""),
    "order": ("a whole number from 0 to 100", lambda v: _is_number(v, int) and 0 <= v <= 100),
    "options": ("a mapping with names as keys", _named),
    "provenance": ("a mapping with names as keys", _named),
}


def valid_field(name: str, value: Any) -> Any:
    """A field that is no column, as it is.

    Raises:
        NumericsError: of another type, or out of range.
    """
    allowed, fits = _FIELDS[name]
    if not fits(value):
        raise NumericsError(f"got {shown(value)}", where=f"plan field {name!r}", suggestion=f"give {allowed}")
    return value


def refuse_contradictions(plan: Any) -> None:
    """Raise NumericsError where the columns of a :class:`SamplingPlan` are out of range or contradict each other."""
    for name in COLUMNS:
        column = getattr(plan, name)
        if column is not None and not np.isfinite(column).all():
            row = int(np.argwhere(~np.isfinite(column))[0][0])
            raise NumericsError(
                f"row {row} is not finite in column {name!r}",
                where=f"plan of {plan.sampler!r}",
                why=f"the row starts at α = {plan.alpha[row]:g}, σ = {plan.sigma[row]:g}",
                suggestion="check the levels and the sampler's formula; at zero signal use a first-order sampler",
            )
    keys, drawn = plan.noise_key, plan.noise_key[:, 0] >= 0
    steps, unit = np.diff(plan.step), np.hypot(plan.alpha, plan.sigma)
    noise = np.abs(plan.c).max(axis=1) / np.maximum(np.maximum(unit[1:], unit[:-1]), np.finfo(float).tiny)
    read = [(i, i - k) for i, k in zip(*np.nonzero(plan.c), strict=True)]
    for name, bad, what, allowed in (
        ("alpha", plan.alpha < -_ROUNDED * unit, "is negative", "α is a factor ≥ 0"),
        ("sigma", plan.sigma < 0.0, "is negative", "σ is a factor ≥ 0"),
        ("sigma", unit == 0.0, "is 0 beside α = 0", "a level has signal, noise or both"),
        ("step", plan.step < 0, "is negative", "steps count from 0"),
        ("step", (steps < 0) | (steps > _SKIP), "does not follow the step before", "steps rise from row to row"),
        ("asks", None if plan.asks is None else (plan.asks != 0) & (plan.asks != 1), "is neither 0 nor 1", "1 asks"),
        (
            "noise_key", ((keys < 0).any(axis=1) & (keys != -1).any(axis=1)) | (keys >= _KEY).any(axis=1),
            "is out of range", f"give step and stage from 0 to {_KEY - 1}, or −1 and −1 for no noise",
        ),
        ("noise_key", _repeated(keys, drawn), "is that of another row", "two rows with one key add the same noise"),
        ("c", _missing(len(plan), read, drawn), "reads noise that no row brings in", "give that row a noise_key"),
        ("c", noise > _NOISE, "adds far more noise than its levels have", "check the sampler's formula"),
        ("noise_span", _outside(plan.noise_span), "is outside [0, 1]", "give (2/π)·arctan(σ/α) of both ends"),
        ("input_scale", _not_positive(plan.input_scale), "is not positive", "give it > 0"),
        ("log_variance", _reversed(plan.log_variance), "has its bounds in the wrong order", "give (low, high)"),
    ):  # fmt: skip
        if bad is not None and bad.any():
            raise NumericsError(f"row {int(np.argmax(bad))} {what}", where=f"plan column {name!r}", suggestion=allowed)


def refuse_other_scale(plan: Any) -> None:
    """Raise NumericsError where the first state has another scale than the first level, in a plan from pure noise."""
    unit = math.hypot(plan.alpha[0], plan.sigma[0])
    # with noise before the first call the first row has the level that it leads to
    if "data" in plan.carries and plan.asked[0] and not math.isclose(plan.prior_scale, unit, rel_tol=_PRIOR):
        raise NumericsError(
            f"is {plan.prior_scale:.6g}, but the first level has √(α² + σ²) = {unit:.6g}",
            where="plan field 'prior_scale'",
            suggestion="give that of the first level",
        )


def _repeated(keys: npt.NDArray[np.int64], drawn: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which rows bring in noise that an earlier one has brought in."""
    seen: set[tuple[int, ...]] = set()
    result = np.zeros(len(keys), dtype=bool)
    for row in np.flatnonzero(drawn):
        key = tuple(keys[row].tolist())
        result[row] = key in seen
        seen.add(key)
    return result


def _missing(rows: int, read: list[tuple[Any, Any]], drawn: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which rows read the noise of a row that has none; what lies before the start is refused elsewhere."""
    result = np.zeros(rows, dtype=bool)
    for row, source in read:
        result[row] |= source >= 0 and not drawn[source]
    return result


def _outside(spans: npt.NDArray[np.float64] | None) -> npt.NDArray[np.bool_] | None:
    return None if spans is None else ((spans < 0.0) | (spans > 1.0)).any(axis=1)


def _not_positive(scales: npt.NDArray[np.float64] | None) -> npt.NDArray[np.bool_] | None:
    return None if scales is None else scales <= 0.0


def _reversed(bounds: npt.NDArray[np.float64] | None) -> npt.NDArray[np.bool_] | None:
    return None if bounds is None else bounds[:, 0] > bounds[:, 1]


def content_hash(fields: Mapping[str, Any]) -> str:
    """SHA-256 of a plan's fields, as 64 hexadecimal digits.

    It is over the fields that are no columns, as JSON with sorted keys, and then over each column in the order of
    their names: name and shape as JSON, and its numbers as little-endian int64 or float64, −0 counting as 0.
    """
    columns = {name: fields[name] for name in sorted(COLUMNS) if fields[name] is not None}
    rest = {name: _canonical(value) for name, value in fields.items() if name not in COLUMNS}
    digest = hashlib.sha256(_compact(rest))
    for name, column in columns.items():
        kind = "<i8" if name in _INTEGER else "<f8"
        array = np.ascontiguousarray(column, dtype=kind) + np.array(0, dtype=kind)
        digest.update(_compact([name, list(array.shape)]))
        digest.update(array.tobytes())
    return digest.hexdigest()


def _compact(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def plain(value: Any) -> Any:
    """The value with arrays, tuples, enums and NumPy's numbers as JSON has them; other objects stay what they are."""
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.value if isinstance(value, Enum) else value


def _canonical(value: Any) -> Any:
    """Plain data with one way to write each value: 1, 1.0 and True are equal, so they are one."""
    value = plain(value)
    if isinstance(value, dict):
        return {name: _canonical(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    if isinstance(value, bool | int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if value is None or isinstance(value, float | str):
        return value
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"<{named.__module__}.{named.__qualname__}>"  # what no file can hold
