"""Figures of grids and plans whose frames have noise levels of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..grids.frame_grid import FrameGrid
from ..plans.frame_plan import FramePlan
from ..support.errors import ConfigurationError, shown
from .style import new_axes

__all__ = ["plot_frames"]


def plot_frames(frames: FrameGrid | FramePlan) -> Any:
    """The log SNR of each frame, row by row: rows run down, frames across. A dot marks a frame that moves in a row.

    Args:
        frames: the levels of N + 1 rows and T frames, or the plan on them.

    Raises:
        ConfigurationError: matplotlib is not installed, or neither a ``FrameGrid`` nor a ``FramePlan``.
    """
    if isinstance(frames, FrameGrid):
        alpha, sigma = (
            np.array([[getattr(level, name) for level in row] for row in frames.levels]) for name in ("alpha", "sigma")
        )
        moves, unit = np.array(frames.moving), "step"
    elif isinstance(frames, FramePlan):
        alpha, sigma, moves, unit = frames.alpha, frames.sigma, frames.row_of >= 0, "row of the plan"
    else:
        raise ConfigurationError(f"got {shown(frames)}", where="frames", suggestion="give a FrameGrid or a FramePlan")
    with np.errstate(divide="ignore"):
        log_snr = 2.0 * (np.log(alpha) - np.log(sigma))
    finite = log_snr[np.isfinite(log_snr)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (-1.0, 1.0)
    rows, count = log_snr.shape
    figure, (axes,) = new_axes(min(12.0, 2.5 + 0.45 * count), min(12.0, 1.2 + 0.28 * rows))
    drawn = axes.imshow(np.clip(log_snr, low, high), cmap="viridis", vmin=low, vmax=high, aspect="auto")
    y, x = np.nonzero(moves)
    axes.plot(x, y, "o", color="white", markersize=4, markeredgecolor="black", markeredgewidth=0.8)
    axes.grid(False)
    axes.set(xlabel="frame", ylabel=unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(drawn, label="log SNR")
    return figure
