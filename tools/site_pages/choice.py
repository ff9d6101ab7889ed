"""The measured table of docs/choose.md: errors at equal model calls and orders, read from docs/samplers.md."""

from __future__ import annotations

import re
from pathlib import Path

from noise_scheduler_sampling_system.config.registries import SAMPLERS

from .tables import table

#: Where the table stands in the page; the page in the repository links to docs/samplers.md instead.
PLACE = "<!-- measured table -->"
_MEASURED = Path(__file__).parents[2] / "docs" / "samplers.md"


def with_table(markdown: str) -> str:
    """The page with the table in its place."""
    return markdown.replace(PLACE, measured()) if PLACE in markdown else markdown


def measured() -> str:
    """Each deterministic sampler with its default options: order, calls a step, and the error within N calls."""
    orders = {name: cells for name, *cells in _rows("## Orders")}
    head, rows = _head("## Error at equal model calls"), []
    for name, *errors in _rows("## Error at equal model calls"):
        if name.strip("`") in SAMPLERS:
            calls, order, *_ = orders.get(name, ["", ""])
            numbers = [error.split()[0] for error in errors]
            rows.append([name, order.split("→")[-1].strip(), calls, *numbers])
    return table(["sampler", "measured order", "calls a step", *head[1:]], rows)


def _section(heading: str) -> list[list[str]]:
    text = _MEASURED.read_text(encoding="utf-8").split(f"{heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def _head(heading: str) -> list[str]:
    return _section(heading)[0]


def _rows(heading: str) -> list[list[str]]:
    return _section(heading)[2:]
