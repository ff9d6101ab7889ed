"""A run of an outline with the network, which finds its coefficients row by row and sees how predictions answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...analysis.solution import each_error
from ...schedules.path import CLEAN
from ..gram import gram_of
from ..level_range import LevelRange
from ..student import Student, combined
from ..table import Table
from ..trajectories import Errors, Trajectories
from .forecast import Outline
from .recording import Recording
from .regression import nearest_row
from .response import Answer

__all__ = ["Rehearsal", "rehearse"]

#: An answer to an error below this share of the samples' size is rounding.
_LEAST = 1e-4


class Rehearsal(NamedTuple):
    """What a run of an outline gave.

    Attributes:
        table: the outline with its coefficients.
        each: the error of each sample, shape (n,).
        predictions, differences: the answers of D and δ at its queries.
    """

    table: Table
    each: Tensor
    predictions: tuple[Answer, ...]
    differences: tuple[Answer, ...]

    @property
    def errors(self) -> Errors:
        """The errors of all samples together."""
        return Errors.of(self.each)


def rehearse(
    student: Student, recording: Recording, outline: Outline, few: Trajectories, span: LevelRange,
    *, scale: float | None, history: int | None,
) -> Rehearsal:  # fmt: skip
    """Run an outline on the recorded trajectories; each row is fitted to the exact states there.

    The rows before the last one need not lead along the exact trajectories, so this is a start for a fit.

    Args:
        student: the network.
        recording: the recording.
        outline: the outline.
        few: the recorded trajectories.
        span: the range of the levels.
        scale: the guidance scale that the plan holds, or None.
        history: of :class:`Table`.

    Raises:
        NoiseSamplingError: the run overflows.
    """
    count = len(outline.at)
    made = 1 + count + len(outline.both)
    table = Table(
        span.path.level(span.path.t_max), tuple(recording.levels[k] for k in outline.at), np.zeros((1 + count, made)),
        CLEAN, history=history, scale=scale, both=outline.both,
    )  # fmt: skip
    columns, seen = [few.noise], [recording.noise.flatten()]
    predictions, differences = [], []
    for i, at in enumerate((*outline.at, len(recording))):
        exact = recording.states[at].flatten()
        table = _with_fitted_row(table, i, seen, exact, recording.size)
        if i == count:
            break
        row = table.rows[i, : table.made[i]]
        miss = combined(row, seen) - exact
        new = student.query(table, i, combined(row * table.radii[i], columns), few.rows)
        columns += new
        seen += [each.flatten(1)[:, recording.picked.to(each.device)].flatten().cpu() for each in new]
        if float(miss.square().mean().sqrt()) > _LEAST * recording.size:
            place = float(recording.places[at])
            predictions.append(_answer(place, seen[table.column(i)] - recording.predictions[at].flatten(), miss))
            if i in outline.both:
                change = seen[table.column(i, delta=True)] - recording.differences[at].flatten()
                differences.append(_answer(place, change, miss))
    end = combined(table.rows[-1] * table.radii[-1], columns)
    return Rehearsal(table, each_error(end, few.solution), tuple(predictions), tuple(differences))


def _with_fitted_row(table: Table, i: int, seen: list[Tensor], exact: Tensor, size: float) -> Table:
    """Return the table whose row i is the nearest combination of columns to the exact state that its frame holds."""
    frame, made = table.frame(i), len(seen)
    row = np.array(frame.offset)
    if len(frame.directions):
        products = gram_of(torch.stack([*seen, exact]))[None]
        row[:made] = nearest_row(
            products[:, :made, :made], products[:, :made, made], frame.directions[:, :made], row[None, :made], size
        )[0]
    return table.with_row(i, row)


def _answer(place: float, change: Tensor, miss: Tensor) -> Answer:
    """Return the answer of a prediction: the part of its change along the error of the state, and the rest."""
    size = float(miss.double().square().sum())
    along = float(change.double() @ miss.double()) / size
    across = float((change - along * miss).double().square().sum() / size) ** 0.5
    return Answer(place, along, across)
