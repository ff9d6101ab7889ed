"""Plans designed without model calls: the best ones for Gaussian data of a spectrum."""

from .design_table import CRITERIA, FIRST, Design, design_plan, design_table, limit, optimal_levels
from .spectrum import Spectrum
from .zolotarev import best_root

__all__ = [
    "CRITERIA",
    "FIRST",
    "Design",
    "Spectrum",
    "best_root",
    "design_plan",
    "design_table",
    "limit",
    "optimal_levels",
]
