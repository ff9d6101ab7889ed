"""Sampling plans: the table, the builder that samplers write it with, and the tracing of other schedulers."""

from . import difference, tracing  # which provide SamplingPlan.diff and SamplingPlan.trace
from .builder import PlanBuilder, Prediction
from .frame_plan import FramePlan
from .linear_form import Form
from .plan import SamplingPlan
from .plan_set import PlanSet

__all__ = ["Form", "FramePlan", "PlanBuilder", "PlanSet", "Prediction", "SamplingPlan", "difference", "tracing"]
