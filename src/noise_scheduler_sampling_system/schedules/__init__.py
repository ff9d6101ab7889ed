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
from .path import CLEAN, Level, NoisePath

__all__ = [
    "CLEAN",
    "BaseNoiseScheduler",
    "CosineNoiseScheduler",
    "CustomNoiseScheduler",
    "ExponentialNoiseScheduler",
    "Level",
    "LinearNoiseScheduler",
    "NoisePath",
    "QuadraticNoiseScheduler",
    "SigmoidNoiseScheduler",
]
