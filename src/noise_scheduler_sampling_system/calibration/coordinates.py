"""The free numbers of a table: where its levels are, and the weights of its rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt

from .table import LevelRange, Table

__all__ = ["Numbers"]

Array = npt.NDArray[np.float64]

#: A gap between levels shrinks to no less than this share of itself in one step, nor below _LEAST of the range.
_SHRINK, _LEAST = 0.2, 1e-5


@final
@dataclass(frozen=True)
class Numbers:
    """The free numbers of a table: log(σ/α) of its levels, then the weights of its rows.

    Attributes:
        range: of the levels.
        table: whose rows say which weights there are.
    """

    range: LevelRange
    table: Table

    @property
    def places(self) -> Array:
        # no signal is as far as levels go
        return np.minimum(np.log([level.noise_to_signal for level in self.table.levels]), self.range.ends[0])

    @functools.cached_property
    def stages(self) -> list[tuple[int, int]]:
        """For each number, the row or level that it belongs to, and −1 for a level or its place in the weights."""
        count = self.table.nfe
        of_levels = [(i, -1) for i in range(self.range.first_fixed, count)]
        sizes = [len(self.table.frame(i).directions) for i in range(count + 1)]
        rows = [i for i, size in enumerate(sizes) for _ in range(size)]
        return of_levels + [(i, k) for k, i in enumerate(rows)]

    @property
    def runs(self) -> float:
        """What the derivatives of a trajectory's end by all numbers cost, in runs of it."""
        return 1.0 + sum(self.table.nfe - i for i, _ in self.stages) / self.table.nfe

    @classmethod
    def of(cls, span: LevelRange, table: Table) -> Numbers:
        """Those of a table whose first level may be free: it is then a little below the noisiest level at least."""
        top, bottom = span.ends
        if span.first_fixed:
            table = replace(table, levels=(span.path.level(span.path.t_max), *table.levels[1:]))
        else:
            highest = span.level(top - _LEAST * (top - bottom))
            if table.levels[0].noise_to_signal > highest.noise_to_signal:
                table = replace(table, levels=(highest, *table.levels[1:]))
        return cls(span, table.with_weights(table.weights))

    def nudged(self, stage: tuple[int, int], step: float) -> tuple[Table, float]:
        """The table with one number changed and nothing else, and by how much it was."""
        i, place = stage[0], self.places
        if stage[1] >= 0:
            change = np.zeros(len(self.table.weights))
            change[stage[1]] = step
            return self.table.with_weights(self.table.weights + change), step
        step = -step if place[i] + step > self.range.ends[0] else step
        levels = list(self.table.levels)
        levels[i] = self.range.level(float(place[i] + step))
        return self.table.with_levels(levels), step

    def moved(self, changes: Array) -> Table:
        """The table with all numbers changed; the levels stay in order and in range, whatever the changes."""
        free = self.table.nfe - self.range.first_fixed
        top, bottom = self.range.ends
        ends = np.concatenate([[top], self.places, [bottom]])
        gaps = np.maximum(-np.diff(ends), _LEAST * (top - bottom))
        shift = np.concatenate([np.zeros(1 + self.range.first_fixed), changes[:free], [0.0]])
        if self.range.first_fixed:
            gaps, shift = gaps[1:], shift[1:]
        gaps = np.maximum.reduce([gaps - np.diff(shift), _SHRINK * gaps, np.full(len(gaps), _LEAST * (top - bottom))])
        top = float(ends[int(self.range.first_fixed)])
        places = top - np.cumsum(gaps)[:-1] * ((top - bottom) / gaps.sum())
        kept = self.table.levels[: self.range.first_fixed]
        levels = (*kept, *(self.range.level(float(place)) for place in places))
        return replace(self.table, levels=levels).with_weights(self.table.weights + changes[free:])
