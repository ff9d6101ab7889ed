"""What the network predicts along fine runs of a few trajectories: the material from which outlines are chosen."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final, TypeVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...grids.time_grid import TimeGrid
from ...samplers.factory import SamplerFactory
from ...schedules.path import CLEAN, Level
from ..goal import Goal
from ..gram import gram_of
from ..level_range import LevelRange
from ..student import Student, combined
from ..table import Table
from ..trajectories import Trajectories

__all__ = ["LEVELS", "Recording"]

Array = npt.NDArray[np.float64]
Places = TypeVar("Places", int, npt.NDArray[np.int64])

#: The levels of a recording.
LEVELS: Final = 44
#: The sampler of the fine runs.
_SAMPLER: Final = "unipc"
#: The most numbers of each sample that are kept, at even distances.
_NUMBERS: Final = 4096
#: The most numbers of all columns in memory at a time: 1 GiB of float32.
_HELD: Final = 1 << 28


@final
@dataclass(frozen=True, eq=False)
class Recording:
    """States and predictions along fine runs of n trajectories, p numbers of each sample.

    States are in units of their level's radius, u = x/r, as in :class:`Table`.

    Attributes:
        levels: the K levels of the queries, from the noisiest.
        places: log(σ/α) of them, shape (K,).
        noise: u_T, shape (n, p).
        states: u at the levels, and the samples, shape (K + 1, n, p).
        predictions: D at the levels, shape (K, n, p).
        differences: δ at the levels, shape (K, n, p); empty where the goal holds no guidance.
        numbers: of a whole sample.
        picked: the indices of the p numbers in a flat sample.
    """

    levels: tuple[Level, ...]
    places: Array
    noise: Tensor
    states: Tensor
    predictions: Tensor
    differences: Tensor
    numbers: int
    picked: Tensor

    @classmethod
    def of(cls, student: Student, goal: Goal, few: Trajectories, span: LevelRange) -> Recording:
        """Run the trajectories through all levels. With a goal that holds guidance both branches are evaluated.

        Raises:
            NoiseSamplingError: the fine sampler is impossible on this path, or the network overflows.
        """
        table = goal.folded(_fine_table(span))
        numbers = few.noise[0].numel()
        count = min(numbers, _NUMBERS)
        picked = torch.arange(count) * numbers // count
        at_a_time = max(1, _HELD // (numbers * table.made[-1]))
        parts = [
            _played(student, table, few.part(first, first + at_a_time), picked)
            for first in range(0, len(few), at_a_time)
        ]
        noise, states, predictions, differences = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
        top = span.ends[0]
        places = np.minimum(np.log([level.noise_to_signal for level in table.levels]), top)
        return cls(table.levels, places, noise[0], states, predictions, differences, numbers, picked)

    def __len__(self) -> int:
        return len(self.levels)

    @functools.cached_property
    def gram(self) -> Array:
        """The mean products of u_T, the states, the predictions and the differences, in this order."""
        return gram_of(torch.cat([self.noise[None], self.states, self.predictions, self.differences]).flatten(1))

    def state(self, at: Places) -> Places:
        """The index in :attr:`gram` of the state at a level, or of the samples for K."""
        return 1 + at

    def prediction(self, at: Places) -> Places:
        """The index in :attr:`gram` of the prediction at a level."""
        return 2 + len(self) + at

    def difference(self, at: Places) -> Places:
        """The index in :attr:`gram` of the difference at a level."""
        return 2 + 2 * len(self) + at

    @functools.cached_property
    def signals(self) -> Array:
        """α/r of the K levels and of the clean end, shape (K + 1,)."""
        return np.array([*(level.alpha / np.hypot(level.alpha, level.sigma) for level in self.levels), 1.0])

    @functools.cached_property
    def size(self) -> float:
        """The root mean square of a number of a sample."""
        return float(np.sqrt(self.gram[self.state(len(self)), self.state(len(self))]))

    @functools.cached_property
    def spread(self) -> float:
        """The variance of the samples along the directions in which they vary most: Σλ²/Σλ of their covariance.

        It is estimated from the pairs of different samples. The numbers that are left out count as if they were alike.
        """
        samples = self.states[-1].double()
        count = len(samples)
        centred = samples - samples.mean(0)
        products = (centred @ centred.T).numpy() * (count / max(count - 1, 1)) * (self.numbers / len(self.picked))
        own = np.diag(products)
        pairs = float(np.square(products - np.diag(own)).sum()) / max(count * (count - 1), 1)
        return pairs / float(own.mean()) if own.any() else 1.0


def _played(student: Student, table: Table, few: Trajectories, picked: Tensor) -> tuple[Tensor, ...]:
    """Run some trajectories; return the picked numbers of u_T, the states, the predictions and the differences."""
    columns = student.columns(table, few.noise, few.rows)
    states = [combined(table.rows[i, : table.made[i]], columns) for i in range(table.nfe)]

    def kept(wanted: list[Tensor]) -> Tensor:
        flat = [each.flatten(1)[:, picked.to(each.device)].cpu() for each in wanted]
        return torch.stack(flat) if flat else torch.zeros(0, len(few), len(picked))

    return (
        kept([few.noise]),
        kept([*states, few.solution.to(few.noise)]),
        kept([columns[table.column(i)] for i in range(table.nfe)]),
        kept([columns[table.column(i, delta=True)] for i in table.both]),
    )


def _fine_table(span: LevelRange) -> Table:
    """The table of a fine run whose levels are even in log(σ/α), as those of outlines have to be."""
    inner = (span.level(float(place)) for place in np.linspace(*span.ends, LEVELS)[1:])
    grid = TimeGrid((span.path.level(span.path.t_max), *inner, CLEAN))
    return Table.of_plan(SamplerFactory.create(_SAMPLER, span.path).plan(grid=grid))
