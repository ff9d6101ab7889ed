"""How far a calibrated plan can be trusted: uncertainty, other guidance and shapes, and a second measurement."""

from .measurement import Measurement
from .verification import PlanVerification, StatedFigure
from .verify import verify_plan

__all__ = ["Measurement", "PlanVerification", "StatedFigure", "verify_plan"]
