"""The file format of plans, and the checks of what a file holds."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..support.data_files import read_json, write_json
from ..support.errors import FileError, NumericsError, cut, shown
from ..support.files import checked_path
from ..support.tensor_files import read_tensors, write_tensors
from .plan_checks import refuse_other_scale, refuse_unusable
from .plan_content import COLUMNS, LEFT_OUT, content_hash, json_data
from .plan_rows import PlanRows

__all__ = ["plan_data", "plan_fields", "read_plan_data", "refuse_changed", "write_plan_data"]

_FORMAT = 4
#: Earlier formats that can be read.
_FORMAT_OF_VERSION_1_3, _FORMAT_WITHOUT_HASH = 2, 3


def plan_data(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a plan as plain data, with the hash of their content."""
    content = {name: json_data(value) for name, value in fields.items()}
    written = {name: value for name, value in content.items() if name not in LEFT_OUT or value is not None}
    return {"format": _FORMAT, **written, "content_hash": content_hash(content)}


def plan_fields(data: Any, names: Collection[str]) -> tuple[dict[str, Any], Any]:
    """The fields in the data of a plan, and the content hash that stands there, or None.

    Args:
        data: from :func:`plan_data`, of this version or an earlier one.
        names: of the fields of a plan.

    Raises:
        FileError: the data are not a mapping, have another format, or lack a field or have one too many.
    """
    if not isinstance(data, Mapping):
        raise FileError(f"is {type(data).__name__}, not a mapping", where="plan", suggestion="give a plan's to_dict()")
    rest = dict(data)
    version, hash_in_data = rest.pop("format", None), rest.pop("content_hash", None)
    if version == _FORMAT_OF_VERSION_1_3:
        carries = ("data", "noise") if rest.pop("carries_constants", True) else ()
        rest = {"provenance": {}, **rest, "carries": carries}
    elif version not in (_FORMAT_WITHOUT_HASH, _FORMAT) or isinstance(version, float | bool):
        raise FileError("is not a sampling plan of this format", where="plan", suggestion="save it again")
    rest = {**dict.fromkeys(LEFT_OUT), **rest}
    if set(rest) != set(names):
        odd = cut(", ".join(sorted(map(str, set(rest) ^ set(names)))), 200)
        raise FileError(f"missing or unknown columns: {odd}", where="plan", suggestion="save it again")
    return rest, hash_in_data


def refuse_changed(plan: PlanRows, content_hash: str, hash_in_data: Any) -> None:
    """Raise where a plan is not what was saved.

    Args:
        plan: made from the data.
        content_hash: of the plan.
        hash_in_data: the content hash in the data; None in data made by hand or by an earlier version, where the
            first state's scale is checked instead.

    Raises:
        FileError: the hashes differ.
        NumericsError: there is no hash, and the scale is wrong.
    """
    if hash_in_data is None:
        refuse_other_scale(plan)
        return
    if hash_in_data == content_hash:
        return
    try:
        refuse_unusable(plan)
        refuse_other_scale(plan)
        found = ""
    except NumericsError as error:
        found = f"; {error.where}: {error.what}"
    raise FileError(
        "its content was changed after it was saved",
        where="plan",
        why=f"it says content_hash {shown(hash_in_data)}, and what it holds has '{content_hash}'{found}",
        suggestion="restore the file; to make a plan by hand, change one with dataclasses.replace(plan, ...), "
        "or take content_hash out of the file, load it and save it again",
    )


def write_plan_data(path: str | os.PathLike[str], data: dict[str, Any], plan: PlanRows) -> None:
    """Write a plan, whole or not at all: ``.json``, or ``.safetensors`` with its columns as arrays.

    Args:
        path: of the file.
        data: the plan as plain data.
        plan: the plan, for its columns.

    Raises:
        FileError: the name has another ending, the options are not plain data, or the file cannot be written.
    """
    if checked_path(path).suffix == ".safetensors":
        from safetensors.numpy import save

        columns = {name: getattr(plan, name) for name in COLUMNS}
        arrays = {name: np.ascontiguousarray(column) for name, column in columns.items() if column is not None}
        rest = {name: value for name, value in data.items() if name not in arrays}
        write_tensors(path, "plan", rest, save, arrays)
    elif checked_path(path).suffix == ".json":
        write_json(path, data)
    else:
        raise FileError("is not a name for a plan", where=str(path), suggestion="use .json or .safetensors")


def read_plan_data(path: str | os.PathLike[str]) -> Any:
    """Read the data that :func:`write_plan_data` wrote.

    Raises:
        FileError: the file is missing, malformed, or was changed since it was saved.
    """
    if checked_path(path).suffix != ".safetensors":
        return read_json(path)
    from safetensors.numpy import load

    arrays, rest = read_tensors(path, "plan", load)
    return {**rest, **arrays} if isinstance(rest, dict) else rest
