"""YAML without surprises, within the limits of :mod:`.data_limits`."""

from __future__ import annotations

import re
from typing import Any, final

import yaml
from yaml.composer import Composer

from .data_limits import MOST_LEVELS, MOST_VALUES, TOO_DEEP, too_many
from .errors import cut, shown

__all__ = ["StrictDumper", "StrictLoader"]

_TAG = "tag:yaml.org,2002:"


@final
class StrictLoader(Composer, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
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
        if self._depth >= MOST_LEVELS:
            raise yaml.YAMLError(f"{self._line()}: {TOO_DEEP}")
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
        if self._count > MOST_VALUES["yaml"]:
            raise yaml.YAMLError(
                f"{self._line()}: {too_many('yaml')}, and an alias counts as the values that it stands for"
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


@final
class StrictDumper(yaml.SafeDumper):
    """Writes YAML that :class:`StrictLoader` reads: it puts the text "1e-4" in quotes."""


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: is not a mapping")
    loader.flatten_mapping(node)
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


StrictLoader.add_constructor(f"{_TAG}map", _mapping)
for _kind in ("binary", "omap", "pairs", "set", "timestamp"):  # which JSON does not have
    StrictLoader.add_constructor(f"{_TAG}{_kind}", yaml.SafeLoader.construct_undefined)
StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in StrictLoader.yaml_implicit_resolvers.items()
}
for _class in (StrictLoader, StrictDumper):
    _class.add_implicit_resolver(
        f"{_TAG}float",
        re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
    )
