"""End-to-end gradient descent on the weights of a table, for models through which gradients are cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .fit import Fit
from .measure import Errors
from .student import Student
from .table import Table
from .teacher import Trajectories

__all__ = ["refine"]

#: Steps, learning rate at the start (it falls to zero as a cosine), trajectories of a step.
_STEPS, _RATE, _BATCH = 200, 2e-3, 64
#: Steps between two looks at all trajectories.
_LOOK = 20


def refine(
    student: Student, table: Table, taught: Trajectories, *, max_gain: float, until: Callable[[], bool]
) -> Iterator[Fit]:
    """Adam on the weights of a consistent table at its levels, yielding whenever it has become better.

    The loss is the mean over trajectories of the root-mean-square error at the end (pseudo-Huber), so that those in
    another basin do not decide. Every model call is recomputed on the way back, which keeps the memory of a run at
    one call's.

    Args:
        student: the model; gradients must pass through it.
        table: where to start; its rows are made consistent.
        taught: the trajectories.
        max_gain: tables with a larger :attr:`Table.gain` are not taken.
        until: says when to stop.
    """
    table = table.with_weights(table.weights)
    start = table.weights
    weights = torch.zeros(len(start), dtype=torch.float64, requires_grad=True)
    offset, directions = _affine(table)
    optimizer = torch.optim.Adam([weights], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    best = _looked(student, table, taught, 0)
    order = torch.Generator().manual_seed(0)
    for step in range(_STEPS):
        if until():
            return
        first = int(torch.randint(max(len(taught) - _BATCH, 0) + 1, (1,), generator=order))
        part = taught.part(first, first + _BATCH)
        rows = offset + torch.tensordot(weights, directions, dims=1)
        optimizer.zero_grad()
        with torch.enable_grad():
            each = (_end(student, table, rows, part) - part.solution).flatten(1).square().mean(1)
            (weights.grad,) = torch.autograd.grad((each + 1e-12).sqrt().mean(), weights)  # none for the model's own
        optimizer.step()
        schedule.step()
        if (step + 1) % _LOOK == 0 or step + 1 == _STEPS:
            now = table.with_weights(start + weights.detach().numpy())
            looked = _looked(student, now, taught, step + 1)
            if looked.loss < best.loss and now.gain <= max_gain:
                best = looked
                yield best


def _affine(table: Table) -> tuple[Tensor, Tensor]:
    """The rows of a table as an affine function of a change of its weights: all rows, then their derivatives."""
    start = table.weights
    moved = [table.with_weights(start + axis).rows - table.rows for axis in np.eye(len(start))]
    return torch.from_numpy(np.array(table.rows)), torch.from_numpy(np.array(moved))


def _end(student: Student, table: Table, rows: Tensor, part: Trajectories) -> Tensor:
    columns = [part.noise]
    factors = rows.to(part.noise.device, part.noise.dtype)

    def state(i: int) -> Tensor:
        return sum((factors[i, k] * column for k, column in enumerate(columns)), torch.zeros_like(part.noise))

    for i, level in enumerate(table.levels):

        def ask(x: Tensor, level: Any = level) -> Tensor:
            return student.denoise(x, level, part.rows, differentiable=True)

        columns.append(checkpoint(ask, state(i) * float(table.radii[i]), use_reentrant=False))
    return state(table.nfe) * float(table.radii[-1])


def _looked(student: Student, table: Table, taught: Trajectories, steps: int) -> Fit:
    each = taught.errors(student, table)
    return Fit(table, float(each.mean()), Errors.of(each), len(taught), iterations=steps)
