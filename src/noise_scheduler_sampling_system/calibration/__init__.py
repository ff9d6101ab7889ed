"""Few-step plans, designed for the spectrum of data or fitted to a model."""

from .calibrate import calibrate
from .design import Design, Spectrum, design_plan, design_table
from .table import LevelRange, Table

__all__ = ["Design", "LevelRange", "Spectrum", "Table", "calibrate", "design_plan", "design_table"]
