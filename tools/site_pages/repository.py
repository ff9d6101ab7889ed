"""README.md and other files of the repository's root as pages of the site."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The names that files at the root have as pages.
_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "extending.md", "CHANGELOG.md": "changelog.md"}


def pages() -> dict[str, str]:
    """The pages."""
    return {page: moved((ROOT / file).read_text(encoding="utf-8")) for file, page in _PAGES.items()}


def moved(text: str) -> str:
    """A page of the root with its links as they are from docs/; a link to what the site has not becomes plain text."""
    text = text.replace("](docs/", "](")
    for file, page in _PAGES.items():
        text = text.replace(f"({file}", f"({page}")
    text = text.replace("(examples/README.md)", "(examples.md)")
    text = re.sub(r"\(examples/([\w/]+)\.py\)", lambda found: f"(examples.md#{found[1].replace('/', '-')})", text)
    text = re.sub(r"!\[([^]]*)\]\((?!images/|https?:)[^)]*\)", r"\1", text)
    return re.sub(r"\[([^]]+)\]\((?:LICENSE|(?:benchmarks|examples|src|tests|tools)/[^)]*)\)", r"\1", text)
