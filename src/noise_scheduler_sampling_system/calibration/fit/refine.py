"""Gradient descent through the model on the weights of a table, for models whose gradients are cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...schedules.path import Level
from ..student import Student
from ..table import Table
from ..trajectories import Errors, Trajectories
from .fit import Fit

__all__ = ["refine"]

#: The number of steps, the first learning rate (it falls to 0 as a cosine), and the trajectories of a step.
_STEPS: Final = 200
_RATE: Final = 2e-3
_BATCH: Final = 64
#: All trajectories are run after every 20 steps.
_BETWEEN_RUNS: Final = 20


def refine(
    student: Student, table: Table, taught: Trajectories, *, max_gain: float, until: Callable[[], bool]
) -> Iterator[Fit]:
    """Move the weights of a table by Adam, with gradients through the model; the levels stay.

    The loss is the mean over trajectories of the root-mean-square error at the end (pseudo-Huber), so that a few
    trajectories in another basin do not dominate. Every model call is computed again in the backward pass, so a run
    needs the memory of one call.

    Args:
        student: the model; it must be differentiable.
        table: the start; its rows are made consistent.
        taught: the trajectories.
        max_gain: the largest :attr:`Table.gain` of a table that is yielded.
        until: whether to stop, called before every step.

    Yields:
        The state after each run of all trajectories whose loss is the smallest so far.
    """
    table = table.with_weights(table.weights)
    start = table.weights
    weights = torch.zeros(len(start), dtype=torch.float64, requires_grad=True)
    offset, directions = _affine(table)
    optimizer = torch.optim.Adam([weights], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    best = _measured(student, table, taught, 0)
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
        if (step + 1) % _BETWEEN_RUNS == 0 or step + 1 == _STEPS:
            now = table.with_weights(start + weights.detach().numpy())
            measured = _measured(student, now, taught, step + 1)
            if measured.loss < best.loss and now.gain <= max_gain:
                best = measured
                yield best


def _affine(table: Table) -> tuple[Tensor, Tensor]:
    """Return the rows of a table, shape (N + 1, N + 1), and their derivatives by its weights."""
    start = table.weights
    moved = [table.with_weights(start + axis).rows - table.rows for axis in np.eye(len(start))]
    return torch.from_numpy(np.array(table.rows)), torch.from_numpy(np.array(moved))


def _end(student: Student, table: Table, rows: Tensor, part: Trajectories) -> Tensor:
    """Return the samples of a run with these rows, as a differentiable function of them."""
    columns = [part.noise]
    factors = rows.to(part.noise.device, part.noise.dtype)

    def state(i: int) -> Tensor:
        return sum((factors[i, k] * column for k, column in enumerate(columns)), torch.zeros_like(part.noise))

    for i, level in enumerate(table.levels):

        def denoise(x: Tensor, level: Level = level) -> Tensor:
            return student.denoise(x, level, part.rows, differentiable=True)

        columns.append(checkpoint(denoise, state(i) * float(table.radii[i]), use_reentrant=False))
    return state(table.nfe) * float(table.radii[-1])


def _measured(student: Student, table: Table, taught: Trajectories, steps: int) -> Fit:
    """Return a table with its errors on all trajectories, after a number of steps."""
    each = taught.errors(student, table)
    return Fit(table, float(each.mean()), Errors.of(each), len(taught), iterations=steps)
