"""Other libraries, each imported only where it is used: diffusers, whose schedulers and pipelines work with ours."""

from . import diffusers  # provides the methods named from_diffusers

__all__ = ["diffusers"]
