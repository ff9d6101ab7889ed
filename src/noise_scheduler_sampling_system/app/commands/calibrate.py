"""The command ``calibrate``: few-step plans for a model, and their comparison with the built-in samplers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...support.errors import ConfigurationError
from ...support.text_tables import text_table
from ..options import (
    GuidanceScale,
    Preset,
    Schedule,
    ScheduleOptions,
    check_output,
    integers,
    labels_of,
    settings_of,
)

if TYPE_CHECKING:
    from ...plans.plan_set import PlanSet

__all__ = ["calibrate"]


def calibrate(
    out: Annotated[Path, typer.Option(help="The plans, a .json file.")],
    nfe: Annotated[str, typer.Option(help="Model calls, e.g. 5 or 4,5,6,8,10.")] = "5",
    model: Annotated[
        str, typer.Option(help="digits, mnist, or module:attribute, a callable (x, t, **condition).")
    ] = "digits",
    schedule: Schedule = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    prediction: Annotated[str | None, typer.Option(help="What the model predicts; default the schedule's.")] = None,
    shape: Annotated[
        str | None, typer.Option(help="Of one sample, e.g. 3,64,64; default the embedded model's.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="class_labels that the trajectories take in turn.")] = None,
    guidance_scale: GuidanceScale = None,
    trajectories: Annotated[int, typer.Option(help="How many to fit to.")] = 512,
    held_out: Annotated[int | None, typer.Option(help="How many to choose by; default as many.")] = None,
    budget_seconds: Annotated[float | None, typer.Option(help="Stop after so long, the teacher included.")] = None,
    passes: Annotated[float, typer.Option(help="Runs of all trajectories for each number of calls.")] = 300.0,
    teacher_calls: Annotated[int, typer.Option(help="Model calls of the fine runs.")] = 128,
    stages: Annotated[str | None, typer.Option(help="Of design,fit,refine; default the first two.")] = None,
    history: Annotated[int | None, typer.Option(help="The most earlier predictions that a step reads.")] = None,
    first: Annotated[str, typer.Option(help="The first query: free, or noisiest.")] = "free",
    max_gain: Annotated[float, typer.Option(help="Limit on how errors of predictions are multiplied.")] = 30.0,
    max_batch_size: Annotated[int | None, typer.Option(help="The most samples to run at a time.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="A .safetensors file to go on from.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw errors and levels to this .png file.")] = None,
) -> None:
    """Fit few-step plans to a model, and say how they compare with the built-in samplers."""
    from ...calibration import calibrate as fit_plans
    from ...calibration.plot import draw
    from ...integrations.named_models import named_model

    check_output(out, ".json")
    if plot is not None:
        check_output(plot, ".png")
    known = named_model(model)
    settings = settings_of(schedule, None, preset, schedule_option, None)
    if prediction is not None:
        settings["prediction_type"] = prediction
    pipeline = known.pipeline(preset=settings.pop("preset", None), settings=settings)
    chosen = known.shape if shape is None else integers(shape, "shape")
    if chosen is None:
        raise ConfigurationError("is missing", where="shape", suggestion="give that of one sample, e.g. 3,64,64")
    condition = None if labels is None else {"class_labels": labels_of(labels)}
    plans = fit_plans(
        known.model, pipeline, shape=chosen, nfe=integers(nfe, "nfe"), condition=condition,
        guidance_scale=guidance_scale, trajectories=trajectories, held_out=held_out, budget_seconds=budget_seconds,
        passes=passes,
        teacher_calls=teacher_calls, stages=None if stages is None else stages.split(","), history=history, first=first,
        max_gain=max_gain, max_batch_size=max_batch_size, device=device, seed=seed, checkpoint=checkpoint,
        progress=True,
    )  # fmt: skip
    plans.save(out)
    typer.echo(_comparison(plans))
    typer.echo("errors: root mean square over held-out trajectories, by which plans and built-in samplers are chosen")
    typer.echo(f"wrote {out}")
    if plot is not None:
        draw(plans, pipeline.scheduler, plot)
        typer.echo(f"wrote {plot}")


def _comparison(plans: PlanSet) -> str:
    """A table: each plan with its error and the error of the best built-in sampler."""
    from ...calibration.plot import is_calibrated

    rows: list[tuple[str, ...]] = [("calls", "plan", "held-out error", "median", "best built-in", "error", "median")]
    for budget, plan in plans.items():
        ours, best = plan.provenance["held_out_error"], plan.provenance["built_in"][0]
        theirs = best["held_out_error"]
        figures = [f"{errors[key]:.3g}" for errors in (ours, theirs) for key in ("rms", "median")]
        kind = plan.provenance["kind"] if is_calibrated(plan) else "built-in"
        rows.append((str(budget), kind, *figures[:2], best["name"], *figures[2:]))
    return text_table(rows)
