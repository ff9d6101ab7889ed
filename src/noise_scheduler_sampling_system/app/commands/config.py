"""The commands ``config check``, ``new``, ``convert`` and ``schema``: configuration files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...support.errors import ConfigurationError, NoiseSamplingError
from .. import completion
from ..exit_codes import ExitCode
from ..options import Preset
from ..output import Json, Output, Quiet
from ..parsing import check_output, preset_of
from ..pipelines import CONFIG_ENDINGS, schedule_of

if TYPE_CHECKING:
    from ...pipeline.system import AdvancedDiffusionSystem

__all__ = ["check", "config_app", "convert", "new", "schema"]

config_app = typer.Typer(no_args_is_help=True, help="Configuration files: check, make, convert, describe.")


@config_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A YAML or JSON file of pipelines.")],
    steps: Annotated[int | None, typer.Option(help="Also compile every pipeline for N steps.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Load a configuration file and say what is in it, or all its mistakes.

    With --json the mistakes are part of the result. The exit code is 3 if there are any, and 4 if the file cannot be
    read.
    """
    output = Output(as_json, quiet)
    try:
        system = _loaded(file, steps)
    except ConfigurationError as error:
        if not as_json:
            raise
        mistakes = [
            {"where": each.where, "what": each.what, "why": each.why, "suggestion": each.suggestion}
            for each in getattr(error, "errors", (error,))
        ]
        output.result({"file": str(file), "ok": False, "mistakes": mistakes})
        raise typer.Exit(ExitCode.CONFIGURATION) from None
    rows = [("pipeline", "method", "schedule", "spacing", "prediction")]
    for name in system.list_pipelines():
        pipeline = system.get_pipeline(name)
        spacing, prediction = pipeline.sampler.run_spacing, pipeline.config.prediction_type
        rows.append((name, pipeline.method, schedule_of(pipeline), spacing, prediction))
    pipelines = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    output.result({"file": str(file), "ok": True, "pipelines": pipelines})
    output.table(rows, folds=(0,))


def _loaded(file: Path, steps: int | None) -> AdvancedDiffusionSystem:
    """The pipelines of a file, each compiled for N steps if that is asked for.

    Raises:
        ConfigurationError: with the mistakes of all pipelines.
    """
    from ...pipeline.system import AdvancedDiffusionSystem
    from ...support.mistakes import Mistakes

    system, mistakes = AdvancedDiffusionSystem(file), Mistakes()
    for name in system.list_pipelines():
        pipeline = system.get_pipeline(name)
        if steps is None or not pipeline.sampler.writes_plans:
            continue
        with mistakes.collected(f"{file}: {name}"):
            try:
                pipeline.plan(steps)
            except ConfigurationError:
                raise
            except NoiseSamplingError as error:  # a table that is not usable: the settings make it
                raise ConfigurationError(
                    error.what, where=error.where, why=error.why, suggestion=error.suggestion
                ) from None
    mistakes.raise_all()
    return system


@config_app.command()
def new(
    file: Annotated[Path, typer.Argument(help="The file to write: .yaml (with comments), .yml or .json.")],
    name: Annotated[str, typer.Option(help="The pipeline's name.")] = "main",
    method: Annotated[
        str, typer.Option(help="Its sampler; 'noise-sampling samplers' lists them.", autocompletion=completion.samplers)
    ] = "dpmpp_2m",
    preset: Preset = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a configuration file to begin with: one pipeline, and every other setting as a comment."""
    from ...config.settings import NoiseSchedulerConfig
    from ...pipeline.config_schema import commented_example
    from ...pipeline.pipeline import DiffusionPipeline
    from ...support.data_files import write_table
    from ...support.errors import FileError
    from ...support.files import write_atomic

    check_output(file, *CONFIG_ENDINGS)
    if file.exists() and not force:
        raise FileError("exists", where=str(file), suggestion="name another file, or give --force to replace it")
    chosen = preset_of(preset) if preset else {}
    config = NoiseSchedulerConfig.preset(chosen.pop("preset"), **chosen) if chosen else NoiseSchedulerConfig()
    DiffusionPipeline(config, method)  # refuses what does not go together
    default = NoiseSchedulerConfig().to_dict()
    fields = {key: value for key, value in config.to_dict().items() if value != default[key]}
    if file.suffix == ".json":
        write_table(file, {name: {"method": method, **fields}})
    else:
        write_atomic(file, commented_example(name, method, fields).encode())
    output = Output(as_json, quiet)
    output.result({"file": str(file), "pipeline": name, "method": method, "settings": fields})
    output.say(f"wrote {file}: pipeline {name!r} with {method}")


@config_app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A YAML or JSON file of pipelines.")],
    out: Annotated[Path, typer.Argument(help="The file to write; its ending says the format: .yaml, .yml or .json.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a configuration file in the other format, with the same settings. Comments are lost."""
    from ...pipeline.system import AdvancedDiffusionSystem
    from ...support.data_files import read_table, write_table

    check_output(out, *CONFIG_ENDINGS)
    names = AdvancedDiffusionSystem(file).list_pipelines()  # refuses a file with mistakes
    write_table(out, read_table(file))
    output = Output(as_json, quiet)
    output.result({"file": str(out), "pipelines": names})
    output.say(f"wrote {out}: {', '.join(names)}")


@config_app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="The .json file to write; default: print it.")] = None,
    quiet: Quiet = False,
) -> None:
    """Print the JSON Schema of configuration files, for editors that complete and check them."""
    from ...pipeline.config_schema import config_schema
    from ...support.files import write_atomic

    text = json.dumps(config_schema(), indent=2, ensure_ascii=False)
    if out is None:
        typer.echo(text)
        return
    check_output(out, ".json")
    write_atomic(out, f"{text}\n".encode())
    Output(quiet=quiet).say(f"wrote {out}; in a YAML file: # yaml-language-server: $schema={out}")
