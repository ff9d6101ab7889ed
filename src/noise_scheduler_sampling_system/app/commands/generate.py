"""The command ``generate``: a large set of samples in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...support.errors import ConfigurationError
from .. import completion
from ..exit_codes import ExitCode
from ..options import (
    Device,
    GuidanceScale,
    Model,
    NegativePrompt,
    PlanEvaluations,
    Prediction,
    Preset,
    Prompt,
    SamplerOptions,
    Schedule,
    ScheduleOptions,
    Seed,
    Spacing,
    SpacingOptions,
    Steps,
)
from ..output import Json, Output, Quiet, complain
from ..parsing import integers, key_values, labels_of, settings_of
from ..plans import plans_for_run, refuse_beside_plan

if TYPE_CHECKING:
    from ...bulk import Verification

__all__ = ["generate"]

_SET, _RUN = "The set", "How it is made"


def generate(
    output: Annotated[Path, typer.Option(help="The folder of the set. The same command goes on with it.")],
    num_samples: Annotated[int | None, typer.Option(help="Samples of the set: 0 to N − 1 of the seed.")] = None,
    format: Annotated[  # noqa: A002  # the name of the option
        str, typer.Option(help="parquet, png or webdataset.", rich_help_panel=_SET)
    ] = "parquet",
    batch_size: Annotated[int | None, typer.Option(help="Samples of a call; default 64.", rich_help_panel=_SET)] = None,
    shard_size: Annotated[
        int | None, typer.Option(help="Samples of a shard; default about 1,000.", rich_help_panel=_SET)
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Only check a set: what is missing or corrupt.")] = False,
    method: Annotated[
        str | None,
        typer.Option(help="Sampler; default ddim, or that of the pipeline.", autocompletion=completion.samplers),
    ] = None,
    option: SamplerOptions = None,
    steps: Steps = 50,
    plan: Annotated[
        Path | None, typer.Option(help="The file of a plan; of several: --steps calls, or --evaluations.")
    ] = None,
    evaluations: PlanEvaluations = None,
    seed: Seed = 0,
    model: Model = "digits",
    shape: Annotated[
        str | None, typer.Option(help="Of one sample, e.g. 3,64,64; default the model's own.", rich_help_panel="Model")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="class_labels, taken in turn, e.g. 0..9.", rich_help_panel="Model")
    ] = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    condition: Annotated[
        str | None,
        typer.Option(
            help="A table with a row a sample (.csv, .jsonl, .parquet), or module:function of an array of indices.",
            rich_help_panel="Model",
        ),
    ] = None,
    guidance_scale: GuidanceScale = None,
    latents: Annotated[
        bool, typer.Option("--latents", help="Write the latents of a pipeline, not images.", rich_help_panel="Model")
    ] = False,
    prediction: Prediction = None,
    device: Device = "auto",
    schedule: Schedule = None,
    spacing: Spacing = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    spacing_option: SpacingOptions = None,
    engine: Annotated[str, typer.Option(help="local (one process) or ray.", rich_help_panel=_RUN)] = "local",
    workers: Annotated[int, typer.Option(help="Workers of Ray.", rich_help_panel=_RUN)] = 1,
    gpu_fraction: Annotated[float, typer.Option(help="Of a GPU for each worker of Ray.", rich_help_panel=_RUN)] = 0.0,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; default: a local one.", rich_help_panel=_RUN)
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a batch may take.", rich_help_panel=_RUN)] = None,
    retries: Annotated[
        int, typer.Option(help="How often a shard that failed is tried again.", rich_help_panel=_RUN)
    ] = 2,
    check: Annotated[
        str, typer.Option(help="Of what is there: full (SHA-256) or size.", rich_help_panel=_RUN)
    ] = "full",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Make shards with failed samples again.", rich_help_panel=_RUN)
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate a large set of samples, in shards on disk.

    The same command goes on after a crash or Ctrl-C, and makes again what --verify finds missing or corrupt.
    """
    from ...bulk import generate_dataset
    from ...bulk.inputs import Pictures
    from ...integrations.named_models import named_model

    shown = Output(as_json, quiet)
    if verify:
        _verify(output, shown, check)
        return
    if num_samples is None:
        raise ConfigurationError("is missing", where="num_samples", suggestion="give --num-samples, or --verify")
    given = plans_for_run(plan, evaluations)
    if given is not None:
        refuse_beside_plan(method=method, option=option, spacing=spacing, spacing_option=spacing_option)
    known = named_model(model).on(device if engine == "local" else "cpu")  # Ray's workers move it to their GPU
    settings = settings_of(schedule, spacing, preset, schedule_option, spacing_option, prediction)
    pipeline = known.pipeline(
        method, preset=settings.pop("preset", None), settings=settings, options=key_values(option or [])
    )
    run: dict[str, Any] = {"num_inference_steps": steps}
    if guidance_scale is not None:
        run["guidance_scale"] = guidance_scale
    if given is not None:
        run["plan"] = given
    if device != "auto":
        run["device"] = device
    own = known.pipe is not None
    size = known.shape if shape is None else tuple(integers(shape, "shape"))
    try:
        report = generate_dataset(
            pipeline, None if own or known.model is None else model, num_samples, output, seed=seed,
            shape=None if own else size, batch_size=batch_size, shard_size=shard_size, format=format,
            condition=_condition(labels_of(labels), prompt, negative_prompt, condition),
            decode=Pictures(known, pipeline) if own and not latents else None, engine=engine, workers=workers,
            gpu_fraction=gpu_fraction, address=address, timeout=timeout, retries=retries, check=check,
            retry_failed=retry_failed, progress=shown.progress, **run,
        )  # fmt: skip
    except KeyboardInterrupt:
        complain(f"interrupted: finished shards are in {output}; the same command goes on")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    shown.result({
        "output": str(report.output), "samples": report.num_samples, "written": report.written,
        "found": report.found, "failed": report.num_failed, "repaired_shards": report.repaired,
        "retried_shards": report.retried, "seconds": round(report.seconds, 3), "seed": seed,
    })  # fmt: skip
    rate = report.written / report.seconds if report.seconds else 0.0
    shown.say(f"{report.output}: {report.written} samples written ({rate:.4g} a second), {report.found} found, "
              f"{report.num_failed} failed")  # fmt: skip


def _condition(
    labels: list[int] | None, prompt: list[str] | None, negative: list[str] | None, named: str | None
) -> Any:
    from ...bulk.inputs import InTurn, condition_named

    given = {"class_labels": labels, "prompt": prompt, "negative_prompt": negative}
    lists = {name: values for name, values in given.items() if values}
    if named is None:
        return InTurn(lists) if lists else None
    if lists:
        raise ConfigurationError(
            f"is given beside {', '.join(lists)}", where="condition", suggestion="put all columns into the table"
        )
    return condition_named(named)


def _verify(folder: Path, shown: Output, check: str) -> None:
    from ...bulk import verify_dataset
    from ...bulk.folder import reads_content

    found: Verification = verify_dataset(folder, hashes=reads_content(check))
    shown.result({
        "output": str(folder), "complete": found.complete, "samples": found.num_samples, "shards": found.shards,
        "problems": {str(number): what for number, what in found.problems.items()}, "affected": found.affected,
        "failed": [{"first": a, "last": b, "reason": why} for a, b, why in found.failed],
        "strangers": list(found.strangers), "damaged_lines": list(found.damaged_lines),
    })  # fmt: skip
    shown.say_as_is(str(found).splitlines())
    if not found.complete:
        complain(f"{len(found.problems)} of {found.shards} shards are missing or corrupt")
        raise typer.Exit(ExitCode.FILE)
