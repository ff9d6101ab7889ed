"""Batches of images, and tables of pictures, as PNG files.

matplotlib (the ``plot`` extra) draws them. It is imported where it is used.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import ConfigurationError
from .files import write_atomic

__all__ = [
    "Pixels", "difference_mosaic", "draw_rows", "enlarged", "explain_queries", "figure_class", "mark_queries", "mosaic",
    "png_of", "save_image",
]  # fmt: skip

#: A picture, (H, W, 3) in [0, 1].
Pixels = npt.NDArray[np.float64]
_INK, _GREY = "#1a1a1a", "#666666"
#: The brightness of paper, and how much darker ink is.
_LIGHT, _CONTRAST = 0.94, 0.86
#: The colours of the largest differences.
_RED, _BLUE = (0.75, 0.12, 0.10), (0.10, 0.30, 0.70)


def draw_rows(
    path: str | os.PathLike[str],
    *,
    title: str,
    subtitle: str,
    headings: Sequence[str],
    labels: Sequence[Sequence[str]],
    pictures: Sequence[Sequence[Pixels]],
    notes: Sequence[Sequence[str]],
    sections: Mapping[int, str] | None = None,
) -> None:
    """A table of pictures as a PNG: a label before each row, a heading above each column, notes below.

    Args:
        path: the file.
        title, subtitle: at the top; the subtitle may have several lines.
        headings: one for each column.
        labels: one list of lines of text for each row; the last of several lines is grey.
        pictures: (H, W, 3) arrays in [0, 1], by row and column, all of one shape.
        notes: one below each picture.
        sections: a line of text above the row of this index.
    """
    sections = sections or {}
    new_figure = figure_class()
    height, width = pictures[0][0].shape[:2]
    columns, gap, margin = len(pictures[0]), 0.16, 0.18
    label = max(1.35, 0.085 * max(len(words) for lines in labels for words in lines))
    cell_width = (9.4 - label - 2 * margin) / columns - gap if columns > 1 else 6.0
    cell_height = cell_width * height / width
    row_height, heading = cell_height + 0.36, 0.30 if any(headings) else 0.05
    top = 0.48 + 0.19 * (subtitle.count("\n") + 1) + heading if subtitle else 0.48 + heading
    between = 0.34
    rows = len(pictures) * row_height + len(sections) * between
    size = (2 * margin + label + columns * (cell_width + gap), top + rows + 0.02)
    figure = new_figure(figsize=size, dpi=180, facecolor="white")

    def text(x: float, y: float, words: str, points: float, **style: Any) -> None:
        figure.text(x / size[0], 1.0 - y / size[1], words, fontsize=points, **{"color": _INK, "va": "top", **style})

    text(margin, 0.14, title, 13, weight="bold")
    text(margin, 0.45, subtitle, 8, color=_GREY, linespacing=1.35)
    left = [margin + label + k * (cell_width + gap) for k in range(columns)]
    for x, words in zip(left, headings, strict=True):
        text(x + cell_width / 2, top - 0.09, words, 9, ha="center", va="bottom", weight="bold")
    y = top - row_height
    for i, row in enumerate(pictures):
        y += row_height
        if i in sections:
            text(margin, y + 0.08, sections[i], 9.5, weight="bold")
            y += between
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


def save_image(
    samples: Tensor, path: str | os.PathLike[str], columns: int | None = None, *, paper: bool = False
) -> None:
    """Save a batch of images as one PNG; small images are enlarged.

    Args:
        samples: as for :func:`mosaic`.
        path: the file.
        columns: images in a row; default: at most 10.
        paper: show one channel as dark ink on light paper, as the embedded digits are drawn everywhere.

    Raises:
        ConfigurationError: not images, or matplotlib is missing.
        FileError: the file cannot be written.
    """
    picture = mosaic(samples, columns or min(samples.shape[0] if samples.ndim else 1, 10), paper=paper)
    write_atomic(path, png_of(enlarged(picture, 800)))


def enlarged(picture: Pixels, width: int) -> Pixels:
    """A picture with each pixel repeated, so often that it is at most ``width`` pixels wide."""
    factor = max(1, width // picture.shape[1])
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def png_of(picture: Pixels) -> bytes:
    """A picture (H, W, 3) in [0, 1] as the content of a PNG file.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    figure_class()
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture, format="png")
    return buffer.getvalue()


def mosaic(samples: Tensor, columns: int, *, paper: bool = True) -> Pixels:
    """A batch of images side by side, as pixels (H, W, 3) in [0, 1].

    Args:
        samples: (B, C, H, W) or (B, H, W) in [−1, 1], C = 1 or 3.
        columns: images in a row.
        paper: show one channel as dark ink on light paper.

    Raises:
        ConfigurationError: samples of another shape.
    """
    images = _images(samples)
    brightness = ((images + 1.0) / 2.0).clamp(0.0, 1.0).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    if paper and images.shape[1] == 1:
        brightness = _LIGHT - _CONTRAST * brightness
    return _side_by_side(brightness, columns)


def difference_mosaic(differences: Tensor, columns: int, largest: float = 1.0) -> Pixels:
    """Signed differences of images side by side, as pixels (H, W, 3): white is 0, red is above, blue is below.

    Args:
        differences: (B, C, H, W) or (B, H, W), C = 1 or 3; the channels are averaged.
        columns: images in a row.
        largest: the difference that has the full colour.

    Raises:
        ConfigurationError: differences of another shape.
    """
    shade = (_images(differences).mean(1) / largest).clamp(-1.0, 1.0)[..., None].numpy()
    above, below = np.array(_RED), np.array(_BLUE)
    return _side_by_side(1.0 - np.abs(shade) * np.where(shade > 0.0, 1.0 - above, 1.0 - below), columns)


def _images(samples: Tensor) -> Tensor:
    """Samples as images (B, C, H, W) on the CPU, in float64.

    Raises:
        ConfigurationError: samples of another shape.
    """
    images = samples.detach().to("cpu", torch.float64)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ConfigurationError(
            f"samples of shape {tuple(samples.shape)} are not pictures",
            where="PNG",
            suggestion="give shape (B, 1, H, W) or (B, 3, H, W), or save to a .safetensors file",
        )
    return images


def _side_by_side(images: Pixels, columns: int) -> Pixels:
    """Images (B, H, W, 3) on a white sheet."""
    count, height, width, _ = images.shape
    rows, gap = -(-count // columns), max(1, width // 8)
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for i in range(count):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = images[i]
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


def mark_queries(axes: Any, places: Sequence[float], height: float, both: Sequence[bool], color: str) -> None:
    """Draw model calls as circles on a line: filled where both branches of guidance are evaluated, else hollow."""
    for filled in (True, False):
        there = [place for place, each in zip(places, both, strict=True) if each == filled]
        _circles(axes, there, height, color, filled)


def explain_queries(axes: Any, **legend: Any) -> None:
    """Add the legend of :func:`mark_queries`.

    Args:
        axes: where the circles are.
        legend: further arguments of ``axes.legend``.
    """
    handles = [_circles(axes, [], 0.0, _GREY, filled) for filled in (True, False)]
    axes.legend(handles, ["both branches", "the condition alone"], fontsize=7.5, frameon=False, ncols=2, **legend)


def _circles(axes: Any, places: Sequence[float], height: float, color: str, filled: bool) -> Any:
    inside = color if filled else "white"
    return axes.plot(places, [height] * len(places), "o", color=color, markerfacecolor=inside, markersize=5)[0]
