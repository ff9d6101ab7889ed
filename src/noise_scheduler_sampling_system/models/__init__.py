"""Embedded models: exact denoisers in closed form, and a small trained network with a classifier that judges it.

Examples:
    >>> from noise_scheduler_sampling_system import DiffusionPipeline, models
    >>> pipeline = DiffusionPipeline()
    >>> model = models.DigitsModel(pipeline.scheduler)  # a network is used in its place
    >>> tuple(pipeline.sample(model, shape=(2, 1, 8, 8), num_inference_steps=5, seed=0).shape)
    (2, 1, 8, 8)
"""

from .digits import DigitsModel, load_digits
from .edm import EDMPreconditioned
from .exact import ExactModel
from .experts import Experts, ScaleOfExperts
from .gaussian import GaussianModel
from .mixture import GaussianMixtureModel, KernelDensityModel
from .mnist import DigitClassifier, FeatureStatistics, frechet_distance, load_mnist, mnist_classifier, mnist_unet
from .towards_data import TowardsData

__all__ = [
    "DigitClassifier",
    "DigitsModel",
    "EDMPreconditioned",
    "ExactModel",
    "Experts",
    "FeatureStatistics",
    "GaussianMixtureModel",
    "GaussianModel",
    "KernelDensityModel",
    "ScaleOfExperts",
    "TowardsData",
    "frechet_distance",
    "load_digits",
    "load_mnist",
    "mnist_classifier",
    "mnist_unet",
]
