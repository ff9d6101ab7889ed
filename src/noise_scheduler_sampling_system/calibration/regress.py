"""Row by row least squares: the weights with which a run stays on exact trajectories as nearly as can be."""

from __future__ import annotations

import itertools

import numpy as np
from torch import Tensor

from ..grids.time_grid import TimeGrid
from ..samplers.factory import SamplerFactory
from .student import Student, combined
from .table import Table
from .teacher import Trajectories

__all__ = ["regressed", "states"]

#: Between two queries a second-order method without memory, which may start anywhere.
_SAMPLER, _SPACING = "heun", "kl_optimal"
#: The weights of a row stay near those that it had: so much of the columns' size pulls them.
_RIDGE = 1e-3


def states(student: Student, table: Table, taught: Trajectories, calls: int) -> list[Tensor]:
    """Where exact trajectories are at the queries of a table, and their ends, all in units of r = √(α² + σ²).

    Args:
        student: the model.
        table: whose levels are looked at.
        taught: the trajectories.
        calls: model calls a trajectory, about.
    """
    path, x = student.pipeline.scheduler, taught.noise * table.start_radius
    sampler = SamplerFactory.create(_SAMPLER, path.spaced(_SPACING))
    fine = sampler.grid(max(calls // 2, 1)).levels
    found = []
    for start, end in itertools.pairwise((table.start, *table.levels)):
        inner = [at for at in fine if start.noise_to_signal > at.noise_to_signal > end.noise_to_signal]
        if start.noise_to_signal > end.noise_to_signal:
            x = student.follow(x, TimeGrid((start, *inner, end)), sampler, taught.rows)
        found.append(x)
    ends = taught.solution
    return [u / float(r) for u, r in zip([*found, ends], table.radii, strict=True)]


def regressed(student: Student, table: Table, taught: Trajectories, calls: int) -> Table:
    """The table with other weights at the same levels, each row fitted to where exact trajectories are.

    The columns are those that a run of the new rows gives (Duan et al. 2023, "Optimal Linear Subspace Search",
    arXiv 2305.14677, with rows that reproduce constants, and a ridge towards the rows that the table had). One run.

    Args:
        student: the model.
        table: consistent.
        taught: a few trajectories.
        calls: of those who follow them to the queries.
    """
    columns: list[Tensor] = [taught.noise]
    for i, state in enumerate(states(student, table, taught, calls)):
        frame = table.frame(i)
        before = frame.weights(table.rows[i])
        if len(before):
            basis = np.stack([_flat(combined(each, columns)) for each in frame.directions[:, : i + 1]])
            square = basis @ basis.T
            miss = basis @ _flat(state.to(columns[0]) - combined(frame.row(before)[: i + 1], columns))
            ridge = _RIDGE * np.diag(np.diag(square)) + 1e-12 * square.max() * np.eye(len(before))
            table = table.with_row(i, frame.row(before + np.linalg.solve(square + ridge, miss)))
        if i < table.nfe:
            x = combined(table.rows[i, : i + 1] * table.radii[i], columns)
            columns.append(student.denoise(x, table.levels[i], taught.rows))
    return table


def _flat(x: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(x.detach().cpu().double().flatten().numpy())
