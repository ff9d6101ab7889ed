"""A scheduler of diffusers as settings of this library."""

from .reading import Preconditioning, Reading, read

__all__ = ["Preconditioning", "Reading", "read"]
