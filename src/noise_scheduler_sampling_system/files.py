"""Files written whole or not at all, and read with errors that name them."""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

import yaml

from .errors import FileError

__all__ = ["read_bytes", "read_table", "refuse_missing_folder", "table_format", "write_atomic", "write_table"]

_MERGE = "tag:yaml.org,2002:merge"
_FORMATS = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}


def refuse_missing_folder(path: str | os.PathLike[str]) -> None:
    """Raises FileError where a file could not be written in the end, before what it is to hold is made."""
    folder = Path(path).resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise FileError(
            f"its folder {folder} is missing, or not writable", where=str(path), suggestion="make it, or name another"
        )


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name beside it and move it into place.

    Raises:
        FileError: the folder is missing or not writable; the old file is then untouched.
    """
    target = Path(path)
    if target.is_symlink():  # replace what the link points to, not the link
        target = target.resolve()
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(
            "cannot be written",
            where=str(path),
            why=error.strerror or str(error),
            suggestion="check that the folder exists and is writable",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file.

    Raises:
        FileError: it is missing or unreadable.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(
            "cannot be read", where=str(path), why=error.strerror or str(error), suggestion="check the path"
        ) from error


def table_format(path: str | os.PathLike[str]) -> str:
    """ "yaml" or "json", by the file's ending.

    Raises:
        FileError: another ending.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise FileError(
            f"the ending {suffix!r} names no format", where=str(path), suggestion="use .yaml, .yml or .json"
        )
    return _FORMATS[suffix]


def read_table(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Raises:
        FileError: missing, malformed (with the line), a key given twice, or not a mapping.
    """
    kind = table_format(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")  # as some editors begin a file
        if kind == "yaml":
            data = yaml.load(text, Loader=_StrictLoader)
        else:
            data = json.loads(text, object_pairs_hook=_unique_keys)
    except (yaml.YAMLError, ValueError) as error:
        raise FileError(
            f"is not valid {kind.upper()}", where=str(path), why=str(error), suggestion="mend the line it names"
        ) from error
    if not isinstance(data, dict):
        raise FileError(
            "holds no mapping",
            where=str(path),
            why=f"its top level is {type(data).__name__}",
            suggestion="write name: {setting: value, ...}",
        )
    return data


def write_table(path: str | os.PathLike[str], data: dict[str, Any]) -> None:
    """Write a mapping as YAML or JSON, by the file's ending, whole or not at all.

    Raises:
        FileError: another ending, a value that neither format has, or a file that cannot be written.
    """
    kind = table_format(path)
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise FileError(
            "cannot be written", where=str(path), why=str(error), suggestion="use numbers, texts, lists and mappings"
        ) from error
    if kind == "yaml":  # from the JSON, so that both formats hold the same
        text = yaml.dump(json.loads(text), Dumper=_StrictDumper, sort_keys=False, allow_unicode=True)
    write_atomic(path, text.encode("utf-8"))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return table


class _StrictLoader(yaml.SafeLoader):
    """YAML as people mean it: 1e-4 is a number, and a key given twice is an error."""


class _StrictDumper(yaml.SafeDumper):
    """Writes what :class:`_StrictLoader` reads: the text "1e-4" in quotes."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    written = [key for key, _ in node.value if key.tag != _MERGE]
    keys = [loader.construct_object(key, deep=True) for key in written]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            line = written[i].start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: the key {key!r} is given twice")
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
for _kind in (_StrictLoader, _StrictDumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
    )
