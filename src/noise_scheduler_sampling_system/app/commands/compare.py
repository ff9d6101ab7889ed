"""The command ``compare``: a picture of the samples of every pipeline of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import DIGITS, Steps, check_output, scale_of, schedule_of

__all__ = ["compare"]


def compare(
    config: Annotated[Path, typer.Argument(help="A configuration file.")],
    out: Annotated[Path, typer.Option(help="The picture, a .png file.")],
    steps: Steps = 50,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Classifier-free guidance; default 7.5, as in Python; 1 is none.")
    ] = None,
) -> None:
    """Draw the digits 0 to 9 with every pipeline of a file, from the same noise."""
    import torch

    from ...pipeline.request import DEFAULT_SCALE
    from ...pipeline.system import AdvancedDiffusionSystem
    from ...support.figures import draw_rows, mosaic

    check_output(out, ".png")
    system = AdvancedDiffusionSystem(config)
    labels = torch.arange(DIGITS)
    results = system.compare_schedulers(
        (DIGITS, 1, 8, 8), steps, condition={"class_labels": labels}, seed=seed, **scale_of(guidance_scale)
    )
    scale = DEFAULT_SCALE if guidance_scale is None else guidance_scale
    pipelines = [system.get_pipeline(name) for name in results]
    calls = [p.plan(steps).nfe if p.sampler.writes_plans else steps for p in pipelines]
    draw_rows(
        out,
        title=f"{config.name}: {steps} steps",
        subtitle=f"Digits 0 to 9 from the embedded exact model, seed {seed}, guidance scale {scale:g}.",
        headings=[""],
        labels=[[name, f"{p.method}, {schedule_of(p)}"] for name, p in zip(results, pipelines, strict=True)],
        pictures=[[mosaic(samples, DIGITS)] for samples in results.values()],
        notes=[[f"{nfe} model calls"] for nfe in calls],
    )
    typer.echo(f"wrote {out}: {', '.join(results)}")
