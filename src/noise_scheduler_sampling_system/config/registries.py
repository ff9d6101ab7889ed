"""The tables of names: noise schedules, spacings, presets and samplers.

Each table is filled by the package that defines its entries.
"""

from __future__ import annotations

from typing import Any

from ..support.registry import Registry

__all__ = ["PRESETS", "SAMPLERS", "SCHEDULES", "SPACINGS"]

#: Noise schedules by name (classes derived from ``NoisePath``).
SCHEDULES: Registry[Any] = Registry("noise schedule")
#: Spacings by name (functions of a noise schedule and a number of steps, that return times or levels).
SPACINGS: Registry[Any] = Registry("timestep spacing")
#: Settings of published models by name (see presets.py).
PRESETS: Registry[Any] = Registry("preset")
#: Samplers by name (classes derived from ``BaseSampler``).
SAMPLERS: Registry[Any] = Registry("sampler")
