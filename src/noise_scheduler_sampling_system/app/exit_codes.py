"""Exit codes of the command, by category of what went wrong."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from ..support.errors import NoiseSamplingError

__all__ = ["ExitCode", "code_of"]


class ExitCode(IntEnum):
    """What the exit code of a command says."""

    DONE = 0
    OTHER = 1
    """An error of the user's model or of another library."""
    USAGE = 2
    """An option or an argument that the command does not have."""
    CONFIGURATION = 3
    """A setting, a name or a combination that cannot work."""
    FILE = 4
    """A file that is missing or malformed, or cannot be written."""
    MODEL = 5
    """The model's output or the result is wrong or not finite, or a self-check failed."""
    DEVICE = 6
    """A device is missing, or memory ran out."""
    INTERRUPTED = 130
    """Ctrl-C; what was finished is kept."""
    CLOSED_PIPE = 141
    """The reader of the output went away (``| head``)."""


_BY_CATEGORY: Final = {
    "configuration": ExitCode.CONFIGURATION,
    "file": ExitCode.FILE,
    "model output": ExitCode.MODEL,
    "numerics": ExitCode.MODEL,
    "device": ExitCode.DEVICE,
    "memory": ExitCode.DEVICE,
}


def code_of(error: BaseException) -> ExitCode:
    """The exit code for an error."""
    if isinstance(error, NoiseSamplingError):
        return _BY_CATEGORY.get(error.category, ExitCode.OTHER)
    return ExitCode.FILE if isinstance(error, OSError) and error.strerror else ExitCode.OTHER
