"""Samplers of this library in pipelines of diffusers: :class:`PlanScheduler`. Importing it imports diffusers."""

from .plan_scheduler import PlanScheduler, _again  # noqa: F401  # pickles of version 1.3 find _again here
from .step_output import PlanSchedulerOutput

__all__ = ["PlanScheduler", "PlanSchedulerOutput"]
