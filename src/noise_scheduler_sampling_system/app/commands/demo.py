"""The command ``demo``: a picture of every sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import check_output

__all__ = ["demo"]


def demo(out: Annotated[Path, typer.Option(help="The picture, a .png file.")] = Path("demo.png")) -> None:
    """Draw digits with every sampler at a few budgets of model calls, with their true errors."""
    from ..demo import compare_samplers, draw_comparison, summary

    check_output(out, ".png")
    rows = compare_samplers()
    draw_comparison(rows, out)
    typer.echo(summary(rows))
    typer.echo(f"wrote {out.resolve()}")
