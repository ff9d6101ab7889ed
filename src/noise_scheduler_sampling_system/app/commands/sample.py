"""The command ``sample``: samples of a model in a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...support.errors import ConfigurationError
from .. import completion
from ..exit_codes import ExitCode
from ..options import (
    DIGITS,
    Device,
    GuidanceScale,
    MaxBatchSize,
    Model,
    NegativePrompt,
    PlanEvaluations,
    Prediction,
    Preset,
    Prompt,
    SamplerOptions,
    Schedule,
    ScheduleOptions,
    Spacing,
    SpacingOptions,
    Steps,
)
from ..output import Json, Output, Quiet, complain
from ..parsing import check_output, integers, labels_of, settings_of
from ..pipelines import pipeline_in
from ..plans import plans_for_run, refuse_beside_plan
from ..sample_files import ENDINGS, is_picture, refuse_no_picture, write_samples
from ..subjects import Subject

if TYPE_CHECKING:
    from ...pipeline.pipeline import DiffusionPipeline

__all__ = ["sample"]

#: The most samples whose labels are listed.
_MOST = 1_000_000


def sample(
    out: Annotated[Path, typer.Option(help="Where to: .png (a picture), .safetensors or .npz (the numbers).")],
    config: Annotated[Path | None, typer.Option(help="A configuration file; then no --method, --schedule.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Which pipeline of the file.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Sampler; default ddim, or that of the diffusers pipeline. 'noise-sampling samplers' lists them.",
            autocompletion=completion.samplers,
        ),
    ] = None,
    option: SamplerOptions = None,
    steps: Steps = 50,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="The file of a plan, as 'calibrate' and 'plan export' write it; of several: --steps calls, or "
            "--evaluations."
        ),
    ] = None,
    evaluations: PlanEvaluations = None,
    model: Model = "digits",
    shape: Annotated[
        str | None, typer.Option(help="Of the batch, e.g. 4,1,8,8; default: the model's own.", rich_help_panel="Model")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(help="Samples; default: one a label or prompt, else 10 of digits and mnist, 1 of other models."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="class_labels, one a sample or one for all, e.g. 1,2,3 or 0..9.", rich_help_panel="Model"),
    ] = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance_scale: GuidanceScale = None,
    max_batch_size: MaxBatchSize = None,
    prediction: Prediction = None,
    device: Device = "auto",
    schedule: Schedule = None,
    spacing: Spacing = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    spacing_option: SpacingOptions = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise, a whole number ≥ 0; default: a new one.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate samples of a model: handwritten digits, your own network, or a diffusers pipeline.

    Ctrl-C keeps the batches that are done, if --max-batch-size splits the samples.
    """
    from ...running.results import InterruptedRunError

    check_output(out, *ENDINGS)
    if plan is not None:
        refuse_beside_plan(method=method, option=option, spacing=spacing, spacing_option=spacing_option)
    given = plans_for_run(plan, evaluations)
    output = Output(as_json, quiet)
    subject, size = _subject(model, device, count, shape, labels_of(labels), prompt, negative_prompt, guidance_scale)
    settings = settings_of(schedule, spacing, preset, schedule_option, spacing_option, prediction)
    chosen = _pipeline(subject, config, pipeline, method, option, settings)
    arguments = subject.arguments(chosen, None if plan else steps) | ({} if size is None else {"shape": size})
    if out.suffix == ".png":
        known = subject.known
        refuse_no_picture(tuple(arguments["shape"]), latents=known.pipe is not None, flat=known.white_on_black)
    if device != "auto":
        arguments["device"] = device
    if given is not None:
        arguments |= {"num_inference_steps": steps, "plan": given}
    began, interrupted = time.perf_counter(), False
    try:
        result = chosen.sample(
            **arguments, seed=seed, max_batch_size=max_batch_size, return_result=True,
            progress=output.progress,
        )  # fmt: skip
    except InterruptedRunError as stop:
        result, interrupted = stop.result, True
    seconds = time.perf_counter() - began
    pictures = subject.known.pictures(chosen, result.samples) if is_picture(out) else None
    write_samples(out, result, pictures, white_on_black=subject.known.white_on_black)
    output.result({
        "file": str(out), "model": model, "samples": len(result.samples), "shape": list(result.samples.shape),
        "sampler": result.plan.sampler, "steps": result.steps, "nfe": result.nfe, "evaluations": result.evaluations,
        "seed": result.keys[0][0], "plan": result.plan.content_hash, "seconds": round(seconds, 3),
        "interrupted": interrupted,
    })  # fmt: skip
    output.say(f"wrote {out}: {len(result.samples)} samples, {result.nfe} model calls, seed {result.keys[0][0]}")
    if interrupted:
        complain(f"interrupted: {out} has the first {len(result.samples)} of {arguments['shape'][0]} samples")
        raise typer.Exit(ExitCode.INTERRUPTED)


def _subject(
    model: str, device: str, count: int | None, shape: str | None, labels: list[int] | None, *rest: Any
) -> tuple[Subject, tuple[int, ...] | None]:
    """What is sampled, and the shape of the batch where it was given."""
    default = DIGITS if model in ("digits", "mnist") else 1
    if shape is None:
        return Subject.of(model, count, None, labels, *rest, default=default, device=device), None
    size = integers(shape, "shape")
    if count is not None and count != size[0]:
        raise ConfigurationError(
            f"{count} samples of shape {shape}", where="count", suggestion="leave one of --count and --shape out"
        )
    if labels is not None and len(labels) not in (1, size[0]):
        raise ConfigurationError(
            f"{len(labels)} labels for {size[0]} samples",
            where="condition.class_labels",
            suggestion="give one label for all, or one a sample",
        )
    of_one = ",".join(map(str, size[1:])) or None
    # sample() refuses a size that cannot be
    return Subject.of(model, min(max(size[0], 1), _MOST), of_one, labels, *rest, device=device), tuple(size)


def _pipeline(
    subject: Subject, config: Path | None, name: str | None, method: str | None, option: list[str] | None,
    settings: dict[str, Any],
) -> DiffusionPipeline:  # fmt: skip
    """The pipeline of a configuration file, or the one that the options describe."""
    if config is None and name is None:
        return subject.pipeline(method, settings, option)
    if config is None:
        raise ConfigurationError("names a pipeline, and no file is given", where="pipeline", suggestion="give --config")
    if subject.known.pipe is not None:
        raise ConfigurationError(
            "a pipeline of diffusers has its own settings", where="config", suggestion="give --method instead"
        )
    return pipeline_in(config, name, method=method, option=option, **settings)
