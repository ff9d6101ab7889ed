"""What every package builds on: errors, argument checks, files, registries, hooks, curves and pictures.

Its public names are the errors and the list of plug-ins. It imports nothing of the other packages.
"""

from .errors import (
    ConfigurationError,
    DeadlineError,
    DeviceError,
    FileError,
    ModelOutputError,
    NoiseSamplingError,
    NumericsError,
    OutOfMemoryError,
    RefusedError,
    SeveralMistakesError,
    StoppedError,
    WorkerError,
)
from .plugins import Plugin, installed_plugins

__all__ = [
    "ConfigurationError",
    "DeadlineError",
    "DeviceError",
    "FileError",
    "ModelOutputError",
    "NoiseSamplingError",
    "NumericsError",
    "OutOfMemoryError",
    "Plugin",
    "RefusedError",
    "SeveralMistakesError",
    "StoppedError",
    "WorkerError",
    "installed_plugins",
]
