"""The model as a calibration sees it: it predicts clean samples at any level, under a condition and guidance."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config.settings import NoiseSchedulerConfig
from ..grids.time_grid import TimeGrid
from ..plans.plan import SamplingPlan
from ..running.model_adapter import map_tensors
from ..samplers.base import BaseSampler
from ..samplers.factory import SamplerFactory
from ..schedules.path import CLEAN, Level, NoisePath
from .table import Table

__all__ = ["CallCounter", "PlanRunner", "Student", "combined", "end_of"]


class PlanRunner(Protocol):
    """What a calibration needs of a pipeline: its schedule, its settings, and a way to run plans."""

    @property
    def scheduler(self) -> NoisePath:
        """The noise schedule."""
        ...

    @property
    def config(self) -> NoiseSchedulerConfig:
        """The settings, which say what the model predicts."""
        ...

    @property
    def sample(self) -> Callable[..., Any]:
        """Runs a plan, with the arguments of :meth:`DiffusionPipeline.sample`."""
        ...


@dataclass
class CallCounter:
    """Counts the work of a model.

    Attributes:
        samples: the number of evaluations of one sample at one level (:attr:`Student.branches`).
    """

    samples: int = 0


@final
@dataclass(frozen=True)
class Student:
    """A model on a noise schedule, with its conditions, for the trajectories of a calibration.

    Attributes:
        pipeline: gives the schedule, the clipping and the prediction type, and runs plans.
        model: as for :meth:`DiffusionPipeline.sample`.
        condition, null_condition: the conditions, one row for each trajectory.
        request: further arguments of ``sample``: ``guidance_scale``, ``guidance``, ``dtype``, ``max_batch_size``, ...
        calls: counts the evaluations.
        branches: the evaluations that a call counts as where the table holds no guidance of its own.
    """

    pipeline: PlanRunner
    model: Callable[..., Any] | None
    condition: Mapping[str, Any] | None
    null_condition: Mapping[str, Any] | None
    request: Mapping[str, Any]
    calls: CallCounter = field(default_factory=CallCounter)
    branches: int = 1

    @functools.cached_property
    def _one_step(self) -> BaseSampler:
        """A sampler whose single step to the clean end is the prediction itself."""
        return SamplerFactory.create("ddim", self.pipeline.scheduler)

    def arguments(self, rows: Tensor) -> dict[str, Any]:
        """Return the arguments of ``sample`` for the trajectories with these rows of the conditions, shape (n,)."""

        def pick(value: Tensor) -> Tensor:
            return value[rows.to(value.device)] if value.ndim and value.shape[0] > 1 else value

        conditions = {"condition": self.condition, "null_condition": self.null_condition}
        return {**self.request, **{name: map_tensors(pick, value) for name, value in conditions.items()}}

    def run(self, plan: SamplingPlan, noise: Tensor, rows: Tensor) -> Tensor:
        """Run a plan from unit noise of shape (n, ...); return the samples."""
        cost = plan.nfe * self.branches if plan.scale is None else plan.evaluations
        self.calls.samples += cost * len(noise)
        sample: Tensor = self.pipeline.sample(
            self.model, initial_noise=noise, plan=plan, seed=0, **self.arguments(rows)
        )
        return sample

    def denoise(
        self, x: Tensor, level: Level, rows: Tensor, *, scale: float | None = None, differentiable: bool = False
    ) -> Tensor:
        """Predict the clean samples from x, shape (n, ...), at a level, guided and clipped as in a run.

        Args:
            x: the states.
            level: of the states.
            rows: the rows of the conditions, shape (n,).
            scale: another guidance scale than the request's: 1 for the branch under the condition, 0 for the
                unconditional one.
            differentiable: whether gradients flow.
        """
        self.calls.samples += len(x) * (self.branches if scale is None else 1)
        plan = self._one_step.plan(grid=TimeGrid((level, CLEAN)))
        arguments = self.arguments(rows) | ({} if scale is None else {"guidance_scale": scale})
        clean: Tensor = self.pipeline.sample(
            self.model, initial_sample=x, plan=plan, seed=0, differentiable=differentiable, **arguments
        )
        return clean

    def query(self, table: Table, i: int, x: Tensor, rows: Tensor) -> list[Tensor]:
        """Return the columns that query i of a table makes at the states x: D_i, and δ_i if it evaluates both."""
        if table.scale is None:
            return [self.denoise(x, table.levels[i], rows)]
        clean = self.denoise(x, table.levels[i], rows, scale=1.0)
        return [clean, clean - self.denoise(x, table.levels[i], rows, scale=0.0)] if i in table.both else [clean]

    def columns(self, table: Table, noise: Tensor, rows: Tensor) -> list[Tensor]:
        """Run a table; return the columns that its rows combine: u_T and the predictions, in the order of the run.

        Args:
            table: the table.
            noise: u_T, unit noise, shape (n, ...).
            rows: the rows of the conditions, shape (n,).
        """
        columns = [noise]
        for i in range(table.nfe):
            x = combined(table.rows[i, : table.made[i]] * table.radii[i], columns)
            columns += self.query(table, i, x, rows)
        return columns

    def ends(self, tables: Sequence[Table], columns: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Run several tables with the same levels in one batch; return the samples, shape (tables, n, ...).

        Args:
            tables: tables with the same first rows, and the same queries of both branches.
            columns: the columns that these first rows give, each of shape (n, ...).
            rows: the rows of the conditions, shape (n,).
        """
        count, like = len(tables), tables[0]
        held = [column.expand(count, *column.shape) for column in columns]

        def mixed(i: int) -> Tensor:
            made = like.made[i]
            weights = torch.from_numpy(np.stack([table.rows[i, :made] for table in tables]) * like.radii[i])
            each = weights.to(held[0]).reshape(count, made, *[1] * columns[0].ndim)
            total = each[:, 0] * held[0]
            for j in range(1, made):
                total.addcmul_(each[:, j], held[j])
            return total

        for i in range(like.made.index(len(columns)), like.nfe):
            made = self.query(like, i, mixed(i).flatten(0, 1), rows.repeat(count))
            held += [each.reshape(held[0].shape) for each in made]
        return mixed(like.nfe)


def end_of(table: Table, columns: Sequence[Tensor]) -> Tensor:
    """Return the samples of a run from all of its columns."""
    return combined(table.rows[-1] * table.radii[-1], columns)


def combined(weights: npt.NDArray[np.float64], columns: Sequence[Tensor]) -> Tensor:
    """Return Σ weights[k]·columns[k] over the given weights; there may be more columns."""
    total = columns[0] * float(weights[0])
    for weight, column in zip(weights[1:], columns[1 : len(weights)], strict=True):
        if weight:
            total.add_(column, alpha=float(weight))
    return total
