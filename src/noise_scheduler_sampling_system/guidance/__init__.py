"""Guidance: changes of a model's predictions before the sampler reads them.

A sequence of objects acts from left to right on the prediction at each level; see docs/guidance.md. A new guidance that
adds a direction goes into directions.py or differences.py, one that changes the guidance before it into modifiers.py.

base.py, formula.py, scales.py    what a guidance is, the formula that it writes, and its scales
directions.py, differences.py, energy.py, known_region.py, modifiers.py, cached.py    the guidance of the library
parts.py    what they share
sequence.py, compile.py, rows.py    the guidance of a run, checked and compiled for the rows of a plan
evaluate.py, conditions.py    the branches, their conditions, and their evaluation

Examples:
    >>> from noise_scheduler_sampling_system import DiffusionPipeline
    >>> from noise_scheduler_sampling_system.guidance import ClassifierFree, Interval
    >>> request = {"shape": (2, 1, 8, 8), "num_inference_steps": 5, "condition": {"class_labels": [3, 8]}, "seed": 0}
    >>> samples = DiffusionPipeline().sample(guidance=[ClassifierFree(2.0), Interval(0.2, 5.0)], **request)
    >>> tuple(samples.shape)
    (2, 1, 8, 8)
"""

from .base import Guidance
from .cached import CachedGuidance
from .conditions import Unbatched
from .differences import FrequencyDecoupled, MagnitudeAware, PerpNeg, Tangential
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
    "CachedGuidance",
    "ClassifierFree",
    "Composed",
    "DynamicThreshold",
    "Energy",
    "Formula",
    "FrequencyDecoupled",
    "Guidance",
    "Interval",
    "KnownRegion",
    "MagnitudeAware",
    "Moment",
    "PerpNeg",
    "Rescale",
    "Tangential",
    "Unbatched",
    "evaluations",
]
