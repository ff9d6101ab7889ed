"""What a comparison found: entries, cells and references, as values."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np
from torch import Tensor

from ..pipeline.pipeline import DiffusionPipeline
from ..plans.plan import SamplingPlan
from ..plots import plot, plot_convergence
from ..plots.notebook import html_of
from ..support.data_files import write_json
from ..support.errors import ConfigurationError, FileError, NoiseSamplingError, shown
from ..support.files import checked_path, write_atomic
from ..support.hooks import Hook
from ..support.text_tables import text_table
from .reference import Reference

__all__ = ["INTERRUPTED", "Cell", "Comparison", "Entry"]

_FORMAT = "comparison 1"
#: The problem of a cell that was not measured because of Ctrl-C.
INTERRUPTED: Final = "interrupted"
#: An error is trusted where it is this factor above the reference's own.
_RESOLVED: Final = 10.0
#: Makes a comparison a page; the module ``page`` provides it.
PAGE: Hook[Callable[[Comparison], str]] = Hook("Comparison.to_html")


@final
@dataclass(frozen=True)
class Entry:
    """One row of a comparison: a sampler with its options on a path with a spacing.

    Attributes:
        name: its name in the comparison.
        pipeline: what ran.
        plans: plans by their number of model calls or evaluations, where plans were given and not a sampler.
        white_on_black: whether the images are white strokes on black, which figures draw dark on light.
    """

    name: str
    pipeline: DiffusionPipeline
    plans: Mapping[int, SamplingPlan] = field(default_factory=dict)
    white_on_black: bool = False

    @property
    def scale(self) -> float | None:
        """The guidance scale that its plans hold; None: the comparison's guidance acts."""
        return next((plan.scale for plan in self.plans.values()), None)

    @property
    def stochastic(self) -> bool:
        """Whether its plans add noise, so that its samples do not follow the ODE."""
        if self.plans:
            return any(plan.stochastic for plan in self.plans.values())
        try:
            return bool(self.pipeline.sampler.writes_plans and self.pipeline.plan(4).stochastic)
        except NoiseSamplingError:  # its cells say why
            return False


@final
@dataclass(frozen=True, eq=False)
class Cell:
    """One entry at one budget of model calls.

    Attributes:
        entry: the entry's name.
        budget: the number of model calls (or of evaluations, see ``about``) that was asked for.
        nfe: the number of model calls that were made: the largest that the sampler can make within the budget.
        steps: intervals of its grid.
        evaluations: evaluations of the network for one sample; guidance may double those of a call.
        evaluations_by_row: the same by row of the plan.
        branches_by_row: by row, what is evaluated: "conditional", "unconditional" or "another" branch.
        rms: root-mean-square error per number against the reference, over all samples and seeds; NaN without one.
        standard_error: of ``rms``.
        median: the median over samples of their root-mean-square error.
        by_seed: ``rms`` of each seed.
        frechet: Fréchet distance of features to those of the data; NaN where no features were given.
        seconds: of one run of the batch, by part: model, guidance, noise, sampler, total.
        peak_memory: bytes; the device's on CUDA, the process's on a CPU.
        plan: what ran; None for a sampler that has only ``step()``.
        samples: those of the first seed, on the CPU, shape (B, ...).
        pictures: the first of them as images in [−1, 1], decoded where they are latents; None where they are no images.
        problem: why the cell could not run; empty where it did.
    """

    entry: str
    budget: int
    nfe: int = 0
    steps: int = 0
    evaluations: int = 0
    evaluations_by_row: tuple[int, ...] = ()
    branches_by_row: tuple[tuple[str, ...], ...] = ()
    rms: float = math.nan
    standard_error: float = math.nan
    median: float = math.nan
    by_seed: tuple[float, ...] = ()
    frechet: float = math.nan
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory: int = 0
    plan: SamplingPlan | None = None
    samples: Tensor | None = field(default=None, repr=False)
    pictures: Tensor | None = field(default=None, repr=False)
    problem: str = ""

    @property
    def spread(self) -> float:
        """The standard deviation of the error over seeds; NaN with fewer than two."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else math.nan

    def to_dict(self) -> dict[str, Any]:
        """The cell as plain data, with the plan's hash in place of the plan, and without samples."""
        data = {name: getattr(self, name) for name in _COLUMNS}
        data["plan"] = None if self.plan is None else self.plan.content_hash
        numbers = {k: v for k, v in data.items() if not (isinstance(v, float) and math.isnan(v))}
        return {**dict.fromkeys(data), **numbers, "by_seed": list(self.by_seed), "seconds": dict(self.seconds)}


