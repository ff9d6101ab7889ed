"""The command ``sample``: digits in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ...support.errors import ConfigurationError
from ..options import (
    DIGITS,
    GuidanceScale,
    Preset,
    SamplerOptions,
    Schedule,
    ScheduleOptions,
    Spacing,
    SpacingOptions,
    Steps,
    check_output,
    integers,
    labels_of,
    pipeline_in,
    pipeline_of,
    scale_of,
    settings_of,
)

__all__ = ["sample"]


def sample(
    out: Annotated[Path, typer.Option(help="Where to: .safetensors (the numbers) or .png (a picture).")],
    config: Annotated[Path | None, typer.Option(help="A configuration file; then no --method, --schedule.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Which pipeline of the file.")] = None,
    method: Annotated[str | None, typer.Option(help="Sampler; default ddim.")] = None,
    schedule: Schedule = None,
    spacing: Spacing = None,
    preset: Preset = None,
    schedule_option: ScheduleOptions = None,
    spacing_option: SpacingOptions = None,
    option: SamplerOptions = None,
    steps: Steps = 50,
    shape: Annotated[str | None, typer.Option(help="Of the batch, e.g. 4,1,8,8; default: 8×8 pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; default: a new one.")] = None,
    labels: Annotated[str | None, typer.Option(help="Digits to draw, one a sample or one for all, e.g. 1,2,3.")] = None,
    guidance_scale: GuidanceScale = None,
) -> None:
    """Generate handwritten digits with the embedded exact model."""
    check_output(out, ".safetensors", ".png")
    digits = [] if labels is None else integers(labels, "labels")
    size = [len(digits) or DIGITS, 1, 8, 8] if shape is None else integers(shape, "shape")
    if out.suffix == ".png" and (len(size) not in (3, 4) or (len(size) == 4 and size[1] not in (1, 3))):
        raise ConfigurationError(
            f"samples of shape {tuple(size)} cannot be drawn as pictures",
            where="shape",
            suggestion="give B,1,H,W or B,3,H,W, or write to a .safetensors file",
        )
    condition = {"class_labels": labels_of(labels)} if labels is not None else None
    settings = settings_of(schedule, spacing, preset, schedule_option, spacing_option)
    if config is not None:
        chosen = pipeline_in(config, pipeline, method=method, option=option, **settings)
    elif pipeline is None:
        chosen = pipeline_of(method, settings, option)
    else:
        raise ConfigurationError("names a pipeline, and no file is given", where="pipeline", suggestion="give --config")
    result = chosen.sample(
        shape=size,
        num_inference_steps=steps,
        seed=seed,
        condition=condition,
        return_result=True,
        **scale_of(guidance_scale),
    )
    if out.suffix == ".png":
        from ...support.figures import save_image

        save_image(result.samples, out)
    else:
        from safetensors.torch import save

        from ...support.files import write_atomic

        about = {"keys": json.dumps(list(result.keys)), "plan": json.dumps(result.plan.to_dict())}
        write_atomic(out, save({"samples": result.samples.cpu().contiguous()}, metadata=about))
    typer.echo(f"wrote {out}: {len(result.samples)} samples, {result.nfe} model calls, seed {result.keys[0][0]}")
