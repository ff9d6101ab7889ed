"""What a user may set: the settings, the names of schedules and samplers, options, and conversions of predictions."""

from .choices import BetaSchedule, SamplingMethod
from .options import Option, Options
from .registries import DENSITIES, NOISES, PRESETS, SAMPLERS, SCHEDULES, SPACINGS, WEIGHTINGS
from .settings import NoiseSchedulerConfig

__all__ = [
    "DENSITIES",
    "NOISES",
    "PRESETS",
    "SAMPLERS",
    "SCHEDULES",
    "SPACINGS",
    "WEIGHTINGS",
    "BetaSchedule",
    "NoiseSchedulerConfig",
    "Option",
    "Options",
    "SamplingMethod",
]
