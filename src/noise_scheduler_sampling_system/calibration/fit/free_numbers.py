"""The free numbers of a table, which a fit moves: the levels of its queries and the weights of its rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt

from ..level_range import LevelRange
from ..table import Table

__all__ = ["FreeNumbers"]

Array = npt.NDArray[np.float64]

#: In one step a gap between levels shrinks to this share of itself at most, and never below _LEAST of the range.
_SHRINK, _LEAST = 0.2, 1e-5


@final
@dataclass(frozen=True)
class FreeNumbers:
    """The K free numbers of a table: log(σ/α) of each free level, then the weights of its rows, in some units.

    Attributes:
        range: the range of the levels.
        table: the table.
        units: for each row a matrix whose columns are the units of its numbers, in weights. None: its weights.
    """

    range: LevelRange
    table: Table
    units: tuple[Array, ...] | None = None

    @classmethod
    def of(cls, span: LevelRange, table: Table) -> FreeNumbers:
        """Return the free numbers of a table, after its rows are made consistent.

        A free first level is moved below the noisiest level by at least the least gap; a fixed one is put there.
        """
        top, bottom = span.ends
        if span.first_fixed:
            table = replace(table, levels=(span.path.level(span.path.t_max), *table.levels[1:]))
        else:
            highest = span.level(top - _LEAST * (top - bottom))
            if table.levels[0].noise_to_signal > highest.noise_to_signal:
                table = replace(table, levels=(highest, *table.levels[1:]))
        return cls(span, table.with_weights(table.weights))

    @property
    def places(self) -> Array:
        """log(σ/α) of the table's N levels, shape (N,), at most the top of the range."""
        return np.minimum(np.log([level.noise_to_signal for level in self.table.levels]), self.range.ends[0])

    @functools.cached_property
    def stages(self) -> list[tuple[int, int]]:
        """For each number: the index of its level or row, and −1 for a level or the number's index in the weights."""
        count = self.table.nfe
        of_levels = [(i, -1) for i in range(self.range.first_fixed, count)]
        sizes = [len(self.table.frame(i).directions) for i in range(count + 1)]
        rows = [i for i, size in enumerate(sizes) for _ in range(size)]
        return of_levels + [(i, k) for k, i in enumerate(rows)]

    @functools.cached_property
    def _in_weights(self) -> Array:
        """The matrix that takes changes of all numbers but the levels to changes of the table's weights."""
        if self.units is None:
            return np.eye(len(self.table.weights))
        made, at = np.zeros((len(self.table.weights),) * 2), 0
        for unit in self.units:
            made[at : at + len(unit), at : at + len(unit)] = unit
            at += len(unit)
        return made

    @property
    def squared_weights(self) -> Array:
        """The sum of the squared changes of all weights as a quadratic form of changes of the numbers, shape (K, K)."""
        form = np.zeros((len(self.stages),) * 2)
        free = self.table.nfe - self.range.first_fixed
        form[free:, free:] = self._in_weights.T @ self._in_weights
        return form

    @property
    def of_last_row(self) -> Array:
        """What one unit of each number of the last row adds to it, shape (numbers, columns)."""
        directions = self.table.frame(self.table.nfe).directions
        return directions if self.units is None else self.units[-1].T @ directions

    @property
    def runs(self) -> float:
        """The cost of the derivatives of one trajectory's end by all numbers, in runs of that trajectory."""
        table = self.table
        left = [table.evaluations - (i + sum(j < i for j in table.both)) for i, _ in self.stages]
        return 1.0 + sum(left) / table.evaluations

    def nudged(self, stage: tuple[int, int], step: float) -> tuple[Table, float]:
        """Change one number only.

        Args:
            stage: the number, an entry of :attr:`stages`.
            step: the change. A level at the top of the range moves down instead of up.

        Returns:
            The table, and the change that was made.
        """
        i, place = stage[0], self.places
        if stage[1] >= 0:
            change = np.zeros(len(self.table.weights))
            change[stage[1]] = step
            return self.table.with_weights(self.table.weights + self._in_weights @ change), step
        step = -step if place[i] + step > self.range.ends[0] else step
        levels = list(self.table.levels)
        levels[i] = self.range.level(float(place[i] + step))
        return self.table.with_levels(levels), step

    def moved(self, changes: Array) -> Table:
        """Add changes of shape (K,) to the numbers. The levels stay in order and in range, whatever the changes."""
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
        return replace(self.table, levels=levels).with_weights(self.table.weights + self._in_weights @ changes[free:])
