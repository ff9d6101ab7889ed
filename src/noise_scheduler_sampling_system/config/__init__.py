"""What a user may set: the settings, the names of schedules and samplers, options, and conversions of predictions."""

from .choices import BetaSchedule, SamplingMethod
from .options import Option, Options
from .registries import PRESETS, SAMPLERS, SCHEDULES, SPACINGS
from .settings import NoiseSchedulerConfig

__all__ = [
    "PRESETS",
    "SAMPLERS",
    "SCHEDULES",
    "SPACINGS",
    "BetaSchedule",
    "NoiseSchedulerConfig",
    "Option",
    "Options",
    "SamplingMethod",
]
