"""The command ``noise-sampling``: plans, samples and pictures from a terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Final

import typer

from ..support.version import __version__
from .commands.calibrate import calibrate
from .commands.compare import compare
from .commands.config import config_app
from .commands.demo import demo
from .commands.doctor import doctor
from .commands.generate import generate
from .commands.lists import presets, samplers, schedules, spacings
from .commands.plan import plan_app
from .commands.playground import playground
from .commands.recommend import recommend
from .commands.sample import sample
from .commands.serve import serve
from .errors_as_text import CommandGroup
from .output import LogLines

__all__ = ["app"]

_LIBRARY: Final = __name__.partition(".")[0]

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Noise schedules and samplers for diffusion models, compiled to plans.",
)
_RUN, _CHOOSE, _LOOK = "Run a model", "Choose a sampler", "Look things up"
_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    _RUN: (sample, serve, generate, calibrate),
    _CHOOSE: (demo, compare, recommend, playground),
    _LOOK: (samplers, schedules, spacings, presets, doctor),
}
for panel, commands in _COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(plan_app, name="plan", rich_help_panel=_LOOK)
app.add_typer(config_app, name="config", rich_help_panel=_LOOK)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Log more; -vv logs all, and tracebacks.")
    ] = 0,
) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[LogLines(named=verbose > 0)])
    logging.getLogger(_LIBRARY).setLevel(level)
