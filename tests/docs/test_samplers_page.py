"""docs/samplers.md: what it says of each sampler is what the sampler's docstring says."""

from __future__ import annotations

import samplers_table as made


def test_the_words_of_the_page_are_what_its_command_writes():
    page = made.OUT.read_text(encoding="utf-8")
    assert made.with_words(page) == page, "run python benchmarks/samplers_table.py --words"


def test_a_changed_page_is_noticed():
    page = made.OUT.read_text(encoding="utf-8")
    assert made.with_words(page.replace("arXiv", "paper")) == page
