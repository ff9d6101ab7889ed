"""A plan as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .plan_rows import Array, PlanRows

__all__ = ["branch_names", "plan_columns", "plan_table"]


def plan_table(plan: PlanRows, max_rows: int, marks: Mapping[str, Sequence[str]] | None = None) -> str:
    """The columns of a plan side by side, one line a row; the middle of a longer plan is left out.

    Args:
        plan: the plan.
        max_rows: the most rows that are shown.
        marks: further columns, which follow the time, with a text for each row.
    """
    columns = plan_columns(plan, "{:.5g}".format)
    columns[3:3] = [(name, list(cells)) for name, cells in (marks or {}).items()]
    widths = [max(len(name), *map(len, cells)) for name, cells in columns]
    lines = ["  ".join(name.rjust(w) for (name, _), w in zip(columns, widths, strict=True))]
    keep = max_rows // 2
    for i in range(len(plan)):
        if len(plan) > max_rows and keep <= i < len(plan) - keep:
            if i == keep:
                lines.append(f"... {len(plan) - 2 * keep} rows ...".center(sum(widths)))
            continue
        lines.append("  ".join(cells[i].rjust(w) for (_, cells), w in zip(columns, widths, strict=True)))
    return "\n".join(lines)


def _second_times(plan: PlanRows) -> list[str]:
    """The second time of each row that evaluates the model."""
    assert plan.to is not None
    return [f"{r:g}" if asks else "-" for r, asks in zip(np.round(plan.to[:, 0], 3), plan.asked, strict=True)]


def branch_names(plan: PlanRows) -> list[str]:
    """What each row evaluates of guidance that the plan holds: "c+u" (both branches), "c" (the condition) or "-"."""
    both = (False,) * len(plan) if plan.both is None else plan.both
    return ["-" if not asks else "c+u" if u else "c" for asks, u in zip(plan.asked, both, strict=True)]


def plan_columns(plan: PlanRows, number: Callable[[float], str]) -> list[tuple[str, list[str]]]:
    """The columns of a plan, each with its name and a cell for each row.

    Args:
        plan: the plan.
        number: how a coefficient that is not 0 is written.
    """

    def _cells(values: Array) -> list[str]:
        return [number(float(v)) if v else "0" for v in values]

    extra = [("raw", plan.raw)] if plan.raw.any() else []
    extra += [] if plan.null is None else [("null", plan.null)]
    if plan.delta is not None:
        extra += [(f"δ[{k}]", plan.delta[:, k]) for k in range(plan.delta.shape[1])]
    times = zip(np.round(plan.time, 3), plan.asked, strict=True)
    return [
        ("row", [str(i) for i in range(len(plan))]),
        ("step", [str(i) for i in plan.step]),
        ("t", [f"{t:g}" if evaluates else "-" for t, evaluates in times]),
        *([] if plan.to is None else [("r", _second_times(plan))]),
        *([] if plan.both is None else [("branches", branch_names(plan))]),
        *((name, _cells(values)) for name, values in (("α", plan.alpha[:-1]), ("σ", plan.sigma[:-1]))),
        ("a", _cells(plan.a)),
        *((f"b[{k}]", _cells(plan.b[:, k])) for k in range(plan.b.shape[1])),
        *((name, _cells(values)) for name, values in extra),
        *((f"c[{k}]", _cells(plan.c[:, k])) for k in range(plan.c.shape[1]) if plan.stochastic),
    ]
