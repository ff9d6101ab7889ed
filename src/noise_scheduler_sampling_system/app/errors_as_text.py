"""Errors of a command as text: what is wrong, without a traceback."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from typing import Any, final

import click
import typer
from typer.core import TyperGroup

from ..support.errors import NoiseSamplingError

__all__ = ["CommandGroup"]

logger = logging.getLogger(__name__)

#: Characters of an error's first line that are printed.
_PRINTED = 300


@final
class CommandGroup(TyperGroup):
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
        with contextlib.suppress(OSError):  # stderr is closed
            typer.echo(text, err=True)
        raise typer.Exit(1)


def _foreign(error: Exception) -> str:
    """An error of another library or of the user's code: kind, first line, notes, and where it was raised."""
    if isinstance(error, OSError) and error.strerror:
        return f"file error: {error.strerror}" + (f": {error.filename}" if error.filename else "")
    last = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).splitlines() or [""])[0]
    lines = [f"{type(error).__name__}: {first[:_PRINTED]}", *getattr(error, "__notes__", ())]
    lines.append(f"raised in {last.filename}, line {last.lineno}; noise-sampling -vv logs the traceback")
    return "\n  ".join(lines)
