"""Formulas and diagrams of the pages, drawn when the site is built: the reader's browser loads nothing for them.

A page holds TeX between dollar signs and Mermaid in fences, which GitHub draws. Here a formula becomes MathML, and a
flowchart becomes SVG (``flowchart.py``). While Markdown is converted, a word of letters and digits stands for each.
"""

from __future__ import annotations

import re

from latex2mathml.converter import convert

from .flowchart import svg

_CODE = re.compile(r"^(?P<fence>`{3,}|~{3,})(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=fence)[ ]*$|`[^`\n]+`", re.M | re.S)
_DISPLAY = re.compile(r"^\$\$(.+?)\$\$$", re.M | re.S)
_INLINE = re.compile(r"(?<![\\$\w])\$(?=\S)([^$\n]+?)(?<=\S)\$(?![\w$])")
_WORD = re.compile(r"(?P<paragraph><p>)?drawn(?P<kind>inline|display|flowchart)x(?P<hex>[0-9a-f]+)x(?P<end></p>)?")


def set_aside(markdown: str) -> str:
    """A page with a word in place of every formula and flowchart; code is left alone."""
    parts, at = [], 0
    for code in _CODE.finditer(markdown):
        parts.append(_formulas(markdown[at : code.start()]))
        chart = code["fence"] and code["language"].strip() == "mermaid"
        parts.append(_word("flowchart", code["text"]) if chart else code[0])
        at = code.end()
    return "".join([*parts, _formulas(markdown[at:])])


def drawn(html: str) -> str:
    """A page's HTML with the formula or the picture in place of every word of :func:`set_aside`."""

    def draw(word: re.Match[str]) -> str:
        text = bytes.fromhex(word["hex"]).decode()
        if word["kind"] == "inline":
            return f"{word['paragraph'] or ''}{mathml(text)}{word['end'] or ''}"
        picture = svg(text) if word["kind"] == "flowchart" else mathml(text, display=True)
        return f'<div class="{word["kind"]}">{picture}</div>'

    return _WORD.sub(draw, html)


def mathml(tex: str, *, display: bool = False) -> str:
    """A formula in TeX as MathML."""
    return convert(tex.strip(), display="block" if display else "inline")


def _formulas(text: str) -> str:
    text = _DISPLAY.sub(lambda found: _word("display", found[1]), text)
    return _INLINE.sub(lambda found: _word("inline", found[1]), text)


def _word(kind: str, text: str) -> str:
    return f"drawn{kind}x{text.encode().hex()}x"
