"""Pictures of a run: the clean samples that it predicts, step by step."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from ..running.results import SamplingStep
from ..support.errors import ConfigurationError, FileError, shown
from ..support.figures import figure_class, mosaic
from ..support.files import checked_path, write_atomic
from .style import new_axes

__all__ = ["animate", "film_strip"]

#: Milliseconds of a picture of an animation, and of its last.
_SHORT, _LONG = 120, 1500


def film_strip(
    steps: Iterable[SamplingStep], samples: int = 4, pictures: int = 8, *, paper: bool | None = None
) -> Any:  # fmt: skip
    """The predicted clean samples of a run: one row for each sample, one column for each step shown.

    Args:
        steps: of ``pipeline.stream(...)``; images (B, 1, H, W) or (B, 3, H, W) in [−1, 1].
        samples: rows, at most B.
        pictures: columns; the steps are spread evenly, with the first and the last.
        paper: show one channel as dark ink on light paper, as digits are drawn everywhere; False: as it is; None: as
            the model says (``white_on_black``).

    Raises:
        ConfigurationError: matplotlib is not installed, no steps, or samples that are not images.
    """
    taken = _taken(steps)
    inked = taken[0][0].white_on_black if paper is None else paper
    chosen = np.unique(np.linspace(0, len(taken) - 1, pictures).round().astype(int))
    shown_samples = min(samples, len(taken[0][1]))
    figure, axes = new_axes(1.1 * len(chosen), 1.1 * shown_samples + 0.7, len(chosen))
    for each, i in zip(axes, chosen, strict=True):
        step, clean = taken[i]
        each.imshow(mosaic(clean[:shown_samples], 1, paper=inked), interpolation="nearest")
        each.set_axis_off()
        each.set_title(f"{step.nfe} calls\nσ = {step.sigma:.2g}", fontsize=8)
    return figure


def animate(
    steps: Iterable[SamplingStep], path: str | os.PathLike[str], columns: int = 5, *, paper: bool | None = None
) -> None:
    """Write the predicted clean samples of a run, step by step, as an animated GIF, whole or not at all.

    Args:
        steps: of ``pipeline.stream(...)``; images (B, 1, H, W) or (B, 3, H, W) in [−1, 1].
        path: a .gif file.
        columns: images in a row.
        paper: as for :func:`film_strip`.

    Raises:
        ConfigurationError: matplotlib (with Pillow) is not installed, no steps, or samples that are not images.
        FileError: another ending, or a file that cannot be written.
    """
    if checked_path(path).suffix.lower() != ".gif":
        raise FileError("is not a .gif file", where=str(path), suggestion="use the ending .gif")
    figure_class()
    from PIL import Image

    frames = []
    for step, clean in _taken(steps):
        inked = step.white_on_black if paper is None else paper
        picture = mosaic(clean, min(columns, len(clean)), paper=inked)
        factor = max(1, 320 // picture.shape[1])
        pixels = (255.0 * picture.repeat(factor, axis=0).repeat(factor, axis=1)).round().astype(np.uint8)
        frames.append(Image.fromarray(pixels))
    buffer = io.BytesIO()
    durations = [_SHORT] * (len(frames) - 1) + [_LONG]
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    write_atomic(path, buffer.getvalue())


def _taken(steps: Iterable[SamplingStep]) -> list[tuple[SamplingStep, Tensor]]:
    """Each step with its predicted clean samples; taken while the run is at the step."""
    taken = []
    for step in steps:
        if not isinstance(step, SamplingStep):
            raise ConfigurationError(f"got {shown(step)}", where="steps", suggestion="give pipeline.stream(...)")
        taken.append((step, step.pred_original_sample.detach().cpu()))
    if not taken:
        raise ConfigurationError("there are no steps", where="steps", suggestion="give pipeline.stream(...)")
    return taken
