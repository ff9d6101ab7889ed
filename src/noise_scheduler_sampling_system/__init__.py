"""Noise schedules and samplers for diffusion models, compiled to plans.

Config → noise schedule → grid → sampler → plan → run; see ``docs/design.md``.
"""

from . import models, presets, spacings
from .config import BetaSchedule, NoiseSchedulerConfig, SamplingMethod
from .errors import (
    ConfigurationError,
    DeviceError,
    FileError,
    ModelOutputError,
    NoiseSamplingError,
    NumericsError,
    OutOfMemoryError,
)
from .factory import NoiseSchedulerFactory, SamplerFactory
from .grids import TimeGrid, make_grid, start_at
from .pipeline import DiffusionPipeline
from .plan import SamplingPlan
from .results import RunState, SamplingResult, SamplingStep
from .samplers import (
    AncestralSampler,
    BaseSampler,
    DDIMSampler,
    DDPMSampler,
    EulerSampler,
    HeunSampler,
    PNDMSampler,
    SamplerOutput,
)
from .schedules import (
    BaseNoiseScheduler,
    CosineNoiseScheduler,
    CosinePath,
    EDMPath,
    ExpAlphaBarNoiseScheduler,
    ExponentialNoiseScheduler,
    FlowPath,
    LaplaceNoiseScheduler,
    LinearNoiseScheduler,
    NoisePath,
    QuadraticNoiseScheduler,
    ScaledLinearNoiseScheduler,
    ShiftedSNR,
    SigmoidGammaNoiseScheduler,
    SigmoidNoiseScheduler,
    SubVPPath,
    VDiffusionPath,
    VEPath,
    VPPath,
    ZeroTerminalSNR,
    resolution_shift,
)
from .system import AdvancedDiffusionSystem

__version__ = "1.2.0"

__all__ = [
    "AdvancedDiffusionSystem",
    "AncestralSampler",
    "BaseNoiseScheduler",
    "BaseSampler",
    "BetaSchedule",
    "ConfigurationError",
    "CosineNoiseScheduler",
    "CosinePath",
    "DDIMSampler",
    "DDPMSampler",
    "DeviceError",
    "DiffusionPipeline",
    "EDMPath",
    "EulerSampler",
    "ExpAlphaBarNoiseScheduler",
    "ExponentialNoiseScheduler",
    "FileError",
    "FlowPath",
    "HeunSampler",
    "LaplaceNoiseScheduler",
    "LinearNoiseScheduler",
    "ModelOutputError",
    "NoisePath",
    "NoiseSamplingError",
    "NoiseSchedulerConfig",
    "NoiseSchedulerFactory",
    "NumericsError",
    "OutOfMemoryError",
    "PNDMSampler",
    "QuadraticNoiseScheduler",
    "RunState",
    "SamplerFactory",
    "SamplerOutput",
    "SamplingMethod",
    "SamplingPlan",
    "SamplingResult",
    "SamplingStep",
    "ScaledLinearNoiseScheduler",
    "ShiftedSNR",
    "SigmoidGammaNoiseScheduler",
    "SigmoidNoiseScheduler",
    "SubVPPath",
    "TimeGrid",
    "VDiffusionPath",
    "VEPath",
    "VPPath",
    "ZeroTerminalSNR",
    "make_grid",
    "models",
    "presets",
    "resolution_shift",
    "spacings",
    "start_at",
]
