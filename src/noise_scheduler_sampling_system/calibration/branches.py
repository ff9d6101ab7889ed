"""Guidance as a part of a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .table import Table

__all__ = ["folded"]


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
