"""The command ``config check``: what a configuration file holds, or what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...support.errors import NoiseSamplingError
from ...support.text_tables import text_table
from ..options import schedule_of

__all__ = ["check"]


def check(
    file: Annotated[Path, typer.Argument(help="A YAML or JSON file of pipelines.")],
    steps: Annotated[int | None, typer.Option(help="Also compile every pipeline for N steps.")] = None,
) -> None:
    """Load a configuration file and say what is in it; exit code 1 if anything is wrong."""
    from ...pipeline.system import AdvancedDiffusionSystem

    system = AdvancedDiffusionSystem(file)
    rows: list[tuple[str, ...]] = [("pipeline", "method", "schedule", "spacing", "prediction")]
    for name in system.list_pipelines():
        pipeline = system.get_pipeline(name)
        if steps is not None and pipeline.sampler.writes_plans:
            try:
                pipeline.plan(steps)
            except NoiseSamplingError as error:
                where = f"{file}: {name}.{error.where}"
                raise type(error)(error.what, where=where, why=error.why, suggestion=error.suggestion) from None
        settings = pipeline.config
        rows.append(
            (name, pipeline.method, schedule_of(pipeline), pipeline.sampler.run_spacing, settings.prediction_type)
        )
    typer.echo(text_table(rows))
