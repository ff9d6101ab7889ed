"""What runs say of models and samplers: likelihood, inversion, step probabilities, and the choice of a sampler."""

from .check_sampler import SamplerReport as SamplerReport, check_sampler as check_sampler  # listed by `testing`
from .inversion import ReversibleRun
from .likelihood import Likelihood, log_likelihood
from .recommend import Recommendation, recommend
from .step_probabilities import StepDistribution, step_distribution, trajectory_log_probs

__all__ = [
    "Likelihood",
    "Recommendation",
    "ReversibleRun",
    "StepDistribution",
    "log_likelihood",
    "recommend",
    "step_distribution",
    "trajectory_log_probs",
]
