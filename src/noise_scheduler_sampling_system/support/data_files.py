"""Files of plain data, in strict YAML and JSON."""

from __future__ import annotations

import json
import os
from typing import Any

import yaml

from .data_limits import MOST_VALUES, TOO_DEEP, refuse_unreadable, too_many
from .errors import FileError, cut, shown
from .files import checked_path, read_bytes, write_atomic
from .strict_yaml import StrictDumper, StrictLoader

__all__ = [
    "parse_json",
    "read_json",
    "read_table",
    "table_format",
    "to_json",
    "write_json",
    "write_table",
]

#: The most bytes of a file.
_BYTES = {"yaml": 4 * 2**20, "json": 64 * 2**20}
_FORMATS = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}


def table_format(path: str | os.PathLike[str]) -> str:
    """The format of a file by its ending: "yaml" or "json".

    Raises:
        FileError: another ending.
    """
    suffix = checked_path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise FileError(
            f"the ending {shown(suffix)} names no format", where=str(path), suggestion="use .yaml, .yml or .json"
        )
    return _FORMATS[suffix]


def read_table(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML or JSON file. Every key is a text, as it is written.

    Limits: 20,000 values and 4 MiB in YAML, where an alias counts as the values that it stands for; 1.2 million
    values and 64 MiB in JSON; 64 levels; 1,000 keys in one mapping; 100,000 characters in one text.

    Raises:
        FileError: the file is missing, malformed (the message names the line), beyond these limits or not a mapping,
            or has a key twice.
    """
    kind = table_format(path)
    data = _parsed(read_bytes(path, _BYTES[kind]), kind, str(path))
    if not isinstance(data, dict):
        raise FileError(
            "does not hold a mapping",
            where=str(path),
            why=f"its top level is {type(data).__name__}",
            suggestion="write name: {setting: value, ...}",
        )
    return data


def read_json(path: str | os.PathLike[str]) -> Any:
    """The data in a JSON file, within the limits of :func:`read_table`.

    Raises:
        FileError: the file is missing, malformed or beyond the limits, or has a key twice.
    """
    return _parsed(read_bytes(path, _BYTES["json"]), "json", str(path))


def _parsed(data: bytes, kind: str, where: str) -> Any:
    try:
        text = data.decode("utf-8-sig")  # some editors write a byte-order mark
        if kind == "json":
            return parse_json(text)
        parsed = yaml.load(text, Loader=StrictLoader)
        refuse_unreadable(parsed, kind)
        return parsed
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        raise FileError(
            f"is not valid {kind.upper()}",
            where=where,
            why=cut(error),
            suggestion="correct the line named above",
        ) from error


def parse_json(text: str) -> Any:
    """The data in a JSON text.

    Raises:
        ValueError: the text is malformed or beyond the limits of :func:`read_table`, or has a key twice.
    """
    if text.count(",") > MOST_VALUES["json"]:  # before the time to read them is spent
        raise ValueError(too_many("json"))
    try:
        data = json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    refuse_unreadable(data, "json")
    return data


def to_json(data: Any) -> str:
    """Plain data as JSON text that :func:`parse_json` reads.

    Raises:
        ValueError: a value that JSON does not have, or data beyond the limits.
    """
    try:
        refuse_unreadable(data, "json")
        return json.dumps(data, default=_refuse_value)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write plain data as one line of JSON, whole or not at all.

    Raises:
        FileError: a value that JSON does not have, data beyond the limits, or a file that cannot be written.
    """
    try:
        encoded = (to_json(data) + "\n").encode()
    except ValueError as error:
        raise FileError(
            "cannot be written", where=str(path), why=cut(error), suggestion="use numbers, texts, lists and mappings"
        ) from error
    write_atomic(path, encoded)


def _refuse_value(value: object) -> Any:
    raise ValueError(f"{shown(value)} is not a number, a text, a list or a mapping")


def write_table(path: str | os.PathLike[str], data: dict[str, Any]) -> None:
    """Write a mapping as YAML or JSON, by the file's ending, whole or not at all.

    Raises:
        FileError: another ending, a value that neither format has, data beyond the limits of :func:`read_table`, or a
            file that cannot be written.
    """
    kind = table_format(path)
    try:
        refuse_unreadable(data, kind)
        text = json.dumps(data, indent=2, ensure_ascii=False, default=_refuse_value) + "\n"
        if kind == "yaml":  # from the JSON, so that both formats hold the same
            text = yaml.dump(json.loads(text), Dumper=StrictDumper, sort_keys=False, allow_unicode=True)
        encoded = text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise FileError(
            "cannot be written", where=str(path), why=cut(error), suggestion="use numbers, texts, lists and mappings"
        ) from error
    write_atomic(path, encoded)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} is given twice")
    return table
