"""From a request to samples: the pipeline, its compiled settings, the checks of a request, and the job that runs it."""

from .pipeline import DiffusionPipeline
from .system import AdvancedDiffusionSystem

__all__ = ["AdvancedDiffusionSystem", "DiffusionPipeline"]
