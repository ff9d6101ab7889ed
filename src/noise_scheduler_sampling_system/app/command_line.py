"""The command ``noise-sampling``: plans, samples and pictures from a terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
import yaml
from typer.core import TyperGroup

from ..support.errors import ConfigurationError, NoiseSamplingError
from ..support.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipeline.pipeline import DiffusionPipeline

__all__ = ["app"]

logger = logging.getLogger(__name__)

_DIGITS = 10
#: Characters of an error's first line that are printed.
_MESSAGE = 300


class _Group(TyperGroup):
    """Commands whose errors are messages, not tracebacks; ``-vv`` logs the traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full device is an error of the command, too
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except NoiseSamplingError as error:
            logger.debug("the traceback", exc_info=True)
            text = f"{error.category} error: {error}"
        except Exception as error:  # the user's model or file system
            logger.debug("the traceback", exc_info=True)
            text = _foreign(error)
        with contextlib.suppress(OSError):  # nobody reads it
            typer.echo(text, err=True)
        raise typer.Exit(1)


def _foreign(error: Exception) -> str:
    """An error that is not this library's own: kind, first line, notes, and where it was raised."""
    if isinstance(error, OSError) and error.strerror:
        return f"file error: {error.strerror}" + (f": {error.filename}" if error.filename else "")
    last = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).splitlines() or [""])[0]
    lines = [f"{type(error).__name__}: {first[:_MESSAGE]}", *getattr(error, "__notes__", ())]
    lines.append(f"raised in {last.filename}, line {last.lineno}; noise-sampling -vv logs the traceback")
    return "\n  ".join(lines)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Noise schedules and samplers for diffusion models, compiled to plans.",
)
config_app = typer.Typer(no_args_is_help=True, help="Configuration files.")
app.add_typer(config_app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more; twice for all.")] = 0,
) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger(__package__).setLevel(level)


@app.command()
def samplers() -> None:
    """List the samplers: order, model calls a step, whether they add noise, options."""
    from ..config.registries import SAMPLERS
    from ..samplers.factory import SamplerFactory

    rows: list[tuple[str, ...]] = [("name", "order", "calls/step", "stochastic", "options")]
    for name in sorted(SAMPLERS):
        made = SamplerFactory.create(name)
        options = ", ".join(f"{key}={value}" for key, value in made.option_defaults.items())
        rows.append((name, str(made.order), str(made.calls_per_step), "yes" if made.stochastic else "no", options))
    typer.echo(_table(rows))


@app.command()
def schedules() -> None:
    """List the noise schedules, with the noise-to-signal ratio σ/α at both ends."""
    from ..config.choices import BetaSchedule
    from ..config.registries import SCHEDULES
    from ..schedules.factory import NoiseSchedulerFactory

    rows: list[tuple[str, ...]] = [("name", "σ/α, cleanest", "σ/α, noisiest")]
    for name in sorted(SCHEDULES):
        if name == BetaSchedule.CUSTOM.value:
            rows.append((name, "(trained_betas)", ""))
            continue
        path = NoiseSchedulerFactory.create(name)
        rows.append((name, *(f"{path.level(t).noise_to_signal:.4g}" for t in (path.t_min, path.t_max))))
    typer.echo(_table(rows))


_Schedule = Annotated[str | None, typer.Option(help="Noise schedule; default linear.")]
_Spacing = Annotated[str | None, typer.Option(help="Timestep spacing; default leading.")]
_Preset = Annotated[str | None, typer.Option(help="Settings of a published model, e.g. sdxl, sd3, flux-dev.")]
_ScheduleOptions = Annotated[
    list[str] | None, typer.Option("--schedule-option", help="An option of the schedule, e.g. shift=3; repeatable.")
]
_SpacingOptions = Annotated[
    list[str] | None, typer.Option("--spacing-option", help="An option of the spacing, e.g. rho=5; repeatable.")
]
_Steps = Annotated[int, typer.Option(help="Steps N, the intervals of the grid.")]
_GuidanceScale = Annotated[
    float | None, typer.Option(help="Classifier-free guidance with --labels; default 7.5, as in Python; 1 is none.")
]
_Options = Annotated[list[str] | None, typer.Option("--option", "-o", help="A sampler option, key=value; repeatable.")]


