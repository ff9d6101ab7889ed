"""Embedded models: exact denoisers in closed form, and a small trained network with a classifier that judges it."""

from .digits import DigitsModel, load_digits
from .edm import EDMPreconditioned
from .exact import ExactModel
from .gaussian import GaussianModel
from .mixture import GaussianMixtureModel, KernelDensityModel
from .mnist import DigitClassifier, FeatureStatistics, frechet_distance, load_mnist, mnist_classifier, mnist_unet

__all__ = [
    "DigitClassifier",
    "DigitsModel",
    "EDMPreconditioned",
    "ExactModel",
    "FeatureStatistics",
    "GaussianMixtureModel",
    "GaussianModel",
    "KernelDensityModel",
    "frechet_distance",
    "load_digits",
    "load_mnist",
    "mnist_classifier",
    "mnist_unet",
]
