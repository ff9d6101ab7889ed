"""The command ``compare``: samplers at equal model calls, or a picture of the pipelines of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...support.errors import ConfigurationError
from .. import completion
from ..comparison_picture import draw_cells, draw_pipelines
from ..exit_codes import ExitCode
from ..options import (
    Device,
    MaxBatchSize,
    Model,
    NegativePrompt,
    Prediction,
    Preset,
    Prompt,
    SamplerOptions,
    Schedule,
    ScheduleOptions,
    Seed,
    Spacing,
    SpacingOptions,
)
from ..output import Json, Output, Quiet, complain
from ..parsing import check_output, integers, labels_of, settings_of
from ..pipelines import CONFIG_ENDINGS, system_of
from ..plans import in_file, plans_in, refuse_both
from ..subjects import Subject

if TYPE_CHECKING:
    from ...comparison import Comparison

__all__ = ["compare"]

#: The budgets where none are given.
_BUDGETS = "5,8,10,20"
#: The number of steps of a picture of the pipelines of a file.
_STEPS = 50


def compare(
    samplers: Annotated[
        list[str],
        typer.Argument(
            metavar="SAMPLERS... | CONFIG",
            help="Samplers' names, files of plans, or one configuration file, whose pipelines are compared.",
            autocompletion=completion.samplers_or_files,
        ),
    ],
    nfe: Annotated[str | None, typer.Option(help="Budgets of model calls; default 5,8,10,20.")] = None,
    evaluations: Annotated[
        str | None,
        typer.Option(
            help="In place of --nfe: budgets of evaluations of the network for a sample, of which guidance makes up to "
            "two in a call."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to: .html (a page), .json, .csv (the numbers) or .png (the samples)."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="In place of --nfe, with a configuration file and a .png: N steps of each; default 50."),
    ] = None,
    model: Model = "digits",
    shape: Annotated[
        str | None, typer.Option(help="Of one sample, e.g. 3,64,64; default the model's own.", rich_help_panel="Model")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(help="Samples of each cell; default: one a label or prompt, else 64 of digits, 16 of others."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="class_labels that the samples take in turn, e.g. 0..9.", rich_help_panel="Model"),
    ] = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            help="Classifier-free guidance with --labels or --prompt; default 1, which is none; with --steps, and for "
            "pipelines of diffusers, 7.5.",
            rich_help_panel="Model",
        ),
    ] = None,
    max_batch_size: MaxBatchSize = None,
    prediction: Prediction = None,
    device: Device = "auto",
    option: SamplerOptions = None,
    schedule: Schedule = None,
    spacing: Spacing = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    spacing_option: SpacingOptions = None,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(help="Runs of each cell, with seeds --seed, --seed + 1, ...")] = 1,
    reference: Annotated[
        str,
        typer.Option(help="What errors are measured against: exact, fine, auto (exact where it can be), or none."),
    ] = "auto",
    reference_calls: Annotated[
        int | None,
        typer.Option(help="Model calls of a fine run; default: at least 128, and 4 times the largest budget."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare samplers from the same noise at equal numbers of model calls: table, page, numbers or picture.

    Ctrl-C keeps the cells that are finished.

    A configuration file with --out FILE.png and without --nfe: draw the digits 0 to 9 with every pipeline of the file.
    """
    output = Output(as_json, quiet)
    file = Path(samplers[0]) if len(samplers) == 1 and _is_config(samplers[0]) else None
    if out is not None:
        check_output(out, ".html", ".json", ".csv", ".png")
    if file is not None and nfe is None and evaluations is None and out is not None and out.suffix == ".png":
        draw_pipelines(file, out, _STEPS if steps is None else steps, seed, guidance_scale, output)
        return
    if steps is not None:
        raise ConfigurationError(
            "--steps is for a picture of the pipelines of a file",
            where="steps",
            suggestion="give --nfe; or one configuration file, --out FILE.png and no --nfe",
        )
    settings = settings_of(schedule, spacing, preset, schedule_option, spacing_option, prediction)
    default = 64 if model == "digits" else 1 if prompt else 16
    subject = Subject.of(
        model, count, shape, labels_of(labels), prompt, negative_prompt, guidance_scale, default=default, device=device
    )
    refuse_both(nfe, evaluations)
    counted, given = ("calls", nfe) if evaluations is None else ("evaluations", evaluations)
    budgets = integers(_BUDGETS if given is None else given, "nfe" if evaluations is None else "evaluations")
    entries: Any
    if file is not None:
        system = system_of(file, option=option, **settings)
        entries = {name: system.get_pipeline(name) for name in system.list_pipelines()}
    else:
        entries = [_entry(name, subject, settings, option) for word in samplers for name in _names(word)]
    found = _compared(
        entries, subject, nfe=budgets, count=counted, seed=seed, repeats=repeats, max_batch_size=max_batch_size,
        reference=None if reference == "none" else reference, reference_calls=reference_calls,
        device=None if device == "auto" or subject.known.pipe is not None else device, progress=output.progress,
    )  # fmt: skip
    output.result(found.to_dict())
    _print(found, output)
    if out is not None:
        draw_cells(found, out) if out.suffix == ".png" else found.save(out)
        output.say(f"wrote {out}")
    if found.interrupted:
        complain("interrupted: the cells above are finished" if out is None else f"interrupted: {out} has what is done")
        raise typer.Exit(ExitCode.INTERRUPTED)