@app.command()
def plan(
    method: Annotated[str, typer.Argument(help="Sampler.")],
    steps: _Steps = 50,
    schedule: _Schedule = None,
    spacing: _Spacing = None,
    preset: _Preset = None,
    schedule_option: _ScheduleOptions = None,
    spacing_option: _SpacingOptions = None,
    option: _Options = None,
    save: Annotated[Path | None, typer.Option(help="Write the plan to this .json or .safetensors file.")] = None,
) -> None:
    """Print the table that a sampler follows."""
    if save is not None:
        _check_output(save, ".json", ".safetensors")
    settings = _settings(schedule, spacing, preset, schedule_option, spacing_option)
    made = _pipeline(None, None, method, settings, option).plan(steps)
    typer.echo(str(made))
    if save is not None:
        made.save(save)
        typer.echo(f"wrote {save}")


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="Where to: .safetensors (the numbers) or .png (a picture).")],
    config: Annotated[Path | None, typer.Option(help="A configuration file; then no --method, --schedule.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Which pipeline of the file.")] = None,
    method: Annotated[str | None, typer.Option(help="Sampler; default ddim.")] = None,
    schedule: _Schedule = None,
    spacing: _Spacing = None,
    preset: _Preset = None,
    schedule_option: _ScheduleOptions = None,
    spacing_option: _SpacingOptions = None,
    option: _Options = None,
    steps: _Steps = 50,
    shape: Annotated[str | None, typer.Option(help="Of the batch, e.g. 4,1,8,8; default: 8×8 pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; default: a new one.")] = None,
    labels: Annotated[str | None, typer.Option(help="Digits to draw, one a sample or one for all, e.g. 1,2,3.")] = None,
    guidance_scale: _GuidanceScale = None,
) -> None:
    """Generate handwritten digits with the embedded exact model."""

    _check_output(out, ".safetensors", ".png")
    digits = [] if labels is None else _integers(labels, "labels")
    size = [len(digits) or _DIGITS, 1, 8, 8] if shape is None else _integers(shape, "shape")
    if out.suffix == ".png" and (len(size) not in (3, 4) or (len(size) == 4 and size[1] not in (1, 3))):
        raise ConfigurationError(
            f"samples of shape {tuple(size)} are no pictures",
            where="shape",
            suggestion="give B,1,H,W or B,3,H,W, or write to a .safetensors file",
        )
    condition = {"class_labels": _labels(labels)} if labels is not None else None
    settings = _settings(schedule, spacing, preset, schedule_option, spacing_option)
    result = _pipeline(config, pipeline, method, settings, option).sample(
        shape=size,
        num_inference_steps=steps,
        seed=seed,
        condition=condition,
        return_result=True,
        **_guided(guidance_scale),
    )
    if out.suffix == ".png":
        from ..support.figures import save_image

        save_image(result.samples, out)
    else:
        from safetensors.torch import save

        from ..support.files import write_atomic

        about = {"keys": json.dumps(list(result.keys)), "plan": json.dumps(result.plan.to_dict())}
        write_atomic(out, save({"samples": result.samples.cpu().contiguous()}, metadata=about))
    typer.echo(f"wrote {out}: {len(result.samples)} samples, {result.nfe} model calls, seed {result.keys[0][0]}")


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="A configuration file.")],
    out: Annotated[Path, typer.Option(help="The picture, a .png file.")],
    steps: _Steps = 50,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Classifier-free guidance; default 7.5, as in Python; 1 is none.")
    ] = None,
) -> None:
    """Draw the digits 0 to 9 with every pipeline of a file, from the same noise."""
    import torch

    from ..pipeline.request import DEFAULT_SCALE
    from ..pipeline.system import AdvancedDiffusionSystem
    from ..support.figures import draw_rows, mosaic

    _check_output(out, ".png")
    system = AdvancedDiffusionSystem(config)
    labels = torch.arange(_DIGITS)
    results = system.compare_schedulers(
        (_DIGITS, 1, 8, 8), steps, condition={"class_labels": labels}, seed=seed, **_guided(guidance_scale)
    )
    scale = DEFAULT_SCALE if guidance_scale is None else guidance_scale
    pipelines = [system.get_pipeline(name) for name in results]
    calls = [p.plan(steps).nfe if p.sampler.writes_plans else steps for p in pipelines]
    draw_rows(
        out,
        title=f"{config.name}: {steps} steps",
        subtitle=f"Digits 0 to 9 from the embedded exact model, seed {seed}, guidance scale {scale:g}.",
        headings=[""],
        labels=[[name, f"{p.method}, {_schedule_of(p)}"] for name, p in zip(results, pipelines, strict=True)],
        pictures=[[mosaic(samples, _DIGITS)] for samples in results.values()],
        notes=[[f"{nfe} model calls"] for nfe in calls],
    )
    typer.echo(f"wrote {out}: {', '.join(results)}")


