"""Tracing: any linear scheduler as a plan, by one run of its own loop on symbols."""

from .trace import trace

__all__ = ["trace"]
