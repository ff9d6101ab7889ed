"""Batches of images, and tables of pictures, as PNG files.

matplotlib (the ``plot`` extra) draws them. It is imported where it is used.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import ConfigurationError
from .files import write_atomic

__all__ = ["draw_rows", "figure_class", "mosaic", "save_image"]

Pixels = npt.NDArray[np.float64]
_INK, _GREY = "#1a1a1a", "#666666"


def draw_rows(
    path: str | os.PathLike[str],
    *,
    title: str,
    subtitle: str,
    headings: Sequence[str],
    labels: Sequence[Sequence[str]],
    pictures: Sequence[Sequence[Pixels]],
    notes: Sequence[Sequence[str]],
) -> None:
    """A table of pictures as a PNG: a label before each row, a heading above each column, notes below.

    Args:
        path: the file.
        title, subtitle: at the top; the subtitle may have several lines.
        headings: one for each column.
        labels: one list of lines of text for each row; the last of several lines is grey.
        pictures: (H, W, 3) arrays in [0, 1], by row and column, all of one shape.
        notes: one below each picture.
    """
    new_figure = figure_class()
    height, width = pictures[0][0].shape[:2]
    columns, gap, margin = len(pictures[0]), 0.16, 0.18
    label = max(1.35, 0.085 * max(len(words) for lines in labels for words in lines))
    cell_width = (9.4 - label - 2 * margin) / columns - gap if columns > 1 else 6.0
    cell_height = cell_width * height / width
    row_height, heading = cell_height + 0.36, 0.30 if any(headings) else 0.05
    top = 0.48 + 0.19 * (subtitle.count("\n") + 1) + heading if subtitle else 0.48 + heading
    size = (2 * margin + label + columns * (cell_width + gap), top + len(pictures) * row_height + 0.02)
    figure = new_figure(figsize=size, dpi=180, facecolor="white")

    def text(x: float, y: float, words: str, points: float, **style: Any) -> None:
        figure.text(x / size[0], 1.0 - y / size[1], words, fontsize=points, **{"color": _INK, "va": "top", **style})

    text(margin, 0.14, title, 13, weight="bold")
    text(margin, 0.45, subtitle, 8, color=_GREY, linespacing=1.35)
    left = [margin + label + k * (cell_width + gap) for k in range(columns)]
    for x, words in zip(left, headings, strict=True):
        text(x + cell_width / 2, top - 0.09, words, 9, ha="center", va="bottom", weight="bold")
    for i, row in enumerate(pictures):
        y = top + i * row_height
        for line, words in enumerate(labels[i]):
            last = line and line == len(labels[i]) - 1
            text(margin, y + 0.04 + 0.19 * line, words, 7.5 if last else 9.5, color=_GREY if last else _INK)
        for x, picture, note in zip(left, row, notes[i], strict=True):
            box = (x / size[0], 1 - (y + cell_height) / size[1], cell_width / size[0], cell_height / size[1])
            axes = figure.add_axes(box)
            axes.imshow(picture, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            text(x + cell_width / 2, y + cell_height + 0.05, note, 7.5, ha="center", color=_GREY)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    write_atomic(path, buffer.getvalue())


def save_image(samples: Tensor, path: str | os.PathLike[str], columns: int | None = None) -> None:
    """Save a batch of images as one PNG; small images are enlarged.

    Raises:
        ConfigurationError: not images, or matplotlib is missing.
        FileError: the file cannot be written.
    """
    figure_class()
    from matplotlib.image import imsave

    picture = mosaic(samples, columns or min(samples.shape[0], 10), paper=False)
    factor = max(1, 800 // picture.shape[1])
    buffer = io.BytesIO()
    imsave(buffer, picture.repeat(factor, axis=0).repeat(factor, axis=1), format="png")
    write_atomic(path, buffer.getvalue())


def mosaic(samples: Tensor, columns: int, *, paper: bool = True) -> Pixels:
    """A batch of images side by side, as pixels (H, W, 3) in [0, 1].

    Args:
        samples: (B, C, H, W) or (B, H, W) in [−1, 1], C = 1 or 3.
        columns: images in a row.
        paper: show one channel as dark ink on light paper.

    Raises:
        ConfigurationError: samples of another shape.
    """
    images = samples.detach().to("cpu", torch.float64)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ConfigurationError(
            f"samples of shape {tuple(samples.shape)} are not pictures",
            where="PNG",
            suggestion="give shape (B, 1, H, W) or (B, 3, H, W), or save to a .safetensors file",
        )
    count, channels, height, width = images.shape
    rows, gap = -(-count // columns), max(1, width // 8)
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    brightness = ((images + 1.0) / 2.0).clamp(0.0, 1.0).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    if paper and channels == 1:
        brightness = 0.94 - 0.86 * brightness
    for i in range(count):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = brightness[i]
    return sheet


def figure_class() -> Any:
    """matplotlib's ``Figure``, which needs no display.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigurationError(
            "matplotlib is not installed",
            where="picture",
            suggestion="pip install 'noise-scheduler-sampling-system[plot]'",
        ) from None
    return Figure
