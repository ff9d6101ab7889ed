"""Few-step plans, designed for the spectrum of data or fitted to a model."""

from .calibrate import calibrate
from .design import Design, Spectrum, design_plan, design_table
from .level_range import LevelRange
from .table import Table
from .trust import Measurement, PlanVerification, StatedFigure, verify_plan

__all__ = [
    "Design",
    "LevelRange",
    "Measurement",
    "PlanVerification",
    "Spectrum",
    "StatedFigure",
    "Table",
    "calibrate",
    "design_plan",
    "design_table",
    "verify_plan",
]  # fmt: skip
