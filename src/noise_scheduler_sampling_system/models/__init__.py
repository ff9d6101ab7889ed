"""Exact models: denoisers in closed form, for tests, comparisons, examples and as the default model."""

from .digits import DigitsModel, load_digits
from .edm import EDMPreconditioned
from .exact import ExactModel
from .gaussian import GaussianModel
from .mixture import GaussianMixtureModel, KernelDensityModel

__all__ = [
    "DigitsModel",
    "EDMPreconditioned",
    "ExactModel",
    "GaussianMixtureModel",
    "GaussianModel",
    "KernelDensityModel",
    "load_digits",
]
