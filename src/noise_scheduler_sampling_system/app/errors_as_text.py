"""Errors of a command as text: what is wrong, without a traceback, and an exit code by category."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
import warnings
from typing import Any, Final, final

import typer
from typer.core import TyperGroup

from ..support.errors import NoiseSamplingError
from .exit_codes import ExitCode, code_of
from .output import complain

__all__ = ["CommandGroup"]

logger = logging.getLogger(__name__)

#: Characters of an error's first line that are printed.
_PRINTED = 300
#: Errors of the command line itself, which typer prints. Newer versions of typer have a copy of click's classes.
_OF_TYPER: Final[tuple[type[BaseException], ...]] = (
    typer.Exit,
    typer.Abort,
    next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"),
)


@final
class CommandGroup(TyperGroup):
    """Commands whose errors are messages, not tracebacks; ``-vv`` logs the traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                result = super().invoke(ctx)
            sys.stdout.flush()  # a full device is an error of the command, too
            return result
        except _OF_TYPER:
            raise
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:  # the reader has enough
            with contextlib.suppress(OSError, ValueError):  # no descriptor, in a test
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
            raise typer.Exit(ExitCode.CLOSED_PIPE) from None
        except NoiseSamplingError as error:
            logger.debug("the traceback", exc_info=True)
            code, category, text = code_of(error), f"{error.category} error", str(error)
        except Exception as error:  # the user's model or file system
            logger.debug("the traceback", exc_info=True)
            code, (category, text) = code_of(error), _foreign(error)
        complain(text, category)
        raise typer.Exit(code)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    complain(f"{message}", "warning")


def _foreign(error: Exception) -> tuple[str, str]:
    """An error of another library or of the user's code: its kind; first line, notes, and where it was raised."""
    if isinstance(error, OSError) and error.strerror:
        return "file error", error.strerror + (f": {error.filename}" if error.filename else "")
    last = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).splitlines() or [""])[0]
    lines = [first[:_PRINTED], *getattr(error, "__notes__", ())]
    lines.append(f"raised in {last.filename}, line {last.lineno}; noise-sampling -vv logs the traceback")
    return type(error).__name__, "\n  ".join(lines)
