"""The two exact forms of a plan's rows.

The execution form computes each state from the one before it and a short history. The canonical form computes each
state from independent quantities: the first state, the predictions and the noises. It is unique.
"""

from __future__ import annotations

import numpy as np

from .plan_rows import Array, PlanRows

__all__ = ["canonical_form", "canonical_states", "execution_form"]


def canonical_form(plan: PlanRows) -> tuple[Array, Array, Array]:
    """(A, B, C) with x[i] = A[i]·x_T + Σ_j B[i,j]·y[j] + Σ_j C[i,j]·ξ[j], where all branches predict the same.

    Returns:
        A of shape (M + 1,), B and C of shape (M + 1, M).
    """
    table, count = canonical_states(plan), len(plan)
    return table[:, 0], table[:, 1 : 1 + count], table[:, 1 + count : 1 + 2 * count]


def canonical_states(plan: PlanRows) -> Array:
    """Every state by x_T, the predictions y, the noises ξ and the differences δ of the branches, in this order.

    An unconditional prediction is y − δ. Shape (M + 1, 1 + 3M).
    """
    count = len(plan)
    table = np.zeros((count + 1, 1 + 3 * count))
    table[0, 0] = 1.0
    for i in range(count):
        table[i + 1] = plan.a[i] * table[i]
        for k in range(min(i + 1, plan.b.shape[1])):
            table[i + 1, 1 + i - k] += plan.b[i, k]
        table[i + 1, 1 + i] += plan.raw[i]
        for k in range(min(i + 1, plan.c.shape[1])):
            table[i + 1, 1 + count + i - k] += plan.c[i, k]
        if plan.null is not None:
            table[i + 1, 1 + i] += plan.null[i]
            table[i + 1, 1 + 2 * count + i] -= plan.null[i]
        if plan.delta is not None:
            for k in range(min(i + 1, plan.delta.shape[1])):
                table[i + 1, 1 + 2 * count + i - k] += plan.delta[i, k]
    return table


def execution_form(A: Array, B: Array, C: Array, tolerance: float) -> tuple[Array, Array, Array]:
    """The columns a, b and c with these states that keep the shortest history.

    Args:
        A, B, C: a canonical form.
        tolerance: a term below this fraction of its row's largest term is rounding, and is left out.
    """
    count = len(A) - 1
    table = np.concatenate([A[:, None], B, C], axis=1)
    a, b, c = np.zeros(count), np.zeros((count, count)), np.zeros((count, count))
    age = np.argsort(np.concatenate([[-1], np.arange(count), np.arange(count)]), kind="stable")
    for i in range(count):
        now, after = table[i], table[i + 1]
        # a[i] takes the oldest term out of what the history must hold
        oldest = age[np.argmax(np.abs(now[age]) > tolerance * np.abs(now).max())]
        a[i] = after[oldest] / now[oldest]
        rest = after - a[i] * now
        rest[np.abs(rest) <= tolerance * (np.abs(after) + np.abs(a[i] * now)).max()] = 0.0
        b[i, : i + 1], c[i, : i + 1] = rest[1 + i : 0 : -1], rest[1 + count + i : count : -1]
    return a, _without_empty_columns(b), _without_empty_columns(c)


def _without_empty_columns(table: Array) -> Array:
    """Drop the columns on the right that are 0; one column is always kept."""
    used = np.flatnonzero(table.any(axis=0))
    return table[:, : (int(used[-1]) + 1 if used.size else 1)]
