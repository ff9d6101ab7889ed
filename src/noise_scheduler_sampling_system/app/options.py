"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from . import completion

__all__ = [
    "DIGITS", "Device", "GuidanceScale", "MaxBatchSize", "Model", "NegativePrompt", "PlanEvaluations", "Prediction",
    "Preset", "Prompt", "SamplerOptions", "Schedule", "ScheduleOptions", "Seed", "Spacing", "SpacingOptions", "Steps",
]  # fmt: skip

#: The number of classes of the embedded models.
DIGITS: Final = 10

_PATH: Final = "Noise schedule and grid"
_MODEL: Final = "Model"

Model = Annotated[
    str,
    typer.Option(
        help="digits, mnist, module:attribute (a callable or a diffusers pipeline), or a folder that diffusers saved.",
        autocompletion=completion.models,
        rich_help_panel=_MODEL,
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option(help="Text for a pipeline of diffusers, one a sample; repeatable.", rich_help_panel=_MODEL),
]
NegativePrompt = Annotated[
    list[str] | None,
    typer.Option(help="Text to stay away from, one for all or one a sample; repeatable.", rich_help_panel=_MODEL),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        help="Classifier-free guidance with --labels or --prompt; 1 is none. Default, as in Python: what a plan holds, "
        "that of a pipeline of diffusers, else 7.5.",
        rich_help_panel=_MODEL,
    ),
]
Prediction = Annotated[
    str | None,
    typer.Option(
        help="What the model predicts: epsilon, sample, v_prediction, flow_prediction; default: what it says itself, "
        "else what suits the schedule.",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="Where to run: cpu, cuda, mps; auto: that of your model, else CUDA, MPS or CPU.", rich_help_panel=_MODEL
    ),
]
MaxBatchSize = Annotated[
    int | None, typer.Option(help="The most samples to run at a time; default: all.", rich_help_panel=_MODEL)
]
Schedule = Annotated[
    str | None,
    typer.Option(
        help="Noise schedule; default linear. 'noise-sampling schedules' lists them.",
        autocompletion=completion.schedules,
        rich_help_panel=_PATH,
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        help="Timestep spacing; default: the one that suits the sampler. 'noise-sampling spacings' lists them.",
        autocompletion=completion.spacings,
        rich_help_panel=_PATH,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Settings of a published model, e.g. sdxl, or with the number of tokens that its levels depend on, e.g. "
        "flux-2:4096. 'noise-sampling presets' lists them.",
        autocompletion=completion.presets,
        rich_help_panel=_PATH,
    ),
]
ScheduleOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--schedule-option", help="An option of the schedule, e.g. shift=3; repeatable.", rich_help_panel=_PATH
    ),
]
SpacingOptions = Annotated[
    list[str] | None,
    typer.Option("--spacing-option", help="An option of the spacing, e.g. rho=5; repeatable.", rich_help_panel=_PATH),
]
SamplerOptions = Annotated[
    list[str] | None, typer.Option("--option", "-o", help="A sampler option, key=value; repeatable.")
]
PlanEvaluations = Annotated[
    int | None, typer.Option("--evaluations", help="Of a file with several plans: the one of N evaluations.")
]
Steps = Annotated[int, typer.Option(help="Steps N, the intervals of the grid.")]
Seed = Annotated[int, typer.Option(help="Seed of the noise, a whole number ≥ 0.")]
