"""The model as a calibration sees it: clean samples predicted at any level, under condition and guidance."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..grids.time_grid import TimeGrid
from ..plans.plan import SamplingPlan
from ..running.model_adapter import map_tensors
from ..samplers.factory import SamplerFactory
from ..schedules.path import CLEAN, Level
from .table import Table

if TYPE_CHECKING:
    from ..pipeline.pipeline import DiffusionPipeline
    from ..samplers.base import BaseSampler

__all__ = ["Student", "Tally", "combined", "end_of"]


@dataclass
class Tally:
    """How much a calibration has asked of the model.

    Attributes:
        samples: evaluations of one sample at one level (guidance may double each one's work).
    """

    samples: int = 0


@final
@dataclass(frozen=True)
class Student:
    """A model on a noise schedule with what it is told, for the trajectories of a calibration.

    Attributes:
        pipeline: whose schedule, clipping and prediction type are used.
        model: as for :meth:`DiffusionPipeline.sample`.
        condition, null_condition: one row a trajectory; rows are picked with the trajectories.
        request: further arguments of ``sample``: ``guidance_scale``, ``guidance``, ``dtype``, ``max_batch_size``, ...
        tally: counts the work.
    """

    pipeline: DiffusionPipeline
    model: Callable[..., Any] | None
    condition: Mapping[str, Any] | None
    null_condition: Mapping[str, Any] | None
    request: Mapping[str, Any]
    tally: Tally = field(default_factory=Tally)

    @functools.cached_property
    def _one_step(self) -> BaseSampler:
        """One step of it to the clean end is the prediction, whatever the pipeline's own sampler does."""
        return SamplerFactory.create("ddim", self.pipeline.scheduler)

    def told(self, rows: Tensor) -> dict[str, Any]:
        """The arguments of ``sample`` for these trajectories."""

        def pick(value: Tensor) -> Tensor:
            return value[rows.to(value.device)] if value.ndim and value.shape[0] > 1 else value

        conditions = {"condition": self.condition, "null_condition": self.null_condition}
        return {**self.request, **{name: map_tensors(pick, value) for name, value in conditions.items()}}

    def run(self, plan: SamplingPlan, noise: Tensor, rows: Tensor) -> Tensor:
        """The samples of a plan from unit noise, shape (n, ...)."""
        self.tally.samples += plan.nfe * len(noise)
        sample: Tensor = self.pipeline.sample(self.model, initial_noise=noise, plan=plan, seed=0, **self.told(rows))
        return sample

    def follow(self, x: Tensor, grid: TimeGrid, sampler: BaseSampler, rows: Tensor) -> Tensor:
        """Where a sampler takes states on a grid, shape (n, ...)."""
        plan = sampler.plan(grid=grid)
        self.tally.samples += plan.nfe * len(x)
        end: Tensor = self.pipeline.sample(self.model, initial_sample=x, plan=plan, seed=0, **self.told(rows))
        return end

    def denoise(self, x: Tensor, level: Level, rows: Tensor, *, differentiable: bool = False) -> Tensor:
        """The clean samples predicted from x at a level, guided and clipped as in a run."""
        self.tally.samples += len(x)
        plan = self._one_step.plan(grid=TimeGrid((level, CLEAN)))
        clean: Tensor = self.pipeline.sample(
            self.model, initial_sample=x, plan=plan, seed=0, differentiable=differentiable, **self.told(rows)
        )
        return clean

    def columns(self, table: Table, noise: Tensor, rows: Tensor, known: Sequence[Tensor] = ()) -> list[Tensor]:
        """What the rows of a table are combinations of: u_T and the predictions D_0, D_1, … of a run.

        Args:
            table: the table.
            noise: u_T, unit noise, shape (n, ...).
            rows: which trajectories they are.
            known: columns that a run of a table with the same first rows has given.
        """
        columns = list(known) or [noise]
        for i in range(len(columns) - 1, table.nfe):
            x = combined(table.rows[i, : i + 1] * table.radii[i], columns)
            columns.append(self.denoise(x, table.levels[i], rows))
        return columns

    def ends(self, tables: Sequence[Table], columns: Sequence[Tensor], rows: Tensor) -> Tensor:
        """The samples of several tables with the same levels, run as one batch: shape (tables, n, ...).

        Args:
            tables: alike in the first rows.
            columns: those that these rows have given, each of shape (n, ...).
            rows: which trajectories they are.
        """
        count, like = len(tables), tables[0]
        held = [column.expand(count, *column.shape) for column in columns]

        def mixed(i: int) -> Tensor:
            weights = torch.from_numpy(np.stack([table.rows[i, : 1 + i] for table in tables]) * like.radii[i])
            each = weights.to(held[0]).reshape(count, 1 + i, *[1] * columns[0].ndim)
            total = each[:, 0] * held[0]
            for j in range(1, 1 + i):
                total.addcmul_(each[:, j], held[j])
            return total

        for i in range(len(columns) - 1, like.nfe):
            clean = self.denoise(mixed(i).flatten(0, 1), like.levels[i], rows.repeat(count))
            held.append(clean.reshape(held[0].shape))
        return mixed(like.nfe)


def end_of(table: Table, columns: Sequence[Tensor]) -> Tensor:
    """The samples of a run, from all its columns."""
    return combined(table.rows[-1] * table.radii[-1], columns)


def combined(weights: npt.NDArray[np.float64], columns: Sequence[Tensor]) -> Tensor:
    """Σ weights[k]·columns[k] over as many columns as there are weights."""
    total = columns[0] * float(weights[0])
    for weight, column in zip(weights[1:], columns[1 : len(weights)], strict=True):
        if weight:
            total.add_(column, alpha=float(weight))
    return total
