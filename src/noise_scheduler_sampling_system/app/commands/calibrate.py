"""The command ``calibrate``: few-step plans for a model, and their comparison with the built-in samplers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...support.errors import ConfigurationError
from ..exit_codes import ExitCode
from ..options import (
    Device,
    GuidanceScale,
    MaxBatchSize,
    Model,
    NegativePrompt,
    Prediction,
    Preset,
    Prompt,
    Schedule,
    ScheduleOptions,
    Seed,
)
from ..output import Json, Output, Quiet, complain
from ..parsing import check_output, integers, labels_of, numbers, settings_of

if TYPE_CHECKING:
    from ...plans.plan_set import PlanSet

__all__ = ["calibrate"]

_FIT = "Fit"
_ELSEWHERE = "Measured elsewhere"
#: The numbers of model calls where none are given.
_BUDGETS = "5,6,8,10"


def calibrate(
    out: Annotated[Path, typer.Option(help="The plans, a .json file.")],
    nfe: Annotated[
        str | None, typer.Option(help="Model calls of the plans, e.g. 4,6,8; default 5,6,8,10.", show_default=False)
    ] = None,
    evaluations: Annotated[
        str | None,
        typer.Option(help="Instead of --nfe: evaluations of both branches of guidance, which the plans hold, e.g. 8."),
    ] = None,
    model: Model = "digits",
    shape: Annotated[
        str | None, typer.Option(help="Of one sample, e.g. 3,64,64; default the model's own.", rich_help_panel="Model")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="class_labels that the trajectories take in turn, e.g. 0..9.", rich_help_panel="Model"),
    ] = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance_scale: GuidanceScale = None,
    prediction: Prediction = None,
    max_batch_size: MaxBatchSize = None,
    device: Device = "auto",
    schedule: Schedule = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    trajectories: Annotated[int, typer.Option(help="Runs from noise to fit to.", rich_help_panel=_FIT)] = 512,
    held_out: Annotated[
        int | None, typer.Option(help="Runs to choose by; default: as many.", rich_help_panel=_FIT)
    ] = None,
    budget_seconds: Annotated[
        float | None,
        typer.Option(
            help="Stop after so many seconds, the teacher's included; default: no limit.", rich_help_panel=_FIT
        ),
    ] = None,
    passes: Annotated[
        float, typer.Option(help="Runs of all trajectories for each number of calls.", rich_help_panel=_FIT)
    ] = 300.0,
    teacher_calls: Annotated[int, typer.Option(help="Model calls of the fine runs.", rich_help_panel=_FIT)] = 128,
    stages: Annotated[
        str | None, typer.Option(help="Of design,fit,refine; default design,fit.", rich_help_panel=_FIT)
    ] = None,
    history: Annotated[
        int | None,
        typer.Option(help="The most earlier predictions that a step reads; default: all.", rich_help_panel=_FIT),
    ] = None,
    first: Annotated[str, typer.Option(help="The first query: free, or noisiest.", rich_help_panel=_FIT)] = "free",
    max_gain: Annotated[
        float, typer.Option(help="Limit on how errors of predictions are multiplied.", rich_help_panel=_FIT)
    ] = 30.0,
    scales: Annotated[
        str | None,
        typer.Option(
            help="Other guidance scales at which the plans are measured, e.g. 1,4; default: four around their own; "
            "'none' for none.",
            rich_help_panel=_ELSEWHERE,
        ),
    ] = None,
    other_labels: Annotated[
        str | None,
        typer.Option(
            help="class_labels under which the plans are measured, too, e.g. classes that --labels leaves out.",
            rich_help_panel=_ELSEWHERE,
        ),
    ] = None,
    other_shape: Annotated[
        str | None,
        typer.Option(
            help="Of samples of another size, on which the plans are measured, too.", rich_help_panel=_ELSEWHERE
        ),
    ] = None,
    seed: Seed = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="A .safetensors file to go on from.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw errors and levels to this .png file.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit few-step plans to a model, and say how they compare with the built-in samplers.

    'sample --plan FILE' uses them. Ctrl-C keeps the plans that are done; with --checkpoint the same command goes on.
    """
    from ...calibration.plot import draw
    from ...integrations.named_models import named_model

    output = Output(as_json, quiet)
    check_output(out, ".json")
    if plot is not None:
        check_output(plot, ".png")
    known = named_model(model).on(device)
    settings = settings_of(schedule, None, preset, schedule_option, None, prediction)
    pipeline = known.pipeline(preset=settings.pop("preset", None), settings=settings)
    chosen = None if shape is None else integers(shape, "shape")
    if known.pipe is None:
        chosen = chosen if chosen is not None else None if known.shape is None else list(known.shape)
        if chosen is None:
            raise ConfigurationError("is missing", where="shape", suggestion="give that of one sample, e.g. 3,64,64")
    given = {"nfe": _BUDGETS if nfe is None and evaluations is None else nfe, "evaluations": evaluations}
    wanted = {name: integers(text, name) for name, text in given.items() if text is not None}
    fit: dict[str, Any] = {
        "shape": chosen, **wanted, "guidance_scale": guidance_scale, "trajectories": trajectories,
        "held_out": held_out, "budget_seconds": budget_seconds, "passes": passes, "teacher_calls": teacher_calls,
        "stages": None if stages is None else stages.split(","), "history": history, "max_gain": max_gain,
        "max_batch_size": max_batch_size, "seed": seed, "checkpoint": checkpoint, "progress": output.progress,
        **_conditions(labels_of(labels), prompt, negative_prompt, own=known.pipe is not None),
        **_elsewhere(scales, labels_of(other_labels), other_shape),
        **({} if first == "free" and known.pipe is not None else {"first": first}),
        **({} if device == "auto" or known.pipe is not None else {"device": device}),
    }  # fmt: skip
    plans = pipeline.calibrate(known.model, **fit)
    plans.save(out)
    missing = [
        n for budgets in wanted.values() for n in budgets if n not in plans or plans[n].provenance.get("interrupted")
    ]
    output.result({
        "file": str(out), "model": model, "interrupted": bool(missing),
        "plans": [
            {"nfe": plan.nfe, **({} if plan.scale is None else {"evaluations": plan.evaluations}),
             "hash": plan.content_hash, **_found(plan)}
            for plan in plans.values()
        ],
    })  # fmt: skip
    rows = _comparison(plans)
    output.table(rows, numbers=(0, 2, 3, 5, 6), folds=(4,))
    output.say(
        "errors: root mean square over held-out trajectories, by which plans and built-in samplers are compared; ±: "
        "its standard error"
    )
    for sentence in _on_all_trajectories(plans):
        output.say(sentence)
    places = _places(plans)
    if len(places) > 1:
        output.table(places, numbers=(0,), folds=(1,))
        output.say("basin changes: trajectories that end nearer to another one's reference end than to their own")
    output.say(f"wrote {out}")
    if plot is not None:
        draw(plans, pipeline.scheduler, plot)
        output.say(f"wrote {plot}")
    if missing:
        unfinished = f"{', '.join(map(str, missing))} {plans.counts_in_words}"
        complain(f"interrupted: the plans of {unfinished} are missing or not fitted to the end")
        raise typer.Exit(ExitCode.INTERRUPTED)


