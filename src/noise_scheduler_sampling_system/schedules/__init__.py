"""Noise schedules: the forward path from data to noise."""

from .base import BaseNoiseScheduler
from .betas import (
    CosineNoiseScheduler,
    CustomNoiseScheduler,
    ExponentialNoiseScheduler,
    LinearNoiseScheduler,
    QuadraticNoiseScheduler,
    SigmoidNoiseScheduler,
)
from .continuous import (
    EDMPath,
    FlowPath,
    SubVPPath,
    VDiffusionPath,
    VEPath,
    VPPath,
    resolution_shift,
)
from .path import CLEAN, Level, NoisePath

__all__ = [
    "CLEAN",
    "BaseNoiseScheduler",
    "CosineNoiseScheduler",
    "CustomNoiseScheduler",
    "EDMPath",
    "ExponentialNoiseScheduler",
    "FlowPath",
    "Level",
    "LinearNoiseScheduler",
    "NoisePath",
    "QuadraticNoiseScheduler",
    "SigmoidNoiseScheduler",
    "SubVPPath",
    "VDiffusionPath",
    "VEPath",
    "VPPath",
    "resolution_shift",
]
