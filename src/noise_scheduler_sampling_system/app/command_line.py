"""The command ``noise-sampling``: plans, samples and pictures from a terminal."""

from __future__ import annotations

import logging
from typing import Annotated, Final

import typer

from ..support.version import __version__
from .commands.calibrate import calibrate
from .commands.check import check
from .commands.compare import compare
from .commands.demo import demo
from .commands.lists import samplers, schedules
from .commands.plan import plan
from .commands.sample import sample
from .errors_as_text import CommandGroup

__all__ = ["app"]

_LIBRARY: Final = __name__.partition(".")[0]

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Noise schedules and samplers for diffusion models, compiled to plans.",
)
config_app = typer.Typer(no_args_is_help=True, help="Configuration files.")
app.add_typer(config_app, name="config")

for command in (samplers, schedules, plan, sample, compare, calibrate, demo):
    app.command()(command)
config_app.command()(check)


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
    logging.getLogger(_LIBRARY).setLevel(level)
