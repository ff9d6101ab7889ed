"""Other libraries, each imported only where it is used."""

from . import diffusers  # noqa: F401  # provides the methods named from_diffusers
