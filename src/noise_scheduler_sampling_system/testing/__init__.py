"""A conformance kit for extensions: samplers, noise schedules and guidance of your own, held against what they declare.

Call these from the tests of your package. Each raises :class:`ConfigurationError` with what was measured, and returns
a report.
"""

from .check_guidance import GuidanceReport, check_guidance
from .check_sampler import SamplerReport, check_sampler
from .check_schedule import ScheduleReport, check_schedule

__all__ = [
    "GuidanceReport",
    "SamplerReport",
    "ScheduleReport",
    "check_guidance",
    "check_sampler",
    "check_schedule",
]
