"""The tables of names: noise schedules, spacings, presets, samplers, and the parts of training objectives.

The package that defines the entries of a table fills it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from ..support.registry import Registry

__all__ = [
    "DENSITIES", "NOISES", "PRESETS", "SAMPLERS", "SCHEDULES", "SPACINGS", "WEIGHTINGS", "defaults_of_schedule",
]  # fmt: skip

#: How to list the names of a table.
_LISTING: Final = "the command 'noise-sampling {}', or list(config.{}) in Python,"
#: Noise schedules by name (classes derived from ``NoisePath``).
SCHEDULES: Registry[Any] = Registry("noise schedule", _LISTING.format("schedules", "SCHEDULES"))
#: Spacings by name (functions of a path and a number of steps that return times or levels).
SPACINGS: Registry[Any] = Registry("timestep spacing", _LISTING.format("spacings", "SPACINGS"))
#: Settings of published models by name (see presets.py).
PRESETS: Registry[Any] = Registry("preset", _LISTING.format("presets", "PRESETS"))
#: Samplers by name (classes derived from ``BaseSampler``).
SAMPLERS: Registry[Any] = Registry("sampler", _LISTING.format("samplers", "SAMPLERS"))
#: Densities of the noise levels of training by name (classes derived from ``Density``).
DENSITIES: Registry[Any] = Registry("density", "list(config.DENSITIES)")
#: Weights of the training loss by name (classes derived from ``Weighting``).
WEIGHTINGS: Registry[Any] = Registry("weighting", "list(config.WEIGHTINGS)")
#: Noises of training by name (classes derived from ``TrainingNoise``).
NOISES: Registry[Any] = Registry("training noise", "list(config.NOISES)")


def defaults_of_schedule(name: Any) -> Mapping[str, Any]:
    """The config fields that have another default with this noise schedule; empty for an unknown name."""
    known = SCHEDULES.canonical(name) if isinstance(name, str | Enum) else ""
    return SCHEDULES.get(known).defaults if known in SCHEDULES else {}
