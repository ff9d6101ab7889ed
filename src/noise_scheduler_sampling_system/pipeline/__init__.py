"""From a request to samples: pipeline → request → prepare → job → execute → complete, or stream."""

from .pipeline import DiffusionPipeline
from .system import AdvancedDiffusionSystem

__all__ = ["AdvancedDiffusionSystem", "DiffusionPipeline"]
