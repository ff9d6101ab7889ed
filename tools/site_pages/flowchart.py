"""Flowcharts of Mermaid as SVG, for the pages of the site: boxes with lines of text, and arrows between them.

Known is what the pages use: ``flowchart TB`` or ``LR``, nodes ``name["text<br/>text"]``, and arrows ``a --> b``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape

_NODE = re.compile(r'(\w+)(?:\["([^"]*)"\])?')
_CHARACTER, _LINE, _PADDING = 7.4, 18, 12  # in pixels
_BETWEEN, _BESIDE = 34, 26


@dataclass(frozen=True)
class Chart:
    """A flowchart: the lines of each node's text by its name, and the arrows."""

    down: bool
    nodes: dict[str, tuple[str, ...]]
    arrows: tuple[tuple[str, str], ...]

    def ranks(self) -> list[list[str]]:
        """Nodes by the length of the longest way to them; beside each other in the order of what leads to them."""
        depth = dict.fromkeys(self.nodes, 0)
        for _ in self.nodes:
            for start, end in self.arrows:
                depth[end] = max(depth[end], depth[start] + 1)
        if max(depth.values()) >= len(self.nodes):
            raise ValueError("the arrows of the flowchart form a circle")
        followed = {start: min(depth[end] for begin, end in self.arrows if begin == start) for start, _ in self.arrows}
        for name in self.nodes:  # a node that nothing leads to stands just before what follows it
            if name in followed and not any(end == name for _, end in self.arrows):
                depth[name] = followed[name] - 1
        rows: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
        for name in self.nodes:
            rows[depth[name]].append(name)
        return rows


def parsed(text: str) -> Chart:
    """The flowchart of a text.

    Raises:
        ValueError: a line that is not known.
    """
    head, *lines = [line.strip() for line in text.strip().splitlines()]
    if head not in ("flowchart TB", "flowchart LR"):
        raise ValueError(f"a flowchart begins with 'flowchart TB' or 'flowchart LR', not {head!r}")
    nodes: dict[str, tuple[str, ...]] = {}
    arrows = []
    for line in filter(None, lines):
        ends = [_NODE.fullmatch(end.strip()) for end in line.split("-->")]
        if len(ends) != 2 or None in ends:
            raise ValueError(f"not an arrow between two nodes: {line!r}")
        for end in ends:
            if end and (end[2] is not None or end[1] not in nodes):
                nodes[end[1]] = tuple((end[2] if end[2] is not None else end[1]).split("<br/>"))
        arrows.append((str(ends[0][1]), str(ends[1][1])))  # type: ignore[index]
    return Chart(head.endswith("TB"), nodes, tuple(arrows))


def svg(text: str) -> str:
    """The picture of a flowchart; its colours are those of the page."""
    chart = parsed(text)
    size = {
        name: (max(map(len, lines)) * _CHARACTER + 2 * _PADDING, len(lines) * _LINE + 2 * _PADDING - 4)
        for name, lines in chart.nodes.items()
    }
    along = 1 if chart.down else 0  # the coordinate in which the arrows run
    ranks = chart.ranks()
    widths = [sum(size[n][1 - along] for n in rank) + _BESIDE * (len(rank) - 1) for rank in ranks]
    place: dict[str, tuple[float, float]] = {}
    at = 2.0
    for rank, width in zip(ranks, widths, strict=True):
        deep, beside = max(size[n][along] for n in rank), 2.0 + (max(widths) - width) / 2
        for name in rank:
            place[name] = (beside, at + (deep - size[name][1]) / 2) if chart.down else (at, beside)
            beside += size[name][1 - along] + _BESIDE
        at += deep + _BETWEEN
    extent = (max(widths) + 4, at - _BETWEEN + 2) if chart.down else (at - _BETWEEN + 2, max(widths) + 4)
    arrows = [_arrow(chart.down, place[a], size[a], place[b], size[b]) for a, b in chart.arrows]
    boxes = [_box(lines, place[name], size[name]) for name, lines in chart.nodes.items()]
    said = "; ".join(f"{chart.nodes[a][0]} leads to {chart.nodes[b][0]}" for a, b in chart.arrows)
    return (
        f'<svg role="img" viewBox="0 0 {extent[0]:.0f} {extent[1]:.0f}" style="max-width:{extent[0]:.0f}px" '
        f'aria-label="{escape(said)}">{"".join(arrows + boxes)}</svg>'
    )


def _arrow(down: bool, start: tuple[float, float], of: tuple[float, float], end: tuple[float, float],
           at: tuple[float, float]) -> str:  # fmt: skip
    if down:
        x1, y1, x2, y2 = start[0] + of[0] / 2, start[1] + of[1], end[0] + at[0] / 2, end[1]
        head = f"M{x2 - 5:.1f} {y2 - 8:.1f}L{x2:.1f} {y2:.1f}L{x2 + 5:.1f} {y2 - 8:.1f}"
        line = f"M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + 22:.1f} {x2:.1f} {y2 - 24:.1f} {x2:.1f} {y2 - 1:.1f}"
    else:
        x1, y1, x2, y2 = start[0] + of[0], start[1] + of[1] / 2, end[0], end[1] + at[1] / 2
        head = f"M{x2 - 8:.1f} {y2 - 5:.1f}L{x2:.1f} {y2:.1f}L{x2 - 8:.1f} {y2 + 5:.1f}"
        line = f"M{x1:.1f} {y1:.1f}C{x1 + 22:.1f} {y1:.1f} {x2 - 24:.1f} {y2:.1f} {x2 - 1:.1f} {y2:.1f}"
    return f'<path class="arrow" d="{line}"/><path class="arrow" d="{head}"/>'


def _box(lines: tuple[str, ...], place: tuple[float, float], size: tuple[float, float]) -> str:
    x, y = place
    words = "".join(
        f'<text class="{"name" if k == 0 else "note"}" x="{x + size[0] / 2:.1f}" '
        f'y="{y + _PADDING + 10 + k * _LINE:.1f}">{escape(line)}</text>'
        for k, line in enumerate(lines)
    )
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{size[0]:.1f}" height="{size[1]:.1f}" rx="6"/>{words}'
