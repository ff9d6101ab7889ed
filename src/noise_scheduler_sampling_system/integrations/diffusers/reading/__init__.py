"""A scheduler of diffusers as settings of this library."""

from ....config.prediction import Preconditioning
from .reading import config_of, read
from .scheduler_reading import Reading

__all__ = ["Preconditioning", "Reading", "config_of", "read"]
