"""Guidance: what is made of a model's predictions before the sampler sees them.

Objects, composed left to right, that act on the prediction at each level; ``docs/guidance.md``.
"""

from .base import Guidance
from .conditions import Unbatched
from .directions import AdaptiveProjected, AutoGuidance, CFGZeroStar, ClassifierFree, Composed
from .energy import Energy
from .formula import Formula
from .known_region import KnownRegion
from .modifiers import DynamicThreshold, Interval, Rescale
from .scales import Moment
from .sequence import evaluations

__all__ = [
    "AdaptiveProjected",
    "AutoGuidance",
    "CFGZeroStar",
    "ClassifierFree",
    "Composed",
    "DynamicThreshold",
    "Energy",
    "Formula",
    "Guidance",
    "Interval",
    "KnownRegion",
    "Moment",
    "Rescale",
    "Unbatched",
    "evaluations",
]
