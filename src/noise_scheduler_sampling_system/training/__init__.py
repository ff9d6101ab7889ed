"""The training half of a noise schedule: the levels, targets and weights of a denoising loss.

Examples:
    >>> from noise_scheduler_sampling_system.schedules import FlowPath
    >>> from noise_scheduler_sampling_system.training import TrainingObjective
    >>> objective = TrainingObjective(FlowPath(), density={"name": "logit_normal", "mean": 0.0}, weighting=None)
    >>> t = objective.draw(64, seed=0, step=12)  # times; then objective.loss(network, images, seed=0, step=12)
"""

from .average import WeightAverage
from .coupling import coupled_noise
from .densities import CosMap, LogLogistic, LogNormal, LogUniform, Mode, Uniform
from .density import Density, DensityOnPath
from .importance import Importance
from .noise_axis import NoiseAxis
from .noises import OffsetNoise, PyramidNoise, TrainingNoise, WhiteNoise
from .objective import TrainingObjective
from .state_file import load_state, save_state
from .terminal import TerminalSNR, check_terminal_snr
from .training_batch import TrainingBatch
from .weightings import (
    P2,
    SNR,
    Constant,
    Debiased,
    EDMWeight,
    FlowWeight,
    MinSNR,
    SigmaSqrt,
    Sigmoid,
    SoftMinSNR,
    TruncatedSNR,
    VelocityWeight,
    Weighting,
)

__all__ = [
    "P2",
    "SNR",
    "Constant",
    "CosMap",
    "Debiased",
    "Density",
    "DensityOnPath",
    "EDMWeight",
    "FlowWeight",
    "Importance",
    "LogLogistic",
    "LogNormal",
    "LogUniform",
    "MinSNR",
    "Mode",
    "NoiseAxis",
    "OffsetNoise",
    "PyramidNoise",
    "SigmaSqrt",
    "Sigmoid",
    "SoftMinSNR",
    "TerminalSNR",
    "TrainingBatch",
    "TrainingNoise",
    "TrainingObjective",
    "TruncatedSNR",
    "Uniform",
    "VelocityWeight",
    "WeightAverage",
    "Weighting",
    "WhiteNoise",
    "check_terminal_snr",
    "coupled_noise",
    "load_state",
    "save_state",
]
