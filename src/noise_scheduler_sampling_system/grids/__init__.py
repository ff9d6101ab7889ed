"""The noise levels that a run visits: grids, the spacings that make them, and the starts of image-to-image runs."""

from . import spacings
from .time_grid import TimeGrid, make_grid, start_at

__all__ = ["TimeGrid", "make_grid", "spacings", "start_at"]
