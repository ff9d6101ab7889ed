"""Plain data in strict YAML and JSON, with limits, so that a small file cannot take minutes or all memory."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import yaml
from yaml.composer import Composer

from .errors import FileError, cut, shown
from .files import checked_path, read_bytes, write_atomic

__all__ = [
    "parse_json",
    "read_json",
    "read_table",
    "refuse_unreadable",
    "table_format",
    "to_json",
    "write_json",
    "write_table",
]

#: The most bytes of a file.
_BYTES = {"yaml": 4 * 2**20, "json": 64 * 2**20}
#: The most values in a file. An alias in YAML counts as the values that it stands for.
_VALUES = {"yaml": 20_000, "json": 1_200_000}
#: The most levels of nested lists and mappings.
_DEPTH = 64
#: The most keys of one mapping.
_KEYS = 1_000
#: The most characters of one text.
_TEXT = 100_000
#: The most bits of a whole number. A larger one has no float.
_BITS = 1024

_TAG = "tag:yaml.org,2002:"
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
        parsed = yaml.load(text, Loader=_StrictLoader)
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
    if text.count(",") > _VALUES["json"]:  # before the time to read them is spent
        raise ValueError(_too_many("json"))
    try:
        data = json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
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
        raise ValueError(_TOO_DEEP) from None


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
            text = yaml.dump(json.loads(text), Dumper=_StrictDumper, sort_keys=False, allow_unicode=True)
        encoded = text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise FileError(
            "cannot be written", where=str(path), why=cut(error), suggestion="use numbers, texts, lists and mappings"
        ) from error
    write_atomic(path, encoded)


_TOO_DEEP = f"lists and mappings are nested more than {_DEPTH} levels deep"


def refuse_unreadable(data: Any, kind: str = "json") -> None:
    """Raise ValueError for plain data beyond the limits of a kind of file. Works level by level, without recursion."""
    count, level = 0, [data]
    for _ in range(_DEPTH + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if len(value) > _KEYS:
                    raise ValueError(f"a mapping has {len(value)} keys, more than {_KEYS}")
                for key in value:
                    _refuse_scalar(key)
                count += len(value)
                inner.extend(value.values())
            elif isinstance(value, list | tuple):
                count += len(value)
                inner.extend(each for each in value if type(each) is not float)
            else:
                _refuse_scalar(value)
        if count > _VALUES[kind]:
            raise ValueError(_too_many(kind))
        if not inner:
            return
        level = inner
    raise ValueError(_TOO_DEEP)


def _too_many(kind: str) -> str:
    more = "; a .json file may have more" if kind == "yaml" else ""
    return f"there are more than {_VALUES[kind]} values{more}"


def _refuse_scalar(value: Any) -> None:
    if isinstance(value, str):
        if len(value) > _TEXT:
            raise ValueError(f"a text has {len(value)} characters, more than {_TEXT}")
        if not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise ValueError("a text holds half of a character (a lone surrogate)")
    elif isinstance(value, int) and value.bit_length() > _BITS:
        raise ValueError(f"a whole number has {value.bit_length()} bits, more than {_BITS}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} is given twice")
    return table


class _StrictLoader(Composer, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which 1e-4 is a number, a key is a text, and a key given twice is an error.

    libyaml parses the text where it is installed. The tree is built here, so that a limit stops a file before it takes
    the memory.
    """

    def __init__(self, text: str) -> None:
        super(Composer, self).__init__(text)
        Composer.__init__(self)
        self._depth, self._count = 0, 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        before = self._count
        if self.check_event(yaml.AliasEvent):
            return self._aliased(super().compose_node(parent, index))
        if self._depth >= _DEPTH:
            raise yaml.YAMLError(f"{self._line()}: {_TOO_DEEP}")
        self._counted(1)
        self._depth += 1
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            self._sizes[node] = self._count - before
        return node

    def _aliased(self, node: Any) -> Any:
        if node not in self._sizes:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the anchor here holds an alias of itself")
        self._counted(self._sizes[node])
        return node

    def _counted(self, more: int) -> None:
        self._count += more
        if self._count > _VALUES["yaml"]:
            raise yaml.YAMLError(
                f"{self._line()}: {_too_many('yaml')}, and an alias counts as the values that it stands for"
            )

    def _line(self) -> str:
        event = self.peek_event()
        return f"line {event.start_mark.line + 1}" if event is not None else "the end"

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {line}: a key is a list or a mapping (unhashable); it must be a text")
            if key.tag != f"{_TAG}merge" and key.value in seen:
                raise yaml.YAMLError(f"line {line}: the key {shown(key.value)} is given twice")
            if key.tag != f"{_TAG}merge":
                seen.add(key.value)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):  # of int(""), float("x"), ...
            kind = node.tag.removeprefix(_TAG)
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1}: {shown(node.value)} is not a valid {cut(kind, 40)}"
            ) from None


class _StrictDumper(yaml.SafeDumper):
    """Writes YAML that :class:`_StrictLoader` reads: it puts the text "1e-4" in quotes."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: is not a mapping")
    loader.flatten_mapping(node)
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


_StrictLoader.add_constructor(f"{_TAG}map", _mapping)
for _kind in ("binary", "omap", "pairs", "set", "timestamp"):  # which JSON does not have
    _StrictLoader.add_constructor(f"{_TAG}{_kind}", yaml.SafeLoader.construct_undefined)
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in _StrictLoader.yaml_implicit_resolvers.items()
}
for _class in (_StrictLoader, _StrictDumper):
    _class.add_implicit_resolver(
        f"{_TAG}float",
        re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
    )
