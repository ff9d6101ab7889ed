"""The command ``demo``: a picture of every sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Seed
from ..output import Json, Output, Quiet
from ..parsing import check_output

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="The picture, a .png file.")] = Path("demo.png"),
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw digits with few model calls of several samplers, on two models, with their errors."""
    from ..demo import compare_samplers, draw_comparison, summary

    check_output(out, ".png")
    output = Output(as_json, quiet)
    panels = compare_samplers(seed=seed, progress=output.progress)
    if any(panel.comparison.interrupted for panel in panels):
        raise KeyboardInterrupt
    draw_comparison(panels, out)
    output.result({
        "file": str(out.resolve()), "seed": seed,
        "panels": [
            {"title": panel.title, "cells": [cell.to_dict() for cell in panel.comparison.cells.values()]}
            for panel in panels
        ],
    })  # fmt: skip
    output.say(summary(panels))
    output.say(f"wrote {out.resolve()}")
