"""Pages of the documentation site that are made from the library and from other files of the repository."""

from __future__ import annotations

from . import command_line, examples, names, repository, settings

__all__ = ["pages"]


def pages() -> dict[str, str]:
    """The text of every generated file, by its path in the site's sources."""
    return {**repository.pages(), **settings.pages(), **names.pages(), **command_line.pages(), **examples.pages()}
