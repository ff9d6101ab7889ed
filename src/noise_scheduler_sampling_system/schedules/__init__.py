"""Noise schedules: the forward path from data to noise."""

from .base import BaseNoiseScheduler
from .betas import (
    CosineNoiseScheduler,
    CustomNoiseScheduler,
    ExpAlphaBarNoiseScheduler,
    ExponentialNoiseScheduler,
    LaplaceNoiseScheduler,
    LinearNoiseScheduler,
    QuadraticNoiseScheduler,
    ScaledLinearNoiseScheduler,
    SigmoidGammaNoiseScheduler,
    SigmoidNoiseScheduler,
)
from .continuous import CosinePath, EDMPath, FlowPath, SubVPPath, VDiffusionPath, VEPath, VPPath, resolution_shift
from .modifiers import ShiftedSNR, ZeroTerminalSNR
from .path import CLEAN, Level, NoisePath

__all__ = [
    "CLEAN",
    "BaseNoiseScheduler",
    "CosineNoiseScheduler",
    "CosinePath",
    "CustomNoiseScheduler",
    "EDMPath",
    "ExpAlphaBarNoiseScheduler",
    "ExponentialNoiseScheduler",
    "FlowPath",
    "LaplaceNoiseScheduler",
    "Level",
    "LinearNoiseScheduler",
    "NoisePath",
    "QuadraticNoiseScheduler",
    "ScaledLinearNoiseScheduler",
    "ShiftedSNR",
    "SigmoidGammaNoiseScheduler",
    "SigmoidNoiseScheduler",
    "SubVPPath",
    "VDiffusionPath",
    "VEPath",
    "VPPath",
    "ZeroTerminalSNR",
    "resolution_shift",
]
