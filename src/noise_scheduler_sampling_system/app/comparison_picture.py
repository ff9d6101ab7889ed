"""Pictures of comparisons: every pipeline of a file, or every cell of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..support.errors import ConfigurationError
from .options import DIGITS
from .output import Output
from .pipelines import schedule_of, system_of

if TYPE_CHECKING:
    from ..comparison import Comparison

__all__ = ["draw_cells", "draw_pipelines"]

#: Samples of a cell that are drawn.
_SHOWN = 10


def draw_pipelines(
    config: Path, out: Path, steps: int, seed: int, guidance_scale: float | None, output: Output
) -> None:  # fmt: skip
    """Draw the digits 0 to 9 with every pipeline of a file, from the same noise, in the same number of steps."""
    import torch

    from ..pipeline.request import DEFAULT_SCALE
    from ..support.figures import draw_rows, mosaic

    system = system_of(config)
    labels = torch.arange(DIGITS)
    scale: dict[str, Any] = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    results = system.compare_schedulers(
        (DIGITS, 1, 8, 8), steps, condition={"class_labels": labels}, seed=seed, progress=output.progress, **scale
    )
    pipelines = [system.get_pipeline(name) for name in results]
    calls = [p.plan(steps).nfe if p.sampler.writes_plans else steps for p in pipelines]
    draw_rows(
        out,
        title=f"{config.name}: {steps} steps",
        subtitle="Digits 0 to 9 from the embedded exact model, "
        f"seed {seed}, guidance scale {DEFAULT_SCALE if guidance_scale is None else guidance_scale:g}.",
        headings=[""],
        labels=[[name, f"{p.method}, {schedule_of(p)}"] for name, p in zip(results, pipelines, strict=True)],
        pictures=[[mosaic(samples, DIGITS)] for samples in results.values()],
        notes=[[f"{nfe} model calls"] for nfe in calls],
    )
    output.result({
        "file": str(out), "steps": steps, "seed": seed,
        "pipelines": [{"name": name, "nfe": nfe} for name, nfe in zip(results, calls, strict=True)],
    })  # fmt: skip
    output.say(f"wrote {out}: {', '.join(results)}")


def draw_cells(comparison: Comparison, out: Path) -> None:
    """Draw the first samples of every cell: one row for each entry, one column for each budget.

    Raises:
        ConfigurationError: the samples are no pictures.
    """
    import numpy as np

    from ..comparison.comparison import note
    from ..support.figures import draw_rows, mosaic

    cells = [[comparison.cell(each.name, budget) for budget in comparison.budgets] for each in comparison.entries]
    drawn = [
        [None if c.pictures is None else mosaic(c.pictures[:_SHOWN], 5, paper=each.white_on_black) for c in row]
        for each, row in zip(comparison.entries, cells, strict=True)
    ]
    some = next((picture for row in drawn for picture in row if picture is not None), None)
    if some is None:
        raise ConfigurationError(
            "the samples are no pictures", where="out", suggestion="write a .html, .json or .csv file"
        )
    seeds = comparison.about["seeds"]
    draw_rows(
        out,
        title="Samplers at equal model calls",
        subtitle=f"The first {_SHOWN} samples of seed {seeds[0]}. Numbers: root mean square error against the "
        "solution.",
        headings=[f"≤ {comparison.heading(budget)}" for budget in comparison.budgets],
        labels=[each.name.split(", ") for each in comparison.entries],
        pictures=[[np.ones_like(some) if picture is None else picture for picture in row] for row in drawn],
        notes=[[note(comparison, cell) for cell in row] for row in cells],
    )
