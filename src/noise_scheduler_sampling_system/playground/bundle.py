"""The page's modules as one script: browsers refuse modules in a page that is opened from a file.

A module imports names from its siblings by ``import { a, b } from "./other.js";`` and exports functions, classes and
constants where they are defined. Nothing else of the module syntax is used.
"""

from __future__ import annotations

import re
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

__all__ = ["bundle", "web_file"]

_IMPORT: Final = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export ((?:async )?function\*?|class|const|let) (\w+)", re.MULTILINE)
#: The module that starts the page.
_ENTRY: Final = "page"


def _folder() -> Traversable:
    return resources.files(__package__).joinpath("web")


def web_file(name: str) -> str:
    """A file of the page."""
    return _folder().joinpath(name).read_text(encoding="utf-8")


def bundle(entry: str = _ENTRY) -> str:
    """A script that defines each module once, after those that it imports. Its exports are in ``playground``.

    Args:
        entry: the module to begin with.

    Raises:
        ValueError: modules import each other in a circle.
    """
    parts: dict[str, str] = {}

    def add(name: str, waiting: tuple[str, ...]) -> None:
        if name in waiting:
            raise ValueError(f"the modules import each other: {' → '.join((*waiting, name))}")
        if name in parts:
            return
        source = web_file(f"{name}.js")
        for _, other in _IMPORT.findall(source):
            add(other, (*waiting, name))
        parts[name] = _as_function(name, source)

    add(entry, ())
    return "\n".join(['"use strict";', "globalThis.playground = {};", *parts.values()])


def _as_function(name: str, source: str) -> str:
    names = [found[1] for found in _EXPORT.findall(source)]
    inside = _IMPORT.sub(lambda found: f"const {{{found[1]}}} = playground.{found[2]};", source)
    inside = _EXPORT.sub(lambda found: f"{found[1]} {found[2]}", inside)
    return f"playground.{name} = (() => {{\n{inside}\nreturn {{ {', '.join(names)} }};\n}})();"
