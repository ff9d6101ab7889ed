"""Figures of plans: the coefficients of every row, and how two plans differ."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..models.experts import Experts
from ..plans.plan import SamplingPlan
from ..plans.plan_text import branch_names
from ..support.errors import ConfigurationError, shown
from .style import new_axes

__all__ = ["plot_plan", "plot_plan_difference"]

Array = npt.NDArray[np.float64]
#: Kinds of columns that have one column.
_SINGLE = ("a", "raw", "null")
#: Plans of more rows are drawn without the numbers.
_NUMBERED = 24


def plot_plan(plan: SamplingPlan, experts: Experts | None = None) -> Any:
    """The coefficients of a plan's rows as a heat map: of the state, of predictions, and of noise.

    Rows of a plan for networks of two times are named by both times, and those of a plan that holds its guidance by the
    branches that they evaluate: c+u both, c the condition alone.

    Args:
        plan: the plan.
        experts: a model of two networks. A line between two rows shows where it switches from one to the other.

    Raises:
        ConfigurationError: matplotlib is not installed, or not a plan.
    """
    _check(plan, "plan")
    (values,), names = _tables(plan)
    held = "" if plan.scale is None else f"{plan.evaluations} evaluations, guidance {plan.scale:g},\n"
    title = f"{plan.sampler}: {plan.steps} steps, {plan.nfe} model calls, {held}amplification {plan.amplification:.3g}"
    figure = _heat_map(values, names, title)
    _name_rows(figure.axes[0], plan)
    if experts is not None:
        _mark_switch(figure.axes[0], experts.rows(plan), experts.switch_time)
    return figure


def _mark_switch(axes: Any, networks: Sequence[str], time: float) -> None:
    """Draw a line between the last row of one network and the first of the other, with their names."""
    called = [(i, name) for i, name in enumerate(networks) if name]
    for (_, before), (i, name) in itertools.pairwise(called):
        if name != before:
            axes.axhline(i - 0.5, color="black", linewidth=1.5)
            axes.annotate(
                f"↑ {before}\n↓ {name}\nt = {time:g}", (1.01, i - 0.5), xycoords=axes.get_yaxis_transform(),
                va="center", fontsize=8,
            )  # fmt: skip


def plot_plan_difference(plan: SamplingPlan, other: SamplingPlan) -> Any:
    """The coefficients of one plan minus those of another, row by row.

    Raises:
        ConfigurationError: matplotlib is not installed, not plans, or plans with other numbers of rows or in another
            space, whose rows do not correspond.
    """
    _check(plan, "plan")
    _check(other, "other")
    if len(plan) != len(other) or plan.space != other.space:
        raise ConfigurationError(
            f"the plans have {len(plan)} rows in {plan.space} and {len(other)} rows in {other.space}",
            where="other",
            why="their rows do not correspond",
            suggestion="compare them in words: plan.diff(other)",
        )
    (values, others), names = _tables(plan, other)
    return _heat_map(values - others, names, f"{_named(plan)} minus {_named(other)}")


def _named(plan: SamplingPlan) -> str:
    """The sampler, with the guidance that the plan holds."""
    return plan.sampler if plan.scale is None else f"{plan.sampler} with guidance {plan.scale:g}"


def _check(plan: Any, where: str) -> None:
    if not isinstance(plan, SamplingPlan):
        raise ConfigurationError(f"got {shown(plan)}", where=where, suggestion="give a SamplingPlan")


def _width(columns: Array) -> int:
    """The number of columns up to the last that is not zero everywhere."""
    used = np.flatnonzero(columns.any(axis=0))
    return int(used[-1]) + 1 if len(used) else 0


def _tables(*plans: SamplingPlan) -> tuple[list[Array], list[str]]:
    """The coefficients of each plan's rows side by side, and the names of the columns that any of the plans uses."""
    parts = [_parts(plan) for plan in plans]
    widths = {kind: max(_width(each[kind]) for each in parts) for kind in parts[0]} | {"a": 1}
    names = [kind if kind in _SINGLE else f"{kind}[{k}]" for kind, width in widths.items() for k in range(width)]
    tables = [np.concatenate([_wide(each[kind], width) for kind, width in widths.items()], axis=1) for each in parts]
    return tables, names


def _parts(plan: SamplingPlan) -> dict[str, Array]:
    """The columns of a plan by their kind."""
    none = np.zeros((len(plan), 0))
    return {
        "a": plan.a[:, None], "b": plan.b, "c": plan.c, "raw": plan.raw[:, None],
        "null": none if plan.null is None else plan.null[:, None],
        "δ": none if plan.delta is None else plan.delta,
    }  # fmt: skip


def _wide(columns: Array, width: int) -> Array:
    """The first columns, and zeros for those that are not there."""
    return np.pad(columns, ((0, 0), (0, max(0, width - columns.shape[1]))))[:, :width]


def _name_rows(axes: Any, plan: SamplingPlan) -> None:
    """Name the rows by their times for networks of two times, and by the branches of guidance that the plan holds."""
    names = [str(i) for i in range(len(plan))]
    if plan.to is not None:
        axes.set_ylabel("t → r")
        names = [f"{t:.4g} → {r:.4g}" for t, r in zip(plan.time, plan.to[:, 0], strict=True)]
    rows = list(range(len(plan))) if len(plan) <= _NUMBERED else []
    if plan.both is not None:
        axes.set_ylabel("row, and its branches")
        names = [f"{name}  {branches}" for name, branches in zip(names, branch_names(plan), strict=True)]
        rows = rows or np.flatnonzero(plan.both).tolist()
    if rows and names != [str(i) for i in range(len(plan))]:
        axes.set_yticks(rows, [names[i] for i in rows], fontsize=8)


def _heat_map(values: Array, names: list[str], title: str) -> Any:
    rows, columns = values.shape
    figure, (axes,) = new_axes(1.6 + 0.95 * columns, 1.2 + 0.26 * min(rows, 60))
    largest = float(np.abs(values).max()) or 1.0
    # small coefficients stay visible: the shade grows with the logarithm
    shade = np.sign(values) * np.log1p(9.0 * np.abs(values) / largest) / np.log(10.0)
    axes.imshow(shade, cmap="RdBu", vmin=-1.0, vmax=1.0, aspect="auto", interpolation="nearest")
    axes.grid(False)
    axes.set_xticks(range(columns), names)
    axes.xaxis.tick_top()
    axes.set(ylabel="row", title=title)
    axes.title.set_fontsize(9)
    if rows <= _NUMBERED:
        for (i, k), value in np.ndenumerate(values):
            if value:
                ink = "white" if abs(shade[i, k]) > 0.6 else "black"
                axes.text(k, i, f"{value:.4g}", ha="center", va="center", fontsize=7, color=ink)
    return figure
