"""The command ``plan``: the table of a sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import (
    Preset,
    SamplerOptions,
    Schedule,
    ScheduleOptions,
    Spacing,
    SpacingOptions,
    Steps,
    check_output,
    pipeline_of,
    settings_of,
)

__all__ = ["plan"]


def plan(
    method: Annotated[str, typer.Argument(help="Sampler.")],
    steps: Steps = 50,
    schedule: Schedule = None,
    spacing: Spacing = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    spacing_option: SpacingOptions = None,
    option: SamplerOptions = None,
    save: Annotated[Path | None, typer.Option(help="Write the plan to this .json or .safetensors file.")] = None,
) -> None:
    """Print the table that a sampler follows."""
    if save is not None:
        check_output(save, ".json", ".safetensors")
    settings = settings_of(schedule, spacing, preset, schedule_option, spacing_option)
    made = pipeline_of(method, settings, option).plan(steps)
    typer.echo(str(made))
    if save is not None:
        made.save(save)
        typer.echo(f"wrote {save}")
