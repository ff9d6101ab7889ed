"""The reference pages name what there is, and the site's navigation names every page."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from site_pages import pages

DOCS = Path(__file__).parents[2] / "docs"
NAMED = [
    (page.name, name)
    for page in sorted((DOCS / "reference").glob("*.md"))
    for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
]


def found(name: str) -> object:
    """The module, class or function of a dotted name."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[k:]:
            thing = getattr(thing, attribute)
        return thing
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize(("page", "name"), NAMED)
def test_a_name_of_the_reference_is_there_and_documented(page, name):
    assert found(name).__doc__


def test_every_page_is_in_the_navigation():
    navigation = (DOCS.parent / "mkdocs.yml").read_text().split("\nnav:")[1]
    named = set(re.findall(r": (\S+\.md)$", navigation, re.M))
    made = {name for name in pages() if name.endswith(".md")}
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert named == there | made
