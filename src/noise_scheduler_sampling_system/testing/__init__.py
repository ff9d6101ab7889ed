"""A conformance kit for extensions: samplers, schedules, spacings and guidance, held against what they declare.

Call these from the tests of your package. Each raises :class:`ConfigurationError` with what was measured, and returns
a report.
"""

from .check_guidance import GuidanceReport, check_guidance
from .check_plugin import PluginReport, check_plugin
from .check_sampler import SamplerReport, check_sampler
from .check_schedule import ScheduleReport, check_schedule
from .check_spacing import SpacingReport, check_spacing

__all__ = [
    "GuidanceReport",
    "PluginReport",
    "SamplerReport",
    "ScheduleReport",
    "SpacingReport",
    "check_guidance",
    "check_plugin",
    "check_sampler",
    "check_schedule",
    "check_spacing",
]
