"""Noise schedules and samplers for diffusion models, compiled to plans.

``__all__`` lists the names of every day. The other public names are in subpackages, for example
``noise_scheduler_sampling_system.analysis.log_likelihood``:

- ``config``: settings, choices, options and registries;
- ``schedules``: paths, their modifiers, and the presets of published models;
- ``grids``: the noise levels that a run visits, and the spacings that choose them;
- ``plans``: the tables of samplers, the builder that writes them, and the tracing of other schedulers;
- ``models``: exact models and a small trained network;
- ``running``: what a run returns, and its noise;
- ``samplers``: the sampling methods;
- ``guidance``: what combines predictions before the sampler sees them;
- ``training``: the levels, targets and weights of a training loss;
- ``pipeline``: the pipeline, and a system of several;
- ``analysis``: likelihood, inversion, step probabilities, and the choice of a sampler;
- ``calibration``: few-step plans fitted to data or to a model;
- ``integrations``: other libraries;
- ``serving``: many requests in one batch;
- ``plots``: figures of schedules, grids, plans and runs;
- ``playground``: a page to try samplers in the browser;
- ``bulk``: large sets of samples on disk;
- ``comparison``: samplers side by side at equal model calls;
- ``testing``: checks of samplers, noise schedules and guidance of your own;
- ``app``: the command line and the demo;
- ``support``: the errors, and the list of plug-ins.

``docs/design.md`` shows how the packages work together.
"""

from . import (
    app as app,
    bulk as bulk,
    comparison as comparison,
    guidance,
    integrations as integrations,  # provides the methods named from_diffusers
    models,
    playground as playground,
    plots as plots,
    serving as serving,
    testing as testing,
    training as training,
)
from .analysis import recommend
from .calibration import calibrate
from .config import BetaSchedule, NoiseSchedulerConfig, SamplingMethod
from .grids import TimeGrid
from .pipeline import AdvancedDiffusionSystem, DiffusionPipeline
from .plans import SamplingPlan
from .running import SamplingResult
from .samplers import (
    AncestralSampler,
    BaseSampler,
    DDIMSampler,
    DDPMSampler,
    EulerSampler,
    HeunSampler,
    PNDMSampler,
    SamplerFactory,
)
from .schedules import (
    BaseNoiseScheduler,
    CosineNoiseScheduler,
    ExponentialNoiseScheduler,
    LinearNoiseScheduler,
    NoiseSchedulerFactory,
    QuadraticNoiseScheduler,
    SigmoidNoiseScheduler,
)
from .support import ConfigurationError, NoiseSamplingError
from .support.moved_modules import find_moved_modules
from .support.version import __version__ as __version__

# Names that version 1.3 has here. Their home is the subpackage; here they stay for one version. "X as X" exports X.
from .analysis import (
    Likelihood as Likelihood,
    Recommendation as Recommendation,
    ReversibleRun as ReversibleRun,
    StepDistribution as StepDistribution,
    log_likelihood as log_likelihood,
    step_distribution as step_distribution,
    trajectory_log_probs as trajectory_log_probs,
)
from .calibration import Spectrum as Spectrum, design_plan as design_plan
from .config import Option as Option
from .grids import make_grid as make_grid, spacings as spacings, start_at as start_at
from .guidance import Unbatched as Unbatched
from .plans import Form as Form, PlanBuilder as PlanBuilder, PlanSet as PlanSet, Prediction as Prediction
from .running import BrownianNoise as BrownianNoise, RunState as RunState, SamplingStep as SamplingStep
from .samplers import (
    AdaptiveSampler as AdaptiveSampler,
    ModelStatistics as ModelStatistics,
    MultistepSampler as MultistepSampler,
    SamplerOutput as SamplerOutput,
    SingleStepSampler as SingleStepSampler,
    along as along,
    from_noise as from_noise,
)
from .schedules import (
    CosinePath as CosinePath,
    EDMPath as EDMPath,
    ExpAlphaBarNoiseScheduler as ExpAlphaBarNoiseScheduler,
    FlowPath as FlowPath,
    LaplaceNoiseScheduler as LaplaceNoiseScheduler,
    Level as Level,
    NoisePath as NoisePath,
    ScaledLinearNoiseScheduler as ScaledLinearNoiseScheduler,
    ShiftedSNR as ShiftedSNR,
    SigmoidGammaNoiseScheduler as SigmoidGammaNoiseScheduler,
    SubVPPath as SubVPPath,
    VDiffusionPath as VDiffusionPath,
    VEPath as VEPath,
    VPPath as VPPath,
    ZeroTerminalSNR as ZeroTerminalSNR,
    presets as presets,
    resolution_shift as resolution_shift,
)
from .support import (
    DeviceError as DeviceError,
    FileError as FileError,
    ModelOutputError as ModelOutputError,
    NumericsError as NumericsError,
    OutOfMemoryError as OutOfMemoryError,
)
from .testing import SamplerReport as SamplerReport, check_sampler as check_sampler

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
    "DiffusionPipeline",
    "EulerSampler",
    "ExponentialNoiseScheduler",
    "HeunSampler",
    "LinearNoiseScheduler",
    "NoiseSamplingError",
    "NoiseSchedulerConfig",
    "NoiseSchedulerFactory",
    "PNDMSampler",
    "QuadraticNoiseScheduler",
    "SamplerFactory",
    "SamplingMethod",
    "SamplingPlan",
    "SamplingResult",
    "SigmoidNoiseScheduler",
    "TimeGrid",
    "calibrate",
    "guidance",
    "models",
    "recommend",
]

find_moved_modules()
