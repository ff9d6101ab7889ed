"""Links to pages, as a reader of the site sees them: the page's name in the navigation in place of its file."""

from __future__ import annotations

import re
from typing import Any

_LINK = re.compile(r"\[(?:[\w/-]+/)?[\w-]+\.md\]\(((?:\.\./)*(?:[\w-]+/)*[\w-]+\.md)((?:#[\w-]*)?)\)")


def named(markdown: str, navigation: Any) -> str:
    """A page in which a link whose text is the name of a file has the name of that page instead."""
    names = _names(navigation)

    def rename(link: re.Match[str]) -> str:
        page = link[1].removeprefix("../")
        return f"[{names[page]}]({link[1]}{link[2]})" if page in names else link[0]

    return _LINK.sub(rename, markdown)


def _names(part: Any) -> dict[str, str]:
    """The pages of the navigation with their names."""
    found: dict[str, str] = {}
    for entry in part:
        for name, what in entry.items():
            found |= {what: name} if isinstance(what, str) else _names(what)
    return found
