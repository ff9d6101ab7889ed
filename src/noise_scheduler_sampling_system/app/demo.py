"""The demo: samplers with few model calls, on two models, with their errors, as a table and as a picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..comparison import Comparison, compare
from ..integrations.named_models import named_model
from ..support.figures import Pixels, difference_mosaic, draw_rows, mosaic
from ..support.text_tables import text_table

__all__ = ["BUDGETS", "SHOWN", "Panel", "compare_samplers", "draw_comparison", "summary"]

#: The most model calls, for each column of the demo.
BUDGETS: Final = (5, 10, 20)
#: The samplers that the demo shows, with their titles.
SHOWN: Final = {
    "ddim": "DDIM",
    "heun": "Heun",
    "dpmpp_2m": "DPM-Solver++(2M)",
    "unipc": "UniPC",
}
#: Digits of a picture, the pixels of one, and those of a gap.
_PICTURES, _SIDE, _GAP = 5, 56, 6
_CLASSES = 10
#: Digits that the error is taken over, of the exact model and of the trained one.
_EXACT, _TRAINED = 100, 10
#: The fine run of the trained network makes this factor times the calls of the largest budget.
_FINER = 4
#: The difference of two pixels that is drawn in the full colour.
_LARGEST = 1.0


@dataclass(frozen=True)
class Panel:
    """The samplers on one model.

    Attributes:
        title: the model, and what the error is.
        target: the name of the solution.
        comparison: one entry for each sampler of :data:`SHOWN`, with the settings that are the default.
    """

    title: str
    target: str
    comparison: Comparison


def compare_samplers(
    budgets: Sequence[int] = BUDGETS, seed: int = 0, progress: bool | Callable[[int, int], object] = False
) -> list[Panel]:
    """The samplers of ``SHOWN`` at every budget of model calls, from the same noise, without guidance.

    The first panel is the exact model of 8×8 digits. The second is the trained network of 28×28 digits; it needs
    diffusers, and is left out where that is not installed.

    Args:
        budgets: of model calls.
        seed: of the noise.
        progress: as for :func:`~.comparison.compare`; each panel counts its own calls.
    """

    def panel(name: str, samples: int, title: str, target: str) -> Panel:
        named = named_model(name)
        labels = torch.arange(samples) % _CLASSES
        found = compare(
            {each: named.pipeline(each) for each in SHOWN}, named, nfe=budgets, condition={"class_labels": labels},
            seed=seed, reference_calls=_FINER * max(budgets), progress=progress,
        )  # fmt: skip
        return Panel(f"{title}: median error of {samples} digits", target, found)

    panels = [panel("digits", _EXACT, "Exact model of 8×8 digits", "exact solution")]
    if find_spec("diffusers") is not None:
        panels.append(panel("mnist", _TRAINED, "Trained U-Net of 28×28 digits", f"{_FINER * max(budgets)} calls"))
    return panels


def summary(panels: Sequence[Panel]) -> str:
    """The errors of each panel as a table, with model calls where they are not those of the column."""
    texts = []
    for panel in panels:
        found = panel.comparison
        rows = [["sampler", *(f"{budget} calls" for budget in found.budgets)]]
        for name, title in SHOWN.items():
            cells = [found.cell(name, budget) for budget in found.budgets]
            notes = [f"{c.median:.2g}" + ("" if c.nfe == c.budget else f" ({c.nfe})") for c in cells]
            rows.append([title, *notes])
        texts.append(f"{panel.title}\n{text_table(rows)}\nerror against: {found.references[next(iter(SHOWN))]}")
    return "\n\n".join(texts)


def draw_comparison(panels: Sequence[Panel], path: str | os.PathLike[str]) -> None:
    """Draw the panels as a PNG: of each cell the samples, and below them their difference to the solution.

    Raises:
        ConfigurationError: matplotlib is missing.
        FileError: the file cannot be written.
    """
    labels: list[list[str]] = []
    pictures: list[list[Pixels]] = []
    notes: list[list[str]] = []
    sections: dict[int, str] = {}
    budgets = panels[0].comparison.budgets
    for panel in panels:
        found = panel.comparison
        sections[len(pictures)] = panel.title
        for name, title in SHOWN.items():
            entry = next(each for each in found.entries if each.name == name)
            target = found.references[name].pictures
            cells = [found.cell(name, budget) for budget in budgets]
            drawn = [_picture(cell.pictures, target) for cell in cells]
            pictures.append([*drawn, _picture(target, target)])
            notes.append([*(f"{cell.nfe} calls, error {cell.median:.2g}" for cell in cells), panel.target])
            labels.append([title, f"order {entry.pipeline.sampler.order}, {entry.pipeline.sampler.run_spacing}"])
    draw_rows(
        path,
        title="One model, one starting noise, few model calls",
        subtitle="All settings are the defaults, without guidance. Below each digit is its difference to the solution "
        "of the probability-flow ODE:\nred where there is too much ink, blue where ink is missing. The error is the "
        "root mean square over the pixels, in [−1, 1].",
        headings=[f"≤ {budget} model calls" for budget in budgets] + ["solution"],
        labels=labels,
        pictures=pictures,
        notes=notes,
        sections=sections,
    )


def _picture(samples: Tensor | None, target: Tensor | None) -> Pixels:
    """Digits in a row, and below them their difference to the target."""
    if samples is None or target is None:
        raise ValueError("the demo draws images, each with its solution")
    factor = _SIDE // samples.shape[-1]
    large, aim = (
        each[:_PICTURES].double().repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        for each in (samples, target)
    )
    above, below = mosaic(large, _PICTURES), difference_mosaic(aim - large, _PICTURES, _LARGEST)
    gap = below[:_GAP] * 0.0 + 1.0

    return np.concatenate([above, gap, below])
