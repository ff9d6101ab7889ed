"""The demo: every sampler at a few budgets of model calls, with its true error, as a table and as a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..comparison import Cell as MeasuredCell
from ..comparison import compare
from ..config.choices import SamplingMethod
from ..config.settings import NoiseSchedulerConfig
from ..models import DigitsModel
from ..pipeline.pipeline import DiffusionPipeline
from ..support.errors import ConfigurationError
from ..support.figures import draw_rows, mosaic

__all__ = [
    "Cell",
    "SamplerRow",
    "compare_samplers",
    "draw_comparison",
    "summary",
]

#: The most model calls, for each column of the demo.
BUDGETS = (5, 10, 20, 50)
#: This spacing starts at the noisiest level, as the reference solution does.
CONFIG = NoiseSchedulerConfig(timestep_spacing="beta")
_SHAPE = (1, 8, 8)
_DIGITS = 10
#: The number of digits that the error is taken over; the first ten are shown.
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


@dataclass(frozen=True)
class Cell:
    """The samples of one sampler within one budget.

    Attributes:
        nfe: the model calls that it made.
        samples: shape (10, 1, 8, 8), digits 0 to 9 in order.
        error: the root mean square over the pixels of a digit against the exact solution: the median of 100
            digits, since a few end at another digit. None for a stochastic sampler, which does not follow a
            single solution.
    """

    nfe: int
    samples: Tensor
    error: float | None


@dataclass(frozen=True)
class SamplerRow:
    """The cells of a sampler, or of several whose plans are the same table.

    Attributes:
        methods: the names of the samplers.
        order: order of convergence.
        cells: one for each budget.
        target: the limit of the cells: the exact solution, or samples of the data.
        stochastic: whether the target is a distribution rather than a solution.
    """

    methods: tuple[str, ...]
    order: int
    cells: tuple[Cell, ...]
    target: Tensor
    stochastic: bool


def compare_samplers(budgets: Sequence[int] = BUDGETS, seed: int = 0) -> list[SamplerRow]:
    """The samplers of ``SHOWN`` at every budget of model calls, from the same noise.

    The embedded exact model draws the same number of digits of each class, without guidance.
    Samplers whose plans hold the same numbers share a row.
    """
    labels = torch.arange(_MEASURED) % _DIGITS
    pipelines = {method.value: DiffusionPipeline(CONFIG, method) for method in SHOWN}
    found = compare(
        pipelines, nfe=budgets, shape=(_MEASURED, *_SHAPE), condition={"class_labels": labels}, seed=seed, device="cpu"
    )
    model = DigitsModel(pipelines["ddim"].scheduler)
    data = model.sample_data(_DIGITS, _SHAPE, generator=seed, class_labels=labels[:_DIGITS])
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name in pipelines:
        content = tuple(_content(found.cell(name, budget)) for budget in budgets)
        groups.setdefault(content, []).append(name)
    rows = []
    for names in groups.values():
        reference = found.references.get(names[0])
        measured = [found.cell(names[0], budget) for budget in budgets]
        cells = tuple(
            Cell(each.nfe, each.samples[:_DIGITS], None if math.isnan(each.median) else each.median)
            for each in measured
            if each.samples is not None
        )
        target = data if reference is None else reference.samples[0][:_DIGITS]
        order = pipelines[names[0]].sampler.order
        rows.append(SamplerRow(tuple(names), order, cells, target, reference is None))
    return sorted(rows, key=lambda row: row.stochastic)


def summary(rows: Sequence[SamplerRow]) -> str:
    """The comparison as a table: model calls and error of each cell."""
    lines = []
    for row in rows:
        cells = (_note(cell).ljust(21) for cell in row.cells)
        lines.append(" ".join([", ".join(row.methods).ljust(16), *cells]).rstrip())
    return "\n".join(lines)


def draw_comparison(rows: Sequence[SamplerRow], path: str | os.PathLike[str], budgets: Sequence[int] = BUDGETS) -> None:
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


def _nature(row: SamplerRow) -> str:
    return "stochastic" if row.stochastic else f"order {row.order}"


def _note(cell: Cell) -> str:
    return f"{cell.nfe} calls, " + ("stochastic" if cell.error is None else f"error {cell.error:.2g}")


def _content(cell: MeasuredCell) -> tuple[Any, ...]:
    """The numbers of a cell's plan without its names."""
    plan = cell.plan
    if plan is None:
        raise ConfigurationError(cell.problem, where="budgets", suggestion="give larger budgets")
    a, b, c = plan.canonical()
    return plan.time.tobytes(), a.tobytes(), b.tobytes(), c.tobytes(), plan.noise_key.tobytes(), plan.space