def _conditions(
    labels: list[int] | None, prompt: list[str] | None, negative_prompt: list[str] | None, *, own: bool
) -> dict[str, Any]:  # fmt: skip
    """Labels and prompts as arguments of ``calibrate``; ``own``: of a pipeline of diffusers."""
    import torch

    given: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative_prompt}
    if negative_prompt is not None and len(negative_prompt) == 1:
        given["negative_prompt"] = negative_prompt[0]
    if own:
        given["class_labels"] = labels
    elif labels is not None:
        given["condition"] = {"class_labels": torch.tensor(labels)}
    return {name: value for name, value in given.items() if value is not None}


def _elsewhere(scales: str | None, other_labels: list[int] | None, other_shape: str | None) -> dict[str, Any]:
    """Where else the plans are measured, as arguments of ``calibrate``."""
    import torch

    given: dict[str, Any] = {}
    if scales is not None:
        given["scales"] = () if scales == "none" else numbers(scales, "scales")
    if other_labels is not None:
        given["other_condition"] = {"class_labels": torch.tensor(other_labels)}
    if other_shape is not None:
        given["other_shape"] = integers(other_shape, "other_shape")
    return given


def _found(plan: Any) -> dict[str, Any]:
    """What a calibration found for one number of calls."""
    from ...calibration.plot import is_calibrated

    keys = ("held_out_error", "all_trajectories", "teacher_error", "kind", "measured")
    return {"calibrated": is_calibrated(plan), **{key: plan.provenance.get(key) for key in keys},
            "built_in": next(iter(plan.provenance["built_in"]), None)}  # fmt: skip


