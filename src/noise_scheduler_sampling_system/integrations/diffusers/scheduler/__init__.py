"""Samplers of this library in pipelines of diffusers: :class:`PlanScheduler`. Importing it imports diffusers."""

from .output import PlanSchedulerOutput
from .plan_scheduler import PlanScheduler

__all__ = ["PlanScheduler", "PlanSchedulerOutput"]
