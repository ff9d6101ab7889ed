"""The page of a comparison in a real browser, opened from its file: at the width of a desk and of a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from browser import chromium, watched
from noise_scheduler_sampling_system.comparison import Comparison, compare
from noise_scheduler_sampling_system.comparison.snippets import as_diffusers, as_python, as_yaml

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
#: A name that would end a script or an attribute.
HOSTILE = "</script><b title='x'>\"ünï ✓ $data$ \\1"
DRAWN = "() => [...document.querySelectorAll('.plot')].every(each => each.querySelector('svg'))"
#: The texts that label parts of the page.
LABELS = """() => [...document.querySelectorAll('[aria-labelledby]')].map(
  each => document.getElementById(each.getAttribute('aria-labelledby'))?.textContent ?? '')"""
#: Which of the two pictures of a cell is seen.
SEEN = "figure => [...figure.querySelectorAll('img')].map(each => getComputedStyle(each).visibility !== 'hidden' " \
    "&& getComputedStyle(each).display !== 'none' && Number(getComputedStyle(each).opacity) > 0.5)"  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Comparison:
    rows = {"DDIM": "ddim", HOSTILE: "unipc", "with noise": "ddpm", "adaptive": "adaptive"}
    condition = {"class_labels": torch.arange(10)}
    return compare(
        rows, nfe=(1, 3, 6), shape=(10, 1, 8, 8), condition=condition, guidance_scale=2.0, reference_calls=24
    )


@pytest.fixture(scope="module")
def file(found: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "comparison.html"
    found.save(made)
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def open_page(browser: Any, file: Path) -> Iterator[Any]:
    contexts, faults = [], []

    def opened(size: dict[str, int]) -> Any:
        context = browser.new_context(viewport=size, permissions=["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        faults.append(watched(page, file.as_uri()))
        page.goto(file.as_uri())
        page.wait_for_function(DRAWN)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == [[]] * len(contexts)


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_opens_without_an_error_or_a_request_and_fits_its_width(open_page, size):
    page = open_page(size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    text = page.inner_text("body")
    assert HOSTILE in text  # as text, and not as tags
    assert "it chooses its number of model calls by its tolerance" in page.inner_text(".numbers")
    for id_, value in (("axis", "evaluations"), ("measure", "median"), ("budget", "6"), ("plan-entry", HOSTILE)):
        page.select_option(f"#{id_}", value)
    assert "content hash" in page.inner_text("#plan-about")
    labelled = page.evaluate(LABELS)
    assert all(labelled)


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_hover_focus_and_a_choice_show_the_difference_to_the_solution(open_page, size):
    page = open_page(size)
    figure = page.locator(".grid figure:has(.difference)").first
    assert figure.evaluate(SEEN) == [True, False]
    figure.hover()
    page.wait_for_function(f"figure => ({SEEN})(figure)[1]", arg=figure.element_handle())
    page.mouse.move(0, 0)
    page.wait_for_function(f"figure => !({SEEN})(figure)[1]", arg=figure.element_handle())
    figure.focus()
    page.wait_for_function(f"figure => ({SEEN})(figure)[1]", arg=figure.element_handle())
    page.evaluate("document.activeElement.blur()")
    page.select_option("#show", "differences")
    page.wait_for_function(f"figure => ({SEEN})(figure)[1]", arg=figure.element_handle())


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_buttons_copy_what_python_writes(open_page, found, size):
    page = open_page(size)
    entry = next(each for each in found.entries if each.name == HOSTILE)
    cell = found.cell(HOSTILE, 6)
    expected = {
        "python": as_python(entry, cell, found.about),
        "yaml": as_yaml(entry, cell),
        "diffusers": as_diffusers(entry, cell, found.about),
    }
    row = page.locator(".grid tbody tr").nth(1)
    for form, text in expected.items():
        row.locator(f"[data-format={form}]").click()
        page.wait_for_function("() => document.getElementById('toast').textContent.startsWith('copied')")
        assert page.evaluate("navigator.clipboard.readText()") == text
        page.evaluate("document.getElementById('toast').textContent = ''")
        page.select_option("#entry", HOSTILE)
        page.select_option("#code-budget", "6")
        page.select_option("#format", form)
        assert page.inner_text("#code").strip() == text.strip()
