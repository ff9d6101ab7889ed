"""What every package builds on: errors, argument checks, files, registries, hooks, curves and pictures.

Its public names are the errors. It imports nothing of the other packages.
"""

from .errors import (
    ConfigurationError,
    DeviceError,
    FileError,
    ModelOutputError,
    NoiseSamplingError,
    NumericsError,
    OutOfMemoryError,
    SeveralMistakesError,
)

__all__ = [
    "ConfigurationError",
    "DeviceError",
    "FileError",
    "ModelOutputError",
    "NoiseSamplingError",
    "NumericsError",
    "OutOfMemoryError",
    "SeveralMistakesError",
]
