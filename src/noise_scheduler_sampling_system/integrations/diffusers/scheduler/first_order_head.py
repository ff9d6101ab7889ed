"""First-order steps in front of the rest of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ....config.prediction import conversion
from ....plans.plan import SamplingPlan

__all__ = ["first_order_head"]

#: Columns with one number a row.
_NARROW = ("time", "step", "a", "raw", "asks", "null", "input_scale")
#: Columns with several numbers a row.
_WIDE = ("b", "c", "noise_key", "noise_span", "log_variance")


def first_order_head(
    plan: SamplingPlan, rows: Sequence[tuple[int, tuple[float, float]]], tail: SamplingPlan | None, begin: int
) -> SamplingPlan:
    """First-order steps at some rows of a plan, and then the rows of another plan.

    Args:
        plan: the plan whose rows say where the model is called.
        rows: the numbers of these rows, each with the level (α, σ) that its step leads to.
        tail: the plan that follows, in the same space and with the same number of columns; None: nothing follows.
        begin: the first row of ``tail``. Neither it nor a later row reads from before it.
    """
    count = len(rows)
    head: dict[str, list[Any]] = {name: [] for name in ("a", "b")}
    for row, (alpha, sigma) in rows:
        space, here = plan.space_of(row), (float(plan.alpha[row]), float(plan.sigma[row]))
        clean, noise = (conversion(space, to, *here) for to in ("sample", "epsilon"))
        head["a"].append(alpha * clean.x_factor + sigma * noise.x_factor)
        head["b"].append(alpha * clean.y_factor + sigma * noise.y_factor)
    numbers = [row for row, _ in rows]
    source = plan if tail is None else tail
    columns: dict[str, Any] = {}
    for column in fields(SamplingPlan):
        name, value = column.name, getattr(source, column.name)
        if name in (*_NARROW, *_WIDE) and value is not None:
            rest = value[len(value) if tail is None else begin :]
            first = np.zeros((count, *value.shape[1:]), dtype=value.dtype)
            if name in ("time", "input_scale"):
                first[:] = getattr(plan, name)[numbers]
            elif name == "asks":
                first[:] = 1
            elif name == "noise_key":
                first[:] = -1
            elif name == "a":
                first[:] = head["a"]
            elif name == "b":
                first[:, 0] = head["b"]
            elif name == "step":
                rest = rest - rest[0] + 1 if len(rest) else rest
            columns[name] = np.concatenate([first, rest])
    ends = rows[-1][1]
    for name, end in (("alpha", ends[0]), ("sigma", ends[1])):
        rest = [end] if tail is None else getattr(tail, name)[begin:]
        columns[name] = np.concatenate([getattr(plan, name)[numbers], rest])
    return replace(source, prior_scale=1.0, **columns).checked()
