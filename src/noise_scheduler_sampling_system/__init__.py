"""Noise schedules and samplers for diffusion models, compiled to plans.

Config → noise schedule → grid → sampler → plan → run; see ``docs/design.md``.
"""

from . import models, spacings
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
from .grids import TimeGrid
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
    EDMPath,
    ExponentialNoiseScheduler,
    FlowPath,
    LinearNoiseScheduler,
    NoisePath,
    QuadraticNoiseScheduler,
    SigmoidNoiseScheduler,
    SubVPPath,
    VDiffusionPath,
    VEPath,
    VPPath,
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
    "DDIMSampler",
    "DDPMSampler",
    "DeviceError",
    "DiffusionPipeline",
    "EDMPath",
    "EulerSampler",
    "ExponentialNoiseScheduler",
    "FileError",
    "FlowPath",
    "HeunSampler",
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
    "SigmoidNoiseScheduler",
    "SubVPPath",
    "TimeGrid",
    "VDiffusionPath",
    "VEPath",
    "VPPath",
    "models",
    "resolution_shift",
    "spacings",
]
