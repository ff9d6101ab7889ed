"""The script of the site's tables, in a real browser: columns are sorted by their numbers, long tables are filtered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from browser import chromium, watched
from places import ROOT

SCRIPT = ROOT / "docs/assets/tables.js"
#: Names, and numbers as the pages write them; sorted, the numbers rise and the cell without one is last.
NUMBERS = ["< 1e-6", "0.0227", "1.3 → 0.5", "±0.9", "2 steps", "−3", "1,200", "3e−4", "10.", "7 (9)", "–", "2.5"]
RISING = ["−3", "< 1e-6", "3e−4", "0.0227", "1.3 → 0.5", "±0.9", "2 steps", "2.5", "7 (9)", "10.", "1,200"]
NAMES = ["unipc", "ddim", "a1", "Heun", "b10", "b9", "deis", "x0", "edm", "s2", "lms", "m3"]
ROWS = "table:not([class]) tbody tr:not([hidden])"
CELLS = f"(n) => [...document.querySelectorAll('{ROWS}')].map(row => row.cells[n].textContent)"


@pytest.fixture
def page(tmp_path: Any) -> Iterator[Any]:
    rows = "".join(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in zip(NAMES, NUMBERS, strict=True))
    file = tmp_path / "page.html"
    file.write_text(
        f"<!doctype html><meta charset=utf-8><div class=md-content><table><thead><tr><th>name</th><th>error</th></tr>"
        f"</thead><tbody>{rows}</tbody></table><table class=kept><thead><tr><th>a</th></tr></thead><tbody>"
        f"{'<tr></tr>' * 20}</tbody></table></div><script src='{SCRIPT.as_uri()}'></script>",
        encoding="utf-8",
    )
    with chromium() as browser:
        opened = browser.new_page()
        faults = watched(opened, "file://")
        opened.goto(file.as_uri())
        yield opened
        assert not faults


def test_columns_are_sorted_by_number_or_word_in_both_directions_and_rows_are_filtered(page):
    assert page.locator("button.sort").count() == 2  # the table with a class is left alone
    page.get_by_role("button", name="error").click()
    assert page.evaluate(CELLS, 1) == [*RISING, "–"]
    assert page.get_attribute("th >> nth=1", "aria-sort") == "ascending"
    page.get_by_role("button", name="error").press("Enter")
    assert page.evaluate(CELLS, 1) == [*RISING[::-1], "–"]
    page.get_by_role("button", name="name").click()
    assert page.evaluate(CELLS, 0) == sorted(NAMES, key=str.lower)
    assert page.get_attribute("th >> nth=1", "aria-sort") is None
    page.get_by_label("Show only the rows").fill("B 0")
    assert page.evaluate(CELLS, 0) == ["b10"]
    page.get_by_label("Show only the rows").fill("")
    assert len(page.evaluate(CELLS, 0)) == len(NAMES)
