"""Noise schedules and samplers for diffusion models, compiled to plans.

Config → noise schedule → grid → sampler → plan → run; see ``docs/design.md``.
"""

from . import (
    guidance,
    integrations,  # noqa: F401  # provides the methods named from_diffusers
    models,
    presets,
    spacings,
)
from .brownian import BrownianNoise
from .builder import Form, PlanBuilder, Prediction
from .calibration import Spectrum, calibrate, design_plan
from .check_sampler import SamplerReport, check_sampler
from .choices import BetaSchedule, SamplingMethod
from .config import NoiseSchedulerConfig
from .distribution import StepDistribution, step_distribution, trajectory_log_probs
from .ems import ModelStatistics
from .errors import (
    ConfigurationError,
    DeviceError,
    FileError,
    ModelOutputError,
    NoiseSamplingError,
    NumericsError,
    OutOfMemoryError,
)
from .factory import SamplerFactory
from .grids import TimeGrid, make_grid, start_at
from .guidance import Unbatched
from .inversion import ReversibleRun
from .likelihood import Likelihood, log_likelihood
from .options import Option
from .pipeline import DiffusionPipeline
from .plan import SamplingPlan
from .plans import PlanSet
from .recommend import Recommendation, recommend
from .results import RunState, SamplingResult, SamplingStep
from .samplers import (
    AdaptiveSampler,
    AncestralSampler,
    BaseSampler,
    DDIMSampler,
    DDPMSampler,
    EulerSampler,
    HeunSampler,
    MultistepSampler,
    PNDMSampler,
    SamplerOutput,
    SingleStepSampler,
    along,
    from_noise,
)
from .schedule_factory import NoiseSchedulerFactory
from .schedules import (
    BaseNoiseScheduler,
    CosineNoiseScheduler,
    CosinePath,
    EDMPath,
    ExpAlphaBarNoiseScheduler,
    ExponentialNoiseScheduler,
    FlowPath,
    LaplaceNoiseScheduler,
    Level,
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

__version__ = "1.3.0"

__all__ = [
    "AdaptiveSampler",
    "AdvancedDiffusionSystem",
    "AncestralSampler",
    "BaseNoiseScheduler",
    "BaseSampler",
    "BetaSchedule",
    "BrownianNoise",
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
    "Form",
    "HeunSampler",
    "LaplaceNoiseScheduler",
    "Level",
    "Likelihood",
    "LinearNoiseScheduler",
    "ModelOutputError",
    "ModelStatistics",
    "MultistepSampler",
    "NoisePath",
    "NoiseSamplingError",
    "NoiseSchedulerConfig",
    "NoiseSchedulerFactory",
    "NumericsError",
    "Option",
    "OutOfMemoryError",
    "PNDMSampler",
    "PlanBuilder",
    "PlanSet",
    "Prediction",
    "QuadraticNoiseScheduler",
    "Recommendation",
    "ReversibleRun",
    "RunState",
    "SamplerFactory",
    "SamplerOutput",
    "SamplerReport",
    "SamplingMethod",
    "SamplingPlan",
    "SamplingResult",
    "SamplingStep",
    "ScaledLinearNoiseScheduler",
    "ShiftedSNR",
    "SigmoidGammaNoiseScheduler",
    "SigmoidNoiseScheduler",
    "SingleStepSampler",
    "Spectrum",
    "StepDistribution",
    "SubVPPath",
    "TimeGrid",
    "Unbatched",
    "VDiffusionPath",
    "VEPath",
    "VPPath",
    "ZeroTerminalSNR",
    "along",
    "calibrate",
    "check_sampler",
    "design_plan",
    "from_noise",
    "guidance",
    "log_likelihood",
    "make_grid",
    "models",
    "presets",
    "recommend",
    "resolution_shift",
    "spacings",
    "start_at",
    "step_distribution",
    "trajectory_log_probs",
]
