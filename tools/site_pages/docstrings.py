"""Docstrings as the reference pages show them: an extension of griffe, which reads them for mkdocstrings."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

from .tables import plain

_SECTION = re.compile(r"(Args|Attributes|Options)(?:, [^:]*)?:")
_SEVERAL = re.compile(r"(    )((?:\w+, )+\w+): (.*)")


class PlainDocstrings(Extension):
    """Roles become code, "Options:" a table as of parameters, and "a, b: text" two rows."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for every object of the library."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)


def shown(text: str) -> str:
    """A docstring as griffe understands it."""
    lines: list[str] = []
    repeated: list[tuple[str, list[str]]] = []  # further names of an entry, with the lines that they share
    in_section = False

    def repeat() -> None:
        for name, shared in repeated:
            lines.extend([f"    {name}: {shared[0]}", *shared[1:]])
        repeated.clear()

    for line in plain(text).splitlines():
        if _SECTION.fullmatch(line):
            in_section = True
            lines.append(re.sub(r"^Options.*:$", "Keyword Args: Options:", line))
            continue
        continues = line.startswith("     ")
        if not continues:
            repeat()
        if line and not line.startswith(" "):
            in_section = False
        several = _SEVERAL.fullmatch(line) if in_section else None
        if several:
            first, *others = several[2].split(", ")
            repeated.extend((name, [several[3]]) for name in others)
            line = f"    {first}: {several[3]}"
        elif continues:
            for _, shared in repeated:
                shared.append(line)
        lines.append(line)
    repeat()
    return "\n".join(lines)
