"""Noise schedules: paths from data to noise, as functions α(t) and σ(t) or as T betas.

With the factory that makes them from a config, modifiers that change their signal-to-noise ratio, and the presets of
published models.
"""

from . import flow_presets, presets
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
from .continuous import (
    CosinePath,
    EDMPath,
    FlowPath,
    SubVPPath,
    TrigFlowPath,
    VDiffusionPath,
    VEPath,
    VPPath,
    flux2_shift,
    resolution_shift,
)
from .factory import NoiseSchedulerFactory
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
    "NoiseSchedulerFactory",
    "QuadraticNoiseScheduler",
    "ScaledLinearNoiseScheduler",
    "ShiftedSNR",
    "SigmoidGammaNoiseScheduler",
    "SigmoidNoiseScheduler",
    "SubVPPath",
    "TrigFlowPath",
    "VDiffusionPath",
    "VEPath",
    "VPPath",
    "ZeroTerminalSNR",
    "flow_presets",
    "flux2_shift",
    "presets",
    "resolution_shift",
]
