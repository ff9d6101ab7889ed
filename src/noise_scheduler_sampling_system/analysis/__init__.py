"""What runs say of models and samplers: likelihood, inversion, step probabilities, and the choice of a sampler."""

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
