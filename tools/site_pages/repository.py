"""README.md and CONTRIBUTING.md as pages of the site."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The names that files at the root have as pages.
_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "extending.md"}


def pages() -> dict[str, str]:
    """Both pages."""
    return {page: moved((ROOT / file).read_text(encoding="utf-8")) for file, page in _PAGES.items()}


def moved(text: str) -> str:
    """A page of the root with its links as they are from docs/; a link to what the site has not becomes plain text."""
    text = text.replace("](docs/", "](")
    for file, page in _PAGES.items():
        text = text.replace(f"({file}", f"({page}")
    text = re.sub(r"!\[([^]]*)\]\((?!images/|https?:)[^)]*\)", r"\1", text)
    return re.sub(
        r"\[([^]]+)\]\((?:LICENSE|CHANGELOG\.md|(?:benchmarks|examples|src|tests|tools)/[^)]*)\)", r"\1", text
    )
