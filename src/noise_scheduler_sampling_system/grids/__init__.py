"""The noise levels that a run visits: grids, the spacings that make them, and the starts of image-to-image runs."""

from . import model_spacings, spacings
from .frame_grid import FrameGrid
from .image_start import start_at
from .time_grid import TimeGrid, make_grid

__all__ = ["FrameGrid", "TimeGrid", "make_grid", "model_spacings", "spacings", "start_at"]
