"""What runs say of models and samplers: likelihood, inversion, step probabilities, and the choice of a sampler."""

from .inversion import ReversibleRun
from .likelihood import Likelihood, log_likelihood
from .recommend import Recommendation, recommend
from .rollouts import Rollout, rollout
from .step_probabilities import StepDistribution, step_distribution, trajectory_log_probs

__all__ = [
    "Likelihood",
    "Recommendation",
    "ReversibleRun",
    "Rollout",
    "StepDistribution",
    "log_likelihood",
    "recommend",
    "rollout",
    "step_distribution",
    "trajectory_log_probs",
]
