"""Engines run the workers of a set: in this process, or on a Ray cluster."""

from .base import Engine, ShardFailed, ShardProgress
from .local import LocalEngine

__all__ = ["Engine", "LocalEngine", "ShardFailed", "ShardProgress"]
