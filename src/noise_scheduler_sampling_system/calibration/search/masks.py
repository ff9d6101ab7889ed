"""The queries of a plan that evaluate the unconditional branch: a choice by how well the history predicts it.

δ = c − u, the difference of the two branches, is largely a combination of what a run has seen before. Where it is, its
evaluation is saved, and the combination takes its place. What is saved pays for more noise levels.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
import numpy.typing as npt
import torch

from ...guidance.cached import default_calls
from ...plans.branch_mask import with_folded_guidance
from ...schedules.path import CLEAN
from ...support.errors import NoiseSamplingError
from ..branches import folded, with_branch, without_branch
from ..fit.fit import enough
from ..fit.free_numbers import FreeNumbers
from ..student import Student
from ..table import Table
from ..trajectories import Errors, Trajectories
from .built_in import Baseline, baselines
from .goal import Goal
from .starts import Trial, grown

__all__ = ["DifferenceRegression", "MaskSearch", "cached"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

#: The masks of each table that are run, by the estimate of their error.
_MASKS: Final = 4
#: The masks of each size that lead to smaller ones: all of them up to 10 evaluations.
_BEAM: Final = 70
#: The most trajectories that they are run on.
_FEW: Final = 16
#: The masks of each number of levels that are fitted for some iterations.
_TRIED: Final = 1
#: The iterations of each of them, and then of the best one and of the table with both branches everywhere.
_TRIAL, _SECOND = 1, 4
#: The leading built-in samplers whose tables of more levels are masked.
_SOURCES: Final = 1

#: The ridge of a regression, as a share of the size of a column.
_RIDGE: Final = 1e-6
#: The number of numbers of each column that are converted to double precision at a time.
_PIECE: Final = 1 << 18


@final
@dataclass(frozen=True)
class DifferenceRegression:
    """Regressions of each query's δ on the columns that are made before it.

    Attributes:
        table: a table that holds guidance and evaluates both branches in every query.
        gram: the inner products of its columns, shape (columns, columns).
    """

    table: Table
    gram: Array

    @classmethod
    def of(cls, student: Student, table: Table, scale: float, few: Trajectories) -> DifferenceRegression:
        """Run a table, with guidance or without, and keep the inner products of its columns and of all δ."""
        full = folded(table, scale)
        for query in set(range(full.nfe)) - set(full.both):
            full = with_branch(full, query)
        columns = torch.stack(student.columns(full, few.noise, few.rows)).flatten(1)
        gram = np.zeros((len(columns),) * 2)
        for piece in torch.split(columns, _PIECE, 1):
            wide = piece.cpu().double()
            gram += (wide @ wide.T).numpy() / columns.shape[1]
        return cls(full, gram)

    def best_masks(self, count: int, most: int) -> list[tuple[int, ...]]:
        """Return the sets of queries that may evaluate both branches with the least estimated error, best first.

        The queries are left out one by one, and only the best sets go on: there are too many sets of many queries.

        Args:
            count: the size of the sets.
            most: the number of sets to return.
        """
        best = [self.table.both]
        for _ in range(self.table.nfe - count):
            smaller = sorted({tuple(k for k in both if k != j) for both in best for j in both})
            best = sorted(smaller, key=self.loss)[:_BEAM]
        return best[:most]

    def loss(self, both: Sequence[int]) -> float:
        """Return an estimate of the error that a mask brings: the residuals of δ, by their weight in the rows."""
        columns = ((self.table.column(j, delta=True), residual) for j, _, residual in self._dropped(both))
        return math.sqrt(sum((self._weights[column] * residual) ** 2 for column, residual in columns))

    @functools.cached_property
    def _weights(self) -> Array:
        """The largest factor of each column in a row that reads a prediction."""
        weights: Array = np.abs(self.table.rows * self.table.radii[:, None])[1:].max(axis=0)
        return weights

    def masked(self, both: Sequence[int]) -> Table:
        """Return the table that evaluates both branches in these queries only."""
        table = self.table
        for j, shares, _ in reversed(list(self._dropped(both))):  # the later ones first: they may read earlier ones
            table = without_branch(table, j, shares)
        return table

    def _dropped(self, both: Sequence[int]) -> Iterator[tuple[int, Array, float]]:
        """Yield each query without its δ, the shares that replace δ, and the residual of the regression."""
        dropped = {self.table.column(j, delta=True): j for j in self.table.both if j not in both}
        for at, j in dropped.items():
            yield j, *self._regressed(at, tuple(k for k in range(at) if k not in dropped))

    @functools.cached_property
    def _regressed(self) -> Callable[[int, tuple[int, ...]], tuple[Array, float]]:
        """The regressions so far; masks that agree up to a query share them."""
        return functools.cache(self._regression)

    def _regression(self, at: int, kept: tuple[int, ...]) -> tuple[Array, float]:
        """Regress a column on others, with shares that are 0 for constant data; return the shares and the residual."""
        columns = list(kept)
        constant = self.table.of_constant[columns]
        newest = len(kept) - 1  # D of the query itself; the shares are of differences from it
        basis = np.delete(np.eye(len(kept)) - np.outer(constant, np.eye(len(kept))[newest]), newest, axis=0)
        square = basis @ self.gram[np.ix_(kept, kept)] @ basis.T
        square += _RIDGE * np.diag(np.diag(square) + 1e-300)
        weights = np.linalg.solve(square, basis @ self.gram[columns, at])
        shares = np.zeros(at)
        shares[columns] = weights @ basis
        full = np.append(shares, -1.0)
        residual = full @ self.gram[: at + 1, : at + 1] @ full
        return shares, math.sqrt(max(residual, 0.0))


def cached(known: Sequence[Baseline], student: Student, goal: Goal) -> list[Baseline]:
    """Return the leading built-in samplers with more levels under :class:`CachedGuidance`, within the budget."""
    found: list[Baseline] = []
    for levels in goal.levels:
        calls = default_calls(levels, goal.budget - levels)
        for each in _with_levels(known, student, levels):
            plan = with_folded_guidance(each.plan, goal.guidance, [call in calls for call in range(levels)])
            found.append(Baseline(f"{each.name}, both branches in {len(calls)} of {levels} calls", plan, None))
    return found


@final
@dataclass(frozen=True)
class MaskSearch:
    """The search for starts with more levels than :attr:`Goal.calls` that evaluate both branches in some of them.

    The leading built-in samplers with more levels, and the plan of fewer evaluations with more queries, are run on a
    few trajectories. Each gets the masks that its regressions of δ recommend. The best of each number of levels and the
    best table with both branches everywhere are fitted for an iteration, which tells more than their errors before it.
    The better mask and the table with both branches get some more.

    Attributes:
        trial: the model, the few trajectories, and what may be spent.
        goal: the budget and the scale.
        known: the built-in samplers with the goal's calls, best first.
    """

    trial: Trial
    goal: Goal
    known: Sequence[Baseline]

    def starts(self, scalar: Sequence[Table], smaller: Table | None) -> list[Table]:
        """Return the starts, best first.

        Args:
            scalar: tables without guidance of their own with the goal's calls, best first.
            smaller: the table that was found for fewer evaluations.
        """
        whole = [folded(table, self.goal.guidance) for table in scalar]
        masked = [self._masked(levels, smaller)[:_TRIED] for levels in self.goal.levels]
        tried = whole[:1] + [table for turn in itertools.zip_longest(*masked) for table in turn if table is not None]
        drawn = enough(self.trial.few)
        fits = self.trial.of(tried, _TRIAL, drawn, "masks")
        # more levels begin ahead of both branches everywhere, and may end behind
        kinds = {_is_sparse(now.table): now for now in reversed(fits)}  # the best of each kind
        longer = self.trial.of([now.table for now in kinds.values()], _SECOND, drawn, "masks")
        done = len(longer) == len(kinds)
        rest = [now.table for now in fits if not (done and kinds[_is_sparse(now.table)] is now)]
        return [now.table for now in longer] + rest + tried[len(fits) :] + whole[1:]

    def _masked(self, levels: int, smaller: Table | None) -> list[Table]:
        """Return the tables with a number of levels, each with the masks that change its samples least, in that order.

        The errors of the tables themselves do not count: a fit corrects them, but what the history does not tell of δ
        it cannot find.
        """
        student, span = self.trial.student, self.trial.span
        few = self.trial.few.part(0, _FEW)
        tables = [each.table for each in _with_levels(self.known, student, levels) if each.table is not None]
        tables += [grown(smaller, levels, span)] if smaller is not None and smaller.nfe <= levels else []
        scored: list[tuple[float, Table]] = []
        for table in tables:
            inside = FreeNumbers.of(span, replace(table, start=span.path.level(span.path.t_max), end=CLEAN)).table
            try:
                regression = DifferenceRegression.of(student, inside, self.goal.guidance, few)
                whole = replace(few, solution=few.ends(student, regression.table))
                for mask in regression.best_masks(self.goal.budget - levels, _MASKS):
                    masked = regression.masked(mask)
                    scored.append((Errors.of(whole.errors(student, masked)).score(len(few)), masked))
            except NoiseSamplingError as error:
                logger.info("a start of %d levels is left out: %s", levels, error)
        return [table for _, table in sorted(scored, key=lambda pair: pair[0])]


def _is_sparse(table: Table) -> bool:
    """Whether a table evaluates the unconditional branch in some queries only."""
    return len(table.both) < table.nfe


def _with_levels(known: Sequence[Baseline], student: Student, levels: int) -> list[Baseline]:
    """Return the leading samplers with another number of calls."""
    names = tuple(each.name for each in known[:_SOURCES])
    found = baselines(student.pipeline.scheduler, levels, names) if names else []
    return [each for each in found if each.plan.nfe == levels]
