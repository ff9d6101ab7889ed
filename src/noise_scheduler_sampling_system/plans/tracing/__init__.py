"""Any linear scheduler as a plan: its own loop is run once on symbols."""

from .trace import trace

__all__ = ["trace"]
