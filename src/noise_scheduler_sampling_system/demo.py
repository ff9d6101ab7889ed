"""Pictures of samples, above all the demo's: every sampler at a few budgets, with its true error.

The picture is drawn with matplotlib (the ``plot`` extra), which is imported when it is needed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .config import NoiseSchedulerConfig, SamplingMethod
from .errors import ConfigurationError
from .files import write_atomic
from .models import DigitsModel
from .noise import NoiseSource, resolve_keys
from .pipeline import DiffusionPipeline
from .plan import SamplingPlan

__all__ = [
    "Cell",
    "Row",
    "compare_samplers",
    "draw_comparison",
    "draw_rows",
    "figure_class",
    "mosaic",
    "save_image",
    "summary",
]

Pixels = npt.NDArray[np.float64]

#: The largest numbers of model calls that the demo's columns allow.
BUDGETS = (5, 10, 20, 50)
#: Starts at the noisiest level, so that the reference solution is of the same problem.
CONFIG = NoiseSchedulerConfig(timestep_spacing="beta")
_SHAPE = (1, 8, 8)
_DIGITS = 10
#: How many digits the error is taken over; the first ten are shown.
_MEASURED = 100
#: The samplers that the demo shows.
SHOWN = tuple(map(SamplingMethod, ("ddpm", "ddim", "ancestral", "euler", "pndm", "heun", "dpmpp_2m", "unipc", "adams")))
_TITLES = {
    "ddim": "DDIM (η = 0)",
    "euler": "Euler",
    "pndm": "PNDM (PLMS)",
    "heun": "Heun",
    "ddpm": "DDPM",
    "ancestral": "ancestral (η = 1)",
    "dpmpp_2m": "DPM-Solver++(2M)",
    "unipc": "UniPC-3",
    "adams": "Adams-3, straight path",
}
_INK, _GREY = "#1a1a1a", "#666666"


@dataclass(frozen=True)
class Cell:
    """What one sampler made of one budget.

    Attributes:
        nfe: model calls that it took.
        samples: shape (10, 1, 8, 8), digits 0 to 9 in order.
        error: of a digit, the root mean square over its pixels against the exact solution;
            the median of many digits, since a few end at another one altogether. None for a
            stochastic sampler, which follows no single solution.
    """

    nfe: int
    samples: Tensor
    error: float | None


@dataclass(frozen=True)
class Row:
    """A sampler, or several whose plans are the same table, and its cells.

    Attributes:
        methods: their names.
        order: order of convergence.
        cells: one a budget.
        target: what the cells should tend to: the exact solution, or samples of the data.
        stochastic: whether the target is a distribution rather than a solution.
    """

    methods: tuple[str, ...]
    order: int
    cells: tuple[Cell, ...]
    target: Tensor
    stochastic: bool


def compare_samplers(budgets: Sequence[int] = BUDGETS, seed: int = 0) -> list[Row]:
    """The samplers of ``SHOWN`` at every budget of model calls, from the same noise.

    Digits are drawn with the embedded exact model, as many of each class, without guidance.
    Samplers whose plans hold the same numbers share a row.
    """
    labels = torch.arange(_MEASURED) % _DIGITS
    noise = NoiseSource(resolve_keys(seed, None, _MEASURED), _SHAPE).initial()
    pipelines = {method: DiffusionPipeline(CONFIG, method) for method in SHOWN}
    plans = {m: tuple(_largest_within(p, budget) for budget in budgets) for m, p in pipelines.items()}
    scheduler = pipelines[SamplingMethod.DDIM].scheduler
    model = DigitsModel(scheduler)
    solution = model.reference_solution(noise * scheduler.prior_std, class_labels=labels)
    data = model.sample_data(_DIGITS, _SHAPE, generator=seed, class_labels=labels[:_DIGITS])
    groups: dict[tuple[Any, ...], list[SamplingMethod]] = {}
    for method, made in plans.items():
        groups.setdefault(tuple(_numbers(plan) for plan in made), []).append(method)

    rows = []
    for methods in groups.values():
        pipeline, cells = pipelines[methods[0]], []
        for plan in plans[methods[0]]:
            samples = pipeline.sample(
                model,
                (_MEASURED, *_SHAPE),
                plan=plan,
                condition={"class_labels": labels},
                guidance_scale=1.0,
                seed=seed,
                device="cpu",
            )
            errors = (samples - solution).square().flatten(1).mean(1).sqrt()
            cells.append(Cell(plan.nfe, samples[:_DIGITS], None if plan.stochastic else errors.median().item()))
        stochastic = cells[-1].error is None
        names = tuple(method.value for method in methods)
        target = data if stochastic else solution[:_DIGITS]
        rows.append(Row(names, pipeline.sampler.order, tuple(cells), target, stochastic))
    return sorted(rows, key=lambda row: row.stochastic)


def summary(rows: Sequence[Row]) -> str:
    """The comparison as a table: model calls and error of each cell."""
    lines = []
    for row in rows:
        cells = (_note(cell).ljust(21) for cell in row.cells)
        lines.append(" ".join([", ".join(row.methods).ljust(16), *cells]).rstrip())
    return "\n".join(lines)


def draw_comparison(rows: Sequence[Row], path: str | os.PathLike[str], budgets: Sequence[int] = BUDGETS) -> None:
    """Draw the comparison as a PNG.

    Raises:
        ConfigurationError: matplotlib is missing.
        FileError: the file cannot be written.
    """
    notes = [[*map(_note, row.cells), "drawn from the data" if row.stochastic else "exact solution"] for row in rows]
    draw_rows(
        path,
        title="One model, one starting noise, nine samplers",
        subtitle="Handwritten digits 0 to 9 from the embedded exact model; linear schedule, beta timesteps, no "
        "guidance.\nError: root mean square over the pixels of a digit, in [−1, 1], against the exact solution of the "
        f"probability-flow ODE;\nthe median of {_MEASURED} digits, of which ten are shown.",
        headings=[f"≤ {budget} model calls" for budget in budgets] + ["target"],
        labels=[[_TITLES[name] for name in row.methods] + [_nature(row)] for row in rows],
        pictures=[[mosaic(cell, 5) for cell in [*(c.samples for c in row.cells), row.target]] for row in rows],
        notes=notes,
    )


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
        title, subtitle: above everything; the subtitle may have several lines.
        headings: one a column.
        labels: lines of text, one list a row; the last line is set in grey where there are several.
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
    """A batch of images as one PNG, small ones enlarged.

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
            f"samples of shape {tuple(samples.shape)} are no pictures",
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


def _nature(row: Row) -> str:
    return "stochastic" if row.stochastic else f"order {row.order}"


def _note(cell: Cell) -> str:
    return f"{cell.nfe} calls, " + ("stochastic" if cell.error is None else f"error {cell.error:.2g}")


def _numbers(plan: SamplingPlan) -> tuple[Any, ...]:
    """Everything that a plan computes with, and none of its names."""
    a, b, c = plan.canonical()
    return plan.time.tobytes(), a.tobytes(), b.tobytes(), c.tobytes(), plan.noise_key.tobytes(), plan.space


def _largest_within(pipeline: DiffusionPipeline, budget: int) -> SamplingPlan:
    """The plan with the most steps among those of at most ``budget`` model calls."""
    for steps in range(budget, 0, -1):
        plan = pipeline.plan(steps)
        if plan.nfe <= budget:
            return plan
    raise ConfigurationError(
        f"no plan has as few as {budget} model calls", where="budgets", suggestion="give larger budgets"
    )


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
