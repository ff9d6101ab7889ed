"""A conformance kit for extensions: samplers, schedules, spacings, guidance and the parts of training objectives, held
against what they declare.

Call these from the tests of your package. Each raises :class:`ConfigurationError` with what was measured, and returns
a report.
"""

from .check_guidance import GuidanceReport, check_guidance
from .check_plugin import PluginReport, check_plugin
from .check_sampler import SamplerReport, check_sampler
from .check_schedule import ScheduleReport, check_schedule
from .check_spacing import SpacingReport, check_spacing
from .check_training import DensityReport, WeightingReport, check_density, check_weighting

__all__ = [
    "DensityReport",
    "GuidanceReport",
    "PluginReport",
    "SamplerReport",
    "ScheduleReport",
    "SpacingReport",
    "WeightingReport",
    "check_density",
    "check_guidance",
    "check_plugin",
    "check_sampler",
    "check_schedule",
    "check_spacing",
    "check_weighting",
]
