"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import yaml

from ..support.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipeline.pipeline import DiffusionPipeline

__all__ = [
    "DIGITS", "GuidanceScale", "Preset", "SamplerOptions", "Schedule", "ScheduleOptions", "Spacing", "SpacingOptions",
    "Steps", "check_output", "integers", "key_values", "labels_of", "pipeline_in", "pipeline_of", "scale_of",
    "schedule_of", "settings_of",
]  # fmt: skip

#: The number of classes of the embedded model.
DIGITS: Final = 10
#: Characters of a text that an error quotes.
_QUOTED = 300

Schedule = Annotated[str | None, typer.Option(help="Noise schedule; default linear.")]
Spacing = Annotated[str | None, typer.Option(help="Timestep spacing; default: the one that suits the sampler.")]
Preset = Annotated[str | None, typer.Option(help="Settings of a published model, e.g. sdxl, sd3, flux-dev.")]
ScheduleOptions = Annotated[
    list[str] | None, typer.Option("--schedule-option", help="An option of the schedule, e.g. shift=3; repeatable.")
]
SpacingOptions = Annotated[
    list[str] | None, typer.Option("--spacing-option", help="An option of the spacing, e.g. rho=5; repeatable.")
]
Steps = Annotated[int, typer.Option(help="Steps N, the intervals of the grid.")]
GuidanceScale = Annotated[
    float | None, typer.Option(help="Classifier-free guidance with --labels; default 7.5, as in Python; 1 is none.")
]
SamplerOptions = Annotated[
    list[str] | None, typer.Option("--option", "-o", help="A sampler option, key=value; repeatable.")
]


def settings_of(
    schedule: str | None,
    spacing: str | None,
    preset: str | None,
    schedule_options: list[str] | None,
    spacing_options: list[str] | None,
) -> dict[str, Any]:
    """The fields of the config that the options set, and the preset."""
    given = {
        "preset": preset,
        "beta_schedule": schedule,
        "timestep_spacing": spacing,
        "schedule_options": key_values(schedule_options or []),
        "spacing_options": key_values(spacing_options or []),
    }
    return {key: value for key, value in given.items() if value}


def pipeline_of(method: str | None, settings: dict[str, Any], options: list[str] | None) -> DiffusionPipeline:
    """A pipeline from the options of a command; ``settings`` as :func:`settings_of` returns them."""
    from ..config.settings import NoiseSchedulerConfig
    from ..pipeline.pipeline import DiffusionPipeline

    fields = {name: value for name, value in settings.items() if name != "preset"}
    preset = settings.get("preset")
    config = NoiseSchedulerConfig.preset(preset, **fields) if preset else NoiseSchedulerConfig(**fields)
    return DiffusionPipeline(config, method or "ddim", **key_values(options or []))


def pipeline_in(file: Path, name: str | None, **others: Any) -> DiffusionPipeline:
    """The pipeline of a configuration file.

    Args:
        file: the file.
        name: of the pipeline; None: the only one in the file.
        others: options that the file sets itself, so that they must not be given.
    """
    from ..pipeline.system import AdvancedDiffusionSystem

    for where, value in others.items():
        if value:
            raise ConfigurationError("is set by the file", where=where, suggestion=f"change it in {file}")
    system = AdvancedDiffusionSystem(file)
    names = system.list_pipelines()
    if name is None and len(names) != 1:
        raise ConfigurationError(
            f"{file} has {len(names)} pipelines", where="pipeline", suggestion=f"choose one of: {', '.join(names)}"
        )
    return system.get_pipeline(names[0] if name is None else name)


def scale_of(scale: float | None) -> dict[str, Any]:
    """The keyword ``guidance_scale``; none where it is not given, so that the default of the function holds."""
    return {} if scale is None else {"guidance_scale": scale}


def schedule_of(pipeline: DiffusionPipeline) -> str:
    """The name of a pipeline's noise schedule."""
    return str(pipeline.config.to_dict()["beta_schedule"])


def key_values(pairs: list[str]) -> dict[str, Any]:
    """Texts key=value as a table; values are read as YAML: 0.5, true, text."""
    table = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"got {pair!r}", where="option", suggestion="write key=value, e.g. eta=0.5")
        table[key] = value
        with contextlib.suppress(yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
            table[key] = yaml.safe_load(value)
    return table


def integers(text: str, where: str) -> list[int]:
    """Whole numbers with commas between."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigurationError(
            f"got {text!r}", where=where, suggestion="give whole numbers with commas between, e.g. 4,1,8,8"
        ) from None


def labels_of(text: str) -> Tensor:
    """Class labels with commas between, shape (B,)."""
    import torch

    numbers = integers(text, "labels")
    if not all(0 <= number < 1 << 63 for number in numbers):
        raise ConfigurationError(f"got {text[:_QUOTED]!r}", where="labels", suggestion="give whole numbers ≥ 0")
    return torch.tensor(numbers)


def check_output(path: Path, *endings: str) -> None:
    """Raise before any work where a file cannot be written: its ending, its folder, or matplotlib is missing."""
    from ..support.files import refuse_missing_folder

    if path.suffix not in endings:
        raise ConfigurationError(
            f"the ending {path.suffix!r} is not known", where=str(path), suggestion=f"use {' or '.join(endings)}"
        )
    refuse_missing_folder(path)
    if path.suffix == ".png":
        from ..support.figures import figure_class

        figure_class()
