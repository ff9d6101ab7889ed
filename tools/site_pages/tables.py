"""Tables in Markdown, and docstrings as cells of tables."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

_ROLE = re.compile(r":\w+:`(~?)([^`]+)`")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def code(value: object) -> str:
    """A value as code in a cell."""
    text = str(value).replace("|", "\\|")
    return f"`{text}`" if text else ""


def cell(text: str) -> str:
    """Words of a docstring in one cell."""
    return " ".join(plain(text).split()).replace("|", "\\|")


def plain(text: str) -> str:
    """Words of a docstring as Markdown: roles of Sphinx and double backticks become code."""
    text = _ROLE.sub(lambda found: f"`{found[2].rpartition('.')[2] if found[1] else found[2].lstrip('.')}`", text)
    return text.replace("``", "`")


def section(thing: object, heading: str) -> dict[str, str]:
    """What a section of a docstring ("Options:", "Attributes:", "Args:") says of each name."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    begin = next((at for at, line in enumerate(lines) if re.fullmatch(rf"{heading}\b.*:", line)), len(lines))
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines[begin + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = re.match(r"    ([\w, ]+): (.*)", line)
        if not line.strip():
            continue
        if entry:
            names = [name.strip() for name in entry[1].split(",")]
            found |= dict.fromkeys(names, entry[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def prose(thing: object) -> str:
    """A docstring without its sections ("Options:", "Examples:", ...), as Markdown."""
    kept: list[str] = []
    in_section = False
    for line in (inspect.getdoc(thing) or "").splitlines():
        in_section = re.fullmatch(r"[A-Z]\w+(?:, [^:]*)?:", line) is not None or (in_section and line[:1] in ("", " "))
        if not in_section:
            kept.append(line)
    return plain("\n".join(kept).strip())
