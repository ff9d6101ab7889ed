"""Few-step plans fitted to data or to a model."""

from .calibrate import calibrate
from .design import Design, design_plan, design_table
from .spectrum import Spectrum
from .table import LevelRange, Table

__all__ = ["Design", "LevelRange", "Spectrum", "Table", "calibrate", "design_plan", "design_table"]
