"""The command ``recommend``: the best sampler and spacing for a number of model calls."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...support.errors import ConfigurationError
from ..options import (
    Device,
    GuidanceScale,
    MaxBatchSize,
    NegativePrompt,
    Prediction,
    Preset,
    Prompt,
    Schedule,
    ScheduleOptions,
    Seed,
)
from ..output import Json, Output, Quiet
from ..parsing import integers, labels_of, settings_of
from ..subjects import Subject

__all__ = ["recommend"]


def recommend(
    nfe: Annotated[str, typer.Option(help="Model calls, e.g. 5,10,20.")] = "5,10,20,50",
    schedule: Schedule = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Measure on this model: digits, mnist, module:attribute or a diffusers folder. Default: the table of "
            "measurements that the library has."
        ),
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Of one sample, e.g. 3,64,64; default the model's own.")] = None,
    count: Annotated[int | None, typer.Option(help="Samples to measure on; default 16.")] = None,
    labels: Annotated[str | None, typer.Option(help="class_labels that the samples take in turn, e.g. 0..9.")] = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance_scale: GuidanceScale = None,
    max_batch_size: MaxBatchSize = None,
    prediction: Prediction = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say which sampler, spacing and number of steps are best for a number of model calls, and with which error."""
    from ...analysis.recommend import family_of
    from ...analysis.recommend import recommend as best

    output = Output(as_json, quiet)
    if model is None:
        _refuse_without_model(
            labels=labels, prompt=prompt, negative_prompt=negative_prompt, guidance_scale=guidance_scale, shape=shape,
            count=count, max_batch_size=max_batch_size, prediction=prediction,
            device=None if device == "auto" else device,
        )  # fmt: skip
    budgets = integers(nfe, "nfe")
    settings = settings_of(schedule, None, preset, schedule_option, None, prediction)
    subject = Subject.of(
        model or "digits", 16 if count is None else count, shape, labels_of(labels), prompt, negative_prompt,
        guidance_scale, device=device,
    )  # fmt: skip
    pipeline = subject.pipeline(None, settings)
    run: dict[str, Any] = {}
    if model is not None:
        run = {**subject.arguments(pipeline), "seed": seed, "max_batch_size": max_batch_size, "device": device}
        run["model"] = subject.network(pipeline)
    found = [best(pipeline, n, **run) for n in budgets]
    output.result({
        "measured_on": model or f"exact models of digits, {family_of(pipeline.scheduler)} schedule",
        "recommendations": [
            {
                "nfe": each.nfe, "sampler": each.sampler, "options": dict(each.options), "spacing": each.spacing,
                "spacing_options": dict(each.spacing_options), "steps": each.steps, "error": each.error,
                "tried": [{"sampler": s, "spacing": g, "error": e} for s, g, e in each.tried],
            }
            for each in found
        ],
    })  # fmt: skip
    rows = [("calls", "sampler", "spacing", "steps", "error", "options")]
    for each in found:
        options = ", ".join(f"{k}={v}" for k, v in {**each.options, **each.spacing_options}.items())
        rows.append((str(each.nfe), each.sampler, each.spacing, str(each.steps), f"{each.error:.3g}", options))
    output.table(rows, numbers=(0, 3, 4), folds=(5,))
    output.say(
        f"error: root mean square per number against a fine run of {model}"
        if model
        else f"measured on exact models of digits with a {family_of(pipeline.scheduler)} schedule: root mean square "
        "error per number; --model measures on yours"
    )


def _refuse_without_model(**given: Any) -> None:
    """Refuse options that only a measurement on a model takes."""
    for where, value in given.items():
        if value is not None:
            raise ConfigurationError("the table of measurements takes none", where=where, suggestion="give --model")