def _is_config(word: str) -> bool:
    """Whether a word names a configuration file, and not a file of plans."""
    if Path(word).suffix.lower() not in CONFIG_ENDINGS:
        return False
    if Path(word).suffix.lower() != ".json" or not Path(word).is_file():
        return True
    from ...support.data_files import read_json

    data = read_json(word)
    return not (isinstance(data, dict) and "format" in data)


def _names(word: str) -> list[str]:
    """The samplers of a word, which may have commas between as the budgets have."""
    return [word] if in_file(word) else [name.strip() for name in word.split(",") if name.strip()] or [word]


def _entry(name: str, subject: Subject, settings: dict[str, Any], option: list[str] | None) -> Any:
    """What a word stands for: the plans of a file, or a sampler on the path that the options describe."""
    if in_file(name):
        return plans_in(Path(name))
    return subject.pipeline(name, settings, option)


def _compared(entries: Any, subject: Subject, **how: Any) -> Comparison:
    import torch

    from ...comparison import compare as compared

    given: dict[str, Any] = {}
    if subject.known.pipe is not None:
        given = {"prompt": subject.prompt, "negative_prompt": subject.negative_prompt, "class_labels": subject.labels}
        given = {name: list(value) for name, value in given.items() if value is not None}
        if not given:
            given = {"num_images_per_prompt": subject.batch}
    else:
        size = subject.shape or subject.known.shape
        if size is None:
            raise ConfigurationError("is missing", where="shape", suggestion="give that of one sample, e.g. 3,64,64")
        subject.known.arguments(subject.known.pipeline(), labels=subject.labels, prompt=subject.prompt,
                                negative_prompt=subject.negative_prompt, shape=size)  # fmt: skip
        given = {"shape": (subject.batch, *size)}
        if subject.labels is not None:
            given["condition"] = {"class_labels": torch.tensor(subject.labels)}
    if subject.guidance_scale is not None:
        given["guidance_scale"] = subject.guidance_scale
    model = None if subject.known.name == "digits" else subject.known
    found: Comparison = compared(entries, model, **given, **how)
    return found


def _print(found: Comparison, output: Output) -> None:
    from ...comparison.comparison import lines_below, table_rows

    rows = table_rows(found)
    output.table(rows, numbers=range(1, len(rows[0])))
    for line in lines_below(found):
        output.say(line)