def _comparison(plans: PlanSet) -> list[tuple[str, ...]]:
    """A table: each plan with its error and the error of the best built-in sampler."""
    from ...calibration.plot import is_calibrated
    from ...calibration.trust.measurement import Measurement, measured_of
    from ...calibration.trust.verification import with_error

    rows: list[tuple[str, ...]] = [
        (plans.counts_in_words, "plan", "held-out error", "median", "best built-in", "error", "median")
    ]
    for budget, plan in plans.items():
        ours, best = plan.provenance["held_out_error"], next(iter(plan.provenance["built_in"]), None)
        rival = ("none runs", "", "")
        if best is not None:
            rival = (best["name"], *(f"{best['held_out_error'][key]:.3g}" for key in ("rms", "median")))
        kind = plan.provenance["kind"] if is_calibrated(plan) else "built-in"
        own = Measurement.from_dict(measured_of(plan).get("held_out"))
        error = f"{ours['rms']:.3g}" if own is None else with_error(own.rms, own.rms_error)
        rows.append((str(budget), kind, error, f"{ours['median']:.3g}", *rival))
    return rows


def _on_all_trajectories(plans: PlanSet) -> list[str]:
    """Say which figures decided where the held-out trajectories could not tell a table from a built-in sampler."""
    found = ((budget, plan.provenance.get("all_trajectories")) for budget, plan in plans.items())
    return [
        f"{budget} {plans.counts_in_words}: the held-out trajectories cannot tell the {pooled['kind']} from "
        f"{pooled['built_in']}, so all {pooled['trajectories']} trajectories decided: the {pooled['kind']} has "
        f"{pooled['rms']:.3g}, the sampler {pooled['built_in_rms']:.3g}"
        for budget, pooled in found
        if pooled is not None
    ]


def _labels(condition: Any) -> str:
    """The different labels of a condition in a provenance, e.g. "labels 5,6,7"; a plan may hold several conditions."""
    labels = condition.get("class_labels") if isinstance(condition, Mapping) else None
    return f"labels {','.join(map(str, dict.fromkeys(labels)))}" if isinstance(labels, list | tuple) else "other labels"


def _places(plans: PlanSet) -> list[tuple[str, ...]]:
    """A table: the errors of each plan at other guidance scales, under another condition and on another shape."""
    from ...calibration.trust.measurement import Measurement, measured_of
    from ...calibration.trust.verification import with_error

    rows: list[tuple[str, ...]] = [
        (plans.counts_in_words, "measured at", "error", "median", "basin changes", "best built-in")
    ]
    for budget, plan in plans.items():
        for kind in ("guidance", "condition", "shape"):
            for entry in measured_of(plan).get(kind, ()):
                where = {
                    "guidance": f"guidance {entry.get('guidance_scale')}", "condition": _labels(entry.get("condition")),
                    "shape": f"shape {','.join(map(str, entry.get('shape', ())))}",
                }[kind]  # fmt: skip
                found = Measurement.from_dict(entry)
                if found is None:
                    rows.append((str(budget), where, "failed", "", "", ""))
                    continue
                rows.append((
                    str(budget), where, with_error(found.rms, found.rms_error),
                    with_error(found.median, found.median_error), f"{found.moved:.1%}",
                    f"{entry['built_in']['rms']:.3g}" if "built_in" in entry else "",
                ))  # fmt: skip
    return rows
