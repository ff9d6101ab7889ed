"""The command ``plan verify``: measure calibrated plans again, and compare with the figures in their file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...support.errors import ConfigurationError
from ..exit_codes import ExitCode
from ..options import Device, GuidanceScale, MaxBatchSize, Model, NegativePrompt, Prompt
from ..output import Json, Output, Quiet
from ..parsing import integers, labels_of
from ..plans import PLAN_ENDINGS, chosen_plans

if TYPE_CHECKING:
    from ...calibration.trust.verification import PlanVerification
    from ...integrations.named_models import NamedModel

__all__ = ["verify"]

_AGAIN = "Measurement"


def verify(
    file: Annotated[Path, typer.Argument(help="The .json or .safetensors file of calibrated plans.")],
    model: Model = "digits",
    shape: Annotated[
        str | None,
        typer.Option(
            help="Of one sample; default: the model's own, else that of the calibration.", rich_help_panel="Model"
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="class_labels, e.g. 0..9; default: those of the calibration.", rich_help_panel="Model"),
    ] = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance_scale: GuidanceScale = None,
    max_batch_size: MaxBatchSize = None,
    device: Device = "auto",
    nfe: Annotated[
        str | None, typer.Option(help="Of a file with several plans: those with N model calls, e.g. 4,6.")
    ] = None,
    evaluations: Annotated[
        str | None, typer.Option(help="Of a file with several plans: those of N evaluations, e.g. 8,12.")
    ] = None,
    trajectories: Annotated[
        int | None,
        typer.Option(help="Runs from noise; default: the held-out ones of the calibration.", rich_help_panel=_AGAIN),
    ] = None,
    teacher_calls: Annotated[
        int | None,
        typer.Option(help="Model calls of the fine runs; default: as in the calibration.", rich_help_panel=_AGAIN),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of the noise; default: the calibration's plus one. The calibration's own repeats its held-out noise.",
            rich_help_panel=_AGAIN,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure calibrated plans again, and say whether their stated figures hold within the stated errors.

    The exit code is 5 if they do not.
    """
    from ...calibration import verify_plan
    from ...integrations.named_models import named_model

    output = Output(as_json, quiet)
    if file.suffix not in PLAN_ENDINGS:
        raise ConfigurationError(
            f"the ending {file.suffix!r} is not known", where=str(file), suggestion=f"use {' or '.join(PLAN_ENDINGS)}"
        )
    plans = chosen_plans(file, nfe, evaluations)
    known = named_model(model).on(device)
    provenance = next(iter(plans.values())).provenance
    given: dict[str, Any] = {
        "trajectories": trajectories, "teacher_calls": teacher_calls, "seed": seed, "max_batch_size": max_batch_size,
        **_inputs(known, provenance, shape, labels_of(labels), prompt, negative_prompt, guidance_scale),
        **({} if device == "auto" or known.pipe is not None else {"device": device}),
    }  # fmt: skip
    found: dict[int, PlanVerification] = verify_plan(plans, **given)
    holds = all(each.holds for each in found.values())
    output.result({
        "file": str(file), "model": model, "holds": holds, "plans": [each.to_dict() for each in found.values()]
    })  # fmt: skip
    _print(found, plans.counts_in_words, output)
    if not holds:
        raise typer.Exit(ExitCode.MODEL)


def _inputs(
    known: NamedModel,
    provenance: Any,
    shape: str | None,
    labels: list[int] | None,
    prompt: list[str] | None,
    negative_prompt: list[str] | None,
    guidance_scale: float | None,
) -> dict[str, Any]:
    """The model with its noise schedule and its conditions, as arguments of ``verify_plan``.

    A callable has the settings of the calibration, and a pipeline of diffusers its own.
    """
    import torch

    if known.pipe is not None:
        if shape is not None:
            raise ConfigurationError(f"{known.name} has its own shape", where="shape", suggestion="leave it out")
        pipeline: Any = known.pipeline()
        request = {
            "prompt": prompt, "negative_prompt": negative_prompt, "class_labels": labels,
            "guidance_scale": provenance.get("guidance_scale") if guidance_scale is None else guidance_scale,
        }  # fmt: skip
        arguments: dict[str, Any] = pipeline.calibration_arguments(
            **{name: value for name, value in request.items() if value is not None}
        )
        return arguments
    for name, value in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if value is not None:
            raise ConfigurationError(
                f"{known.name} takes none", where=name, suggestion="give labels, or the folder of a pipeline"
            )
    settings = provenance.get("config")
    own = None if known.shape is None else list(known.shape)
    return {
        "model": known.model,
        "scheduler": known.pipeline(settings=settings if isinstance(settings, dict) else {}),
        "shape": own if shape is None else integers(shape, "shape"),
        "condition": None if labels is None else {"class_labels": torch.tensor(labels)},
        "guidance_scale": guidance_scale,
    }


def _print(found: dict[int, PlanVerification], counted: str, output: Output) -> None:
    from ...calibration.trust.verification import with_error

    rows: list[tuple[str, ...]] = [(counted, "figure", "stated", "measured", "deviation", "holds")]
    for nfe, each in found.items():
        rows += [
            (
                str(nfe), figure.name.replace("_", " "), with_error(figure.stated, figure.stated_error),
                with_error(figure.measured, figure.measured_error),
                "" if figure.holds is None else f"{figure.deviation:+.1f}",
                {True: "yes", False: "no", None: "cannot tell"}[figure.holds],
            )
            for figure in each.figures
        ]  # fmt: skip
        if each.rival is not None:
            stated, measured = each.rival.stated.rms, each.rival.measured.rms
            rows.append((str(nfe), f"rms, {each.rival.name}", f"{stated:.3g}", f"{measured:.3g}", "", ""))
    output.table(rows, numbers=(0, 4), folds=(1,))
    first = next(iter(found.values()))
    output.say(
        f"{first.measured.trajectories} trajectories of seed {first.seed} against {first.teacher_calls} calls; ± and "
        "the deviation are in standard errors over trajectories; a figure holds up to 3 of them"
    )
    for change in first.changes:
        output.say(f"another {change.name}: {change.stated} in the calibration, {change.here} here")
    for nfe, each in found.items():
        output.say(f"{nfe} {counted}: {each.verdict}")
