"""Tables of text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["few", "text_table"]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned columns; the first row holds the headings."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def few(count: int, most: int = 8) -> list[int | None]:
    """The numbers of the columns that a table shows: all, or the first and the last with None between them."""
    if count <= most:
        return list(range(count))
    return [*range(most // 2), None, *range(count - most // 2, count)]
