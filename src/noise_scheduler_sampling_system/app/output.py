"""What a command prints: tables and sentences for people, JSON for programs; messages and progress on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, final

import typer

from ..support.text_tables import text_table

__all__ = ["Json", "LogLines", "Output", "Quiet", "complain"]

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON; nothing else goes to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes; lists print names only.")]

#: Spaces between the columns of a table.
_GAP: Final = 2
#: The fewest characters of a column that folds.
_NARROWEST: Final = 22


@final
@dataclass(frozen=True)
class Output:
    """Where the results of a command go.

    Attributes:
        as_json: results are JSON on stdout, and nothing else is.
        quiet: no sentences, no progress.
    """

    as_json: bool = False
    quiet: bool = False

    @property
    def progress(self) -> bool:
        """Whether to show a progress bar: on a terminal, on stderr."""
        return not self.quiet and sys.stderr.isatty()

    def result(self, data: Any) -> None:
        """A result as JSON, if that was asked for. NaN and infinity become null."""
        if self.as_json:
            typer.echo(json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False))

    def say(self, text: str) -> None:
        """A sentence about what was done."""
        if not self.as_json and not self.quiet:
            typer.echo(_wrapped(text) if sys.stdout.isatty() else text)

    def names(self, names: Sequence[str]) -> bool:
        """In place of a table: names, one a line, where only they were asked for. Returns whether it printed them."""
        if self.quiet and not self.as_json:
            typer.echo("\n".join(names))
        return self.quiet and not self.as_json

    def table(
        self,
        rows: Sequence[Sequence[str]],
        *,
        numbers: Collection[int] = (),
        folds: Collection[int] = (),
        drops: Sequence[int] = (),
    ) -> None:
        """A table; its first row holds the headings.

        In a pipe each row is one line. On a terminal that is too narrow, columns are folded; if none may be, the
        columns are printed in blocks that fit, each with the first column.

        Args:
            rows: of cells, all of one length.
            numbers: the columns that are aligned to the right.
            folds: the columns that may be folded.
            drops: the columns to leave out, in this order, where too little is left for those that fold.
        """
        if self.as_json or self.quiet:
            return
        if not sys.stdout.isatty():
            typer.echo(text_table(rows))
            return
        width, kept = _width(), list(range(len(rows[0])))
        for column in drops:
            if _least(rows, kept, folds) > width:
                kept.remove(column)
        for columns in [kept] if folds else _blocks(rows, width):
            _print_rich(
                [[row[c] for c in columns] for row in rows],
                [c in numbers for c in columns], [c in folds for c in columns] if folds else [True] * len(columns),
                width,
            )  # fmt: skip

    def lines(self, lines: Sequence[str]) -> None:
        """A table of numbers that is text already: on a narrow terminal in blocks of columns."""
        if not sys.stdout.isatty() or max(map(len, lines)) <= _width():
            self.say_as_is(lines)
            return
        cells = [line.split() for line in lines]
        rows = [row if len(row) == len(cells[0]) else ["..."] * len(cells[0]) for row in cells]
        self.table(rows, numbers=range(len(rows[0])))

    def say_as_is(self, lines: Sequence[str]) -> None:
        """Lines that are not wrapped."""
        if not self.as_json and not self.quiet:
            typer.echo("\n".join(lines))


@final
class LogLines(logging.Handler):
    """Prints log messages on stderr as the command prints errors.

    Args:
        named: whether to name the logger.
    """

    def __init__(self, *, named: bool) -> None:
        super().__init__()
        self._named = named

    def emit(self, record: logging.LogRecord) -> None:
        name = f" {record.name}" if self._named else ""
        complain(self.format(record), f"{record.levelname.lower()}{name}")


def complain(text: str, category: str = "") -> None:
    """A message on stderr, wrapped on a terminal; the category in red there."""
    lines = f"{category}: {text}" if category else text
    if sys.stderr.isatty():
        lines = _wrapped(lines)
        if category and lines.startswith(category):
            lines = typer.style(category, fg="red", bold=True) + lines[len(category) :]
    with contextlib.suppress(OSError):  # stderr is closed
        typer.echo(lines, err=True)


def _width() -> int:
    return shutil.get_terminal_size().columns


def _wrapped(text: str) -> str:
    """Lines broken between words, with their indent."""
    broken: list[str] = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())] + "  "
        broken += textwrap.wrap(
            line, _width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
        ) or [""]  # fmt: skip
    return "\n".join(broken)


def _blocks(rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """The columns in groups that fit, each with the first one."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    blocks: list[list[int]] = [[0]]
    used = widths[0]
    for column in range(1, len(widths)):
        if used + _GAP + widths[column] > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(column)
        used += _GAP + widths[column]
    return blocks


def _least(rows: Sequence[Sequence[str]], columns: Sequence[int], folds: Collection[int]) -> int:
    """The width that columns need if those that fold are as narrow as they may be."""
    widths = [max(len(row[c]) for row in rows) for c in columns]
    needed = (min(w, _NARROWEST) if c in folds else w for c, w in zip(columns, widths, strict=True))
    return sum(needed) + _GAP * (len(columns) - 1)


def _print_rich(rows: Sequence[Sequence[str]], right: Sequence[bool], folds: Sequence[bool], width: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column, heading in enumerate(rows[0]):
        table.add_column(
            Text(heading), justify="right" if right[column] else "left", overflow="fold", no_wrap=not folds[column],
            min_width=min(_NARROWEST, max(len(row[column]) for row in rows)) if folds[column] else None,
        )  # fmt: skip
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    Console(file=sys.stdout, width=width, soft_wrap=False).print(table)


def _plain(data: Any) -> Any:
    """Data as JSON has it: texts, numbers, lists and mappings; what is not finite is null."""
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple | set | frozenset):
        return [_plain(value) for value in data]
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    plain: Callable[[], Any] | None = getattr(data, "tolist", None)
    if plain is not None:
        return _plain(plain())
    return data if isinstance(data, str | int | bool | None) else str(data)
