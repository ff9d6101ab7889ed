"""Noise schedules and samplers for diffusion models, compiled to plans.

Config → noise schedule → grid → sampler → plan → run; see ``docs/design.md``.
"""

from . import (
    guidance,
    integrations,  # noqa: F401  # provides the methods named from_diffusers
    models,
)
from .analysis.check_sampler import SamplerReport, check_sampler
from .analysis.inversion import ReversibleRun
from .analysis.likelihood import Likelihood, log_likelihood
from .analysis.recommend import Recommendation, recommend
from .analysis.step_probabilities import StepDistribution, step_distribution, trajectory_log_probs
from .calibration import Spectrum, calibrate, design_plan
from .config.choices import BetaSchedule, SamplingMethod
from .config.options import Option
from .config.settings import NoiseSchedulerConfig
from .grids import spacings
from .grids.time_grid import TimeGrid, make_grid, start_at
from .guidance import Unbatched
from .pipeline.pipeline import DiffusionPipeline
from .pipeline.system import AdvancedDiffusionSystem
from .plans.builder import Form, PlanBuilder, Prediction
from .plans.plan import SamplingPlan
from .plans.plan_set import PlanSet
from .running.brownian import BrownianNoise
from .running.results import RunState, SamplingResult, SamplingStep
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
from .samplers.factory import SamplerFactory
from .samplers.model_statistics import ModelStatistics
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
    presets,
    resolution_shift,
)
from .schedules.factory import NoiseSchedulerFactory
from .support.errors import (
    ConfigurationError,
    DeviceError,
    FileError,
    ModelOutputError,
    NoiseSamplingError,
    NumericsError,
    OutOfMemoryError,
)
from .support.moved_modules import find_moved_modules
from .support.version import __version__  # noqa: F401

find_moved_modules()


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