@app.command()
def calibrate(
    out: Annotated[Path, typer.Option(help="The plans, a .json file.")],
    nfe: Annotated[str, typer.Option(help="Model calls, e.g. 5 or 4,5,6,8,10.")] = "5",
    model: Annotated[
        str, typer.Option(help="digits, mnist, or module:attribute, a callable (x, t, **condition).")
    ] = "digits",
    schedule: _Schedule = None,
    preset: _Preset = None,
    schedule_option: _ScheduleOptions = None,
    prediction: Annotated[str | None, typer.Option(help="What the model predicts; default the schedule's.")] = None,
    shape: Annotated[
        str | None, typer.Option(help="Of one sample, e.g. 3,64,64; default the embedded model's.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="class_labels that the trajectories take in turn.")] = None,
    guidance_scale: _GuidanceScale = None,
    trajectories: Annotated[int, typer.Option(help="How many to fit to.")] = 512,
    held_out: Annotated[int | None, typer.Option(help="How many to choose by; default as many.")] = None,
    budget_seconds: Annotated[float | None, typer.Option(help="Stop after so long, the teacher included.")] = None,
    passes: Annotated[float, typer.Option(help="Runs of all trajectories for each number of calls.")] = 300.0,
    teacher_calls: Annotated[int, typer.Option(help="Model calls of the fine runs.")] = 128,
    stages: Annotated[str | None, typer.Option(help="Of design,fit; default both.")] = None,
    history: Annotated[int | None, typer.Option(help="The most earlier predictions that a step reads.")] = None,
    first: Annotated[str, typer.Option(help="The first query: free, or noisiest.")] = "free",
    max_gain: Annotated[float, typer.Option(help="Limit on how errors of predictions are multiplied.")] = 30.0,
    max_batch_size: Annotated[int | None, typer.Option(help="Run at most so many samples at a time.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="A .safetensors file to go on from.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw errors and levels to this .png file.")] = None,
) -> None:
    """Fit few-step plans to a model, and say how they compare with the built-in samplers."""

    from ..calibration import calibrate as fit_plans
    from ..calibration.plot import draw, is_calibrated

    _check_output(out, ".json")
    if plot is not None:
        _check_output(plot, ".png")
    network, size, implied = _model(model)
    settings = {**implied, **_settings(schedule, None, preset, schedule_option, None)}
    if prediction is not None:
        settings["prediction_type"] = prediction
    pipeline = _pipeline(None, None, None, settings, None)
    chosen = size if shape is None else _integers(shape, "shape")
    if chosen is None:
        raise ConfigurationError("is missing", where="shape", suggestion="give that of one sample, e.g. 3,64,64")
    condition = None if labels is None else {"class_labels": _labels(labels)}
    plans = fit_plans(
        network, pipeline, shape=chosen, nfe=_integers(nfe, "nfe"), condition=condition,
        guidance_scale=guidance_scale, trajectories=trajectories, held_out=held_out, budget_seconds=budget_seconds,
        passes=passes,
        teacher_calls=teacher_calls, stages=None if stages is None else stages.split(","), history=history, first=first,
        max_gain=max_gain, max_batch_size=max_batch_size, device=device, seed=seed, checkpoint=checkpoint,
        progress=True,
    )  # fmt: skip
    plans.save(out)
    rows: list[tuple[str, ...]] = [("calls", "plan", "held-out error", "median", "best built-in", "error", "median")]
    for budget, made in plans.items():
        ours, best = made.provenance["held_out_error"], made.provenance["built_in"][0]
        theirs = best["held_out_error"]
        figures = [f"{errors[key]:.3g}" for errors in (ours, theirs) for key in ("rms", "median")]
        kind = made.provenance["kind"] if is_calibrated(made) else "built-in"
        rows.append((str(budget), kind, *figures[:2], best["name"], *figures[2:]))
    typer.echo(_table(rows))
    typer.echo("errors: root mean square over held-out trajectories, by which plans and built-in samplers are chosen")
    typer.echo(f"wrote {out}")
    if plot is not None:
        draw(plans, pipeline.scheduler, plot)
        typer.echo(f"wrote {plot}")


@config_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A YAML or JSON file of pipelines.")],
    steps: Annotated[int | None, typer.Option(help="Also compile every pipeline for so many steps.")] = None,
) -> None:
    """Load a configuration file and say what is in it; exit code 1 if anything is wrong."""
    from ..pipeline.system import AdvancedDiffusionSystem

    system = AdvancedDiffusionSystem(file)
    rows: list[tuple[str, ...]] = [("pipeline", "method", "schedule", "spacing", "prediction")]
    for name in system.list_pipelines():
        pipeline = system.get_pipeline(name)
        if steps is not None and pipeline.sampler.writes_plans:
            try:
                pipeline.plan(steps)
            except NoiseSamplingError as error:
                where = f"{file}: {name}.{error.where}"
                raise type(error)(error.what, where=where, why=error.why, suggestion=error.suggestion) from None
        settings = pipeline.config
        rows.append(
            (name, pipeline.method, _schedule_of(pipeline), pipeline.sampler.run_spacing, settings.prediction_type)
        )
    typer.echo(_table(rows))


@app.command()
def demo(out: Annotated[Path, typer.Option(help="The picture, a .png file.")] = Path("demo.png")) -> None:
    """Draw digits with every sampler at a few budgets of model calls, with their true errors."""
    from .demo import compare_samplers, draw_comparison, summary

    _check_output(out, ".png")
    rows = compare_samplers()
    draw_comparison(rows, out)
    typer.echo(summary(rows))
    typer.echo(f"wrote {out.resolve()}")


def _settings(
    schedule: str | None,
    spacing: str | None,
    preset: str | None,
    schedule_options: list[str] | None,
    spacing_options: list[str] | None,
) -> dict[str, Any]:
    """The config's fields that the arguments set, and the preset."""
    given = {
        "preset": preset,
        "beta_schedule": schedule,
        "timestep_spacing": spacing,
        "schedule_options": _key_values(schedule_options or []),
        "spacing_options": _key_values(spacing_options or []),
    }
    return {key: value for key, value in given.items() if value}


def _pipeline(
    file: Path | None,
    name: str | None,
    method: str | None,
    settings: dict[str, Any],
    options: list[str] | None,
) -> DiffusionPipeline:
    """The pipeline of a file, or one made from the arguments."""
    from ..config.settings import NoiseSchedulerConfig
    from ..pipeline.pipeline import DiffusionPipeline
    from ..pipeline.system import AdvancedDiffusionSystem

    if file is None:
        if name is not None:
            raise ConfigurationError("names a pipeline of no file", where="pipeline", suggestion="give --config")
        preset = settings.pop("preset", None)
        config = NoiseSchedulerConfig.preset(preset, **settings) if preset else NoiseSchedulerConfig(**settings)
        return DiffusionPipeline(config, method or "ddim", **_key_values(options or []))
    for where, value in {"method": method, "option": options, **settings}.items():
        if value:
            raise ConfigurationError("is set by the file", where=where, suggestion=f"change it in {file}")
    system = AdvancedDiffusionSystem(file)
    names = system.list_pipelines()
    if name is None and len(names) != 1:
        raise ConfigurationError(
            f"{file} has {len(names)} pipelines", where="pipeline", suggestion=f"choose one of: {', '.join(names)}"
        )
    return system.get_pipeline(names[0] if name is None else name)


def _model(name: str) -> tuple[Any, list[int] | None, dict[str, Any]]:
    """A model by name, the shape of its samples where it is known, and the settings that it implies."""
    if name == "digits":
        return None, [1, 8, 8], {}
    if name == "mnist":
        from ..models import mnist_unet

        return mnist_unet(), [1, 28, 28], {"prediction_type": "v_prediction"}
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigurationError(
            f"got {name!r}", where="model", suggestion="give digits, mnist, or module:attribute, e.g. mymodels:unet"
        )
    import importlib

    sys.path.insert(0, "")  # as for python -m: what lies in the current folder is found
    try:
        return getattr(importlib.import_module(module), attribute), None, {}
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: no module's name
        raise ConfigurationError(
            f"{name!r} cannot be imported", where="model", why=str(error), suggestion="check PYTHONPATH and the name"
        ) from None


def _guided(scale: float | None) -> dict[str, Any]:
    """The argument of ``sample``, which has the default."""
    return {} if scale is None else {"guidance_scale": scale}


def _schedule_of(pipeline: DiffusionPipeline) -> str:
    return str(pipeline.config.to_dict()["beta_schedule"])


def _key_values(pairs: list[str]) -> dict[str, Any]:
    """key=value texts as a table; values as YAML reads them: 0.5, true, text."""
    table = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"got {pair!r}", where="option", suggestion="write key=value, e.g. eta=0.5")
        table[key] = value
        with contextlib.suppress(yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
            table[key] = yaml.safe_load(value)
    return table


def _integers(text: str, where: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigurationError(
            f"got {text!r}", where=where, suggestion="give whole numbers with commas between, e.g. 4,1,8,8"
        ) from None


def _labels(text: str) -> Tensor:
    import torch

    numbers = _integers(text, "labels")
    if not all(0 <= number < 1 << 63 for number in numbers):
        raise ConfigurationError(f"got {text[:_MESSAGE]!r}", where="labels", suggestion="give whole numbers ≥ 0")
    return torch.tensor(numbers)


def _check_output(path: Path, *endings: str) -> None:
    """A file that can be written, before anything is run: its ending, its folder, and what draws pictures."""
    from ..support.files import refuse_missing_folder

    if path.suffix not in endings:
        raise ConfigurationError(
            f"the ending {path.suffix!r} names no format", where=str(path), suggestion=f"use {' or '.join(endings)}"
        )
    refuse_missing_folder(path)
    if path.suffix == ".png":
        from ..support.figures import figure_class

        figure_class()


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
