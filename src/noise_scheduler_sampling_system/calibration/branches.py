"""Guidance as a part of a table, and the queries of a table that evaluate the unconditional branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .table import Table

__all__ = ["folded", "with_branch", "without_branch"]

Array = npt.NDArray[np.float64]


def folded(table: Table, scale: float) -> Table:
    """Return the table that holds classifier-free guidance of a scale and evaluates both branches in every query.

    Its runs equal the guided runs of the table. A table that holds guidance already is returned as it is.
    """
    if table.scale is not None:
        return table
    rows = [table.rows[:, 0]]
    for j in range(table.nfe):
        rows += [table.rows[:, 1 + j], (scale - 1.0) * table.rows[:, 1 + j]]
    return replace(table, rows=np.stack(rows, axis=1), scale=float(scale), both=tuple(range(table.nfe)))


def with_branch(table: Table, query: int) -> Table:
    """Return the table with δ of one more query, which no row reads yet. The samples do not change."""
    rows = np.insert(table.rows, table.column(query, delta=True), 0.0, axis=1)
    return replace(table, rows=rows, both=tuple(sorted((*table.both, query))))


def without_branch(table: Table, query: int, shares: Sequence[float] | Array) -> Table:
    """Return the table without δ of a query, which is replaced by a combination of the columns made before it.

    Args:
        table: a table that holds guidance.
        query: one of its ``both``.
        shares: the factors of u_T and the columns made before δ of the query, shape (column of δ,). A combination that
            is not 0 for constant data would make the rows inconsistent.
    """
    at = table.column(query, delta=True)
    rows = np.array(table.rows)
    rows[:, :at] += np.outer(rows[:, at], np.asarray(shares))
    return replace(table, rows=np.delete(rows, at, axis=1), both=tuple(j for j in table.both if j != query))