_COLUMNS = (
    "entry", "budget", "nfe", "steps", "evaluations", "rms", "standard_error", "spread", "median", "frechet",
    "peak_memory",
    "plan", "problem",
)  # fmt: skip


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Samplers side by side; :func:`compare` makes it.

    Attributes:
        entries: the rows.
        budgets: the columns: numbers of model calls.
        cells: by (entry's name, budget).
        references: by entry's name: what its errors are measured against. Entries on one path share a reference;
            those that add noise, and comparisons without a reference, have none.
        about: model, seeds, shape, guidance, device and versions, as plain data.
        notes: what kept a reference from being made, and entries whose cost the budgets do not say.
    """

    entries: tuple[Entry, ...]
    budgets: tuple[int, ...]
    cells: Mapping[tuple[str, int], Cell]
    references: Mapping[str, Reference]
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the comparison before all cells were measured."""
        return any(cell.problem == INTERRUPTED for cell in self.cells.values())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know about the errors: missing references, and errors that a fine run does not resolve."""
        unsure = [cell for cell in self.cells.values() if self.is_unsure(cell)]
        doubts = [
            f"{entry}: the error with {', '.join(str(c.budget) for c in cells)} {self.unit} is not well resolved, "
            f"because the reference's own error ({self.references[entry].rms:.2g}) is above a tenth of it; give more "
            "reference_calls"
            for entry in dict.fromkeys(cell.entry for cell in unsure)
            if (cells := [cell for cell in unsure if cell.entry == entry])
        ]
        return (*self.notes, *doubts)

    @property
    def unit(self) -> str:
        """What the budgets count: "calls" or "evaluations"."""
        return str(self.about.get("budgets_count", "calls"))

    def heading(self, budget: int) -> str:
        """A budget with its unit: "1 call", "8 evaluations"."""
        return f"{budget} {self.unit if budget != 1 else self.unit.removesuffix('s')}"

    def cost(self, cell: Cell) -> int:
        """What a cell made of what the budgets count."""
        return cell.nfe if self.unit == "calls" else cell.evaluations

    def is_unsure(self, cell: Cell) -> bool:
        """Whether the reference's own error is not small against that of a cell."""
        reference = self.references.get(cell.entry)
        return reference is not None and cell.rms < _RESOLVED * reference.rms

    def cell(self, entry: str, budget: int) -> Cell:
        """One cell.

        Raises:
            ConfigurationError: no such entry or budget.
        """
        found = self.cells.get((entry, budget))
        if found is None:
            names = ", ".join(each.name for each in self.entries)
            raise ConfigurationError(
                f"there is no cell ({shown(entry)}, {shown(budget)})",
                where="cell",
                suggestion=f"give one of {names} and one of {', '.join(map(str, self.budgets))}",
            )
        return found

    def best(self, budget: int) -> Cell:
        """The cell with the least error at a budget.

        Raises:
            ConfigurationError: no cell of that budget has an error.
        """
        cells = [self.cell(each.name, budget) for each in self.entries]
        measured = [cell for cell in cells if not math.isnan(cell.rms)]
        if not measured:
            raise ConfigurationError(
                f"no entry has an error at {budget} model calls", where="budget", suggestion="compare with a reference"
            )
        return min(measured, key=lambda cell: cell.rms)

    def order_of(self, entry: str) -> float:
        """The measured order: minus the slope of log error over log cost; NaN with fewer than two errors."""
        cells = [self.cell(entry, budget) for budget in self.budgets]
        points = {self.cost(cell): cell.rms for cell in cells if cell.rms > 0.0}
        if len(points) < 2:
            return math.nan
        slope = np.polyfit(np.log(list(points)), np.log(list(points.values())), 1)[0]
        return -float(slope)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples as plain data; the plans are listed by their hash."""
        plans = {c.plan.content_hash: c.plan.to_dict() for c in self.cells.values() if c.plan is not None}
        return {
            "format": _FORMAT,
            "about": dict(self.about),
            "remarks": list(self.remarks),
            "entries": [
                {
                    "name": each.name,
                    "sampler": each.pipeline.method,
                    "options": {name: plain_option(value) for name, value in each.pipeline.sampler_options.items()},
                    "spacing": each.pipeline.sampler.run_spacing,
                    "config": each.pipeline.config.to_dict(),
                    "order": None if math.isnan(order := self.order_of(each.name)) else order,
                }
                for each in self.entries
            ],
            "references": {
                name: {"kind": r.kind, "path": r.path, "error": r.error, "rms": r.rms, "nfe": r.nfe}
                for name, r in self.references.items()
            },
            "cells": [self.cell(each.name, budget).to_dict() for each in self.entries for budget in self.budgets],
            "plans": plans,
        }

    def to_csv(self) -> str:
        """One line for each cell."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [*_COLUMNS, *_PARTS], lineterminator="\n")
        writer.writeheader()
        for each in self.entries:
            for budget in self.budgets:
                row = self.cell(each.name, budget).to_dict()
                seconds = row.pop("seconds")
                row.pop("by_seed")
                writer.writerow({**row, **{part: seconds.get(part[8:]) for part in _PARTS}})
        return text.getvalue()

    def to_html(self) -> str:
        """A page in one file that needs no network; see :mod:`.page`.

        Raises:
            ConfigurationError: plotly is not installed.
        """
        return PAGE.function(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the comparison by the file's ending: .html, .json or .csv; whole or not at all.

        Raises:
            FileError: another ending, or a file that cannot be written.
        """
        ending = checked_path(path).suffix.lower()
        if ending == ".json":
            write_json(path, self.to_dict())
        elif ending == ".csv":
            write_atomic(path, self.to_csv().encode())
        elif ending in (".html", ".htm"):
            write_atomic(path, self.to_html().encode())
        else:
            raise FileError(
                f"the ending {shown(ending)} names no format", where=str(path), suggestion="use .html, .json or .csv"
            )

    def __str__(self) -> str:
        return table_of(self)

    def plot(self) -> Any:
        """The error over what the budgets count; see :func:`.plots.plot_convergence`.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            ConfigurationError: matplotlib is not installed, or no cell has an error.
        """
        return plot(self)

    def _repr_html_(self) -> str:
        return html_of(self)


@plot.register(Comparison)
def _plot(comparison: Comparison) -> Any:
    return plot_convergence(comparison, count="nfe" if comparison.unit == "calls" else "evaluations")


_PARTS = ("seconds_model", "seconds_guidance", "seconds_noise", "seconds_sampler", "seconds_total")


def table_of(comparison: Comparison) -> str:
    """The comparison as text: one line for each entry, with error and calls in each column."""
    return "\n".join([text_table(table_rows(comparison)), *lines_below(comparison)])


def table_rows(comparison: Comparison) -> list[list[str]]:
    """The cells of the table; the first row holds the headings."""
    rows = [["sampler", *map(comparison.heading, comparison.budgets), "order"]]
    for each in comparison.entries:
        cells = [note(comparison, comparison.cell(each.name, budget)) for budget in comparison.budgets]
        order = comparison.order_of(each.name)
        rows.append([each.name, *cells, "" if math.isnan(order) or each.stochastic else f"{order:.1f}"])
    return rows


def lines_below(comparison: Comparison) -> list[str]:
    """What stands below the table: references, cells that cannot run, remarks, and an interrupt."""
    references = [f"error against: {reference}" for reference in comparison.references.values()]
    problems = [
        f"{cell.entry} cannot run: {cell.problem}"
        for cell in comparison.cells.values()
        if cell.problem not in ("", INTERRUPTED)
    ]
    ending = ["interrupted: the cells above are complete"] if comparison.interrupted else []
    return [*dict.fromkeys(references), *dict.fromkeys(problems), *comparison.remarks, *ending]


def note(comparison: Comparison, cell: Cell) -> str:
    """The error of a cell, and its calls where they are not its budget; "?" where the reference does not resolve it."""
    if cell.problem:
        return "interrupted" if cell.problem == INTERRUPTED else "cannot run"
    count = comparison.cost(cell)
    calls = "" if count == cell.budget else f" ({count})"
    if not math.isnan(cell.rms):
        return f"{cell.rms:.3g}{'?' if comparison.is_unsure(cell) else ''}{calls}"
    if not math.isnan(cell.frechet):
        return f"FD {cell.frechet:.3g}{calls}"
    entry = next(each for each in comparison.entries if each.name == cell.entry)
    return f"{'stochastic' if entry.stochastic else 'no error'}{calls}"


def plain_option(value: Any) -> Any:
    """The value of an option as plain data; ``repr`` of what is not plain."""
    return value if isinstance(value, bool | int | float | str | None) else repr(value)
