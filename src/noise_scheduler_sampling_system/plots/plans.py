"""Figures of plans: the coefficients of every row, and how two plans differ."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..models.experts import Experts
from ..plans.plan import SamplingPlan
from ..support.errors import ConfigurationError, shown
from .style import new_axes

__all__ = ["plot_plan", "plot_plan_difference"]

Array = npt.NDArray[np.float64]
#: Plans of more rows are drawn without the numbers.
_NUMBERED = 24


def plot_plan(plan: SamplingPlan, experts: Experts | None = None) -> Any:
    """The coefficients of a plan's rows as a heat map: of the state, of predictions, and of noise.

    Rows of a plan for networks of two times are named by both times.

    Args:
        plan: the plan.
        experts: a model of two networks. A line between two rows shows where it switches from one to the other.

    Raises:
        ConfigurationError: matplotlib is not installed, or not a plan.
    """
    _check(plan, "plan")
    values, names = _table(plan, _width(plan.b), _width(plan.c))
    title = f"{plan.sampler}: {plan.steps} steps, {plan.nfe} model calls, amplification {plan.amplification:.3g}"
    figure = _heat_map(values, names, title, _times(plan))
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
    width, noise = max(_width(plan.b), _width(other.b)), max(_width(plan.c), _width(other.c))
    values, names = _table(plan, width, noise)
    return _heat_map(values - _table(other, width, noise)[0], names, f"{plan.sampler} minus {other.sampler}")


def _check(plan: Any, where: str) -> None:
    if not isinstance(plan, SamplingPlan):
        raise ConfigurationError(f"got {shown(plan)}", where=where, suggestion="give a SamplingPlan")


def _width(columns: Array) -> int:
    """The number of columns up to the last that is not zero everywhere."""
    used = np.flatnonzero(columns.any(axis=0))
    return int(used[-1]) + 1 if len(used) else 0


def _table(plan: SamplingPlan, width: int, noise: int) -> tuple[Array, list[str]]:
    """Coefficients of every row side by side, and the names of the columns."""

    def first(columns: Array, count: int) -> Array:
        padded = np.zeros((len(columns), max(count, columns.shape[1])))
        padded[:, : columns.shape[1]] = columns
        return padded[:, :count]

    parts = [plan.a[:, None], first(plan.b, width), first(plan.c, noise)]
    names = ["a", *(f"b[{k}]" for k in range(width)), *(f"c[{k}]" for k in range(noise))]
    for name, column in (("raw", plan.raw), ("null", plan.null)):
        if column is not None and column.any():
            parts.append(column[:, None])
            names.append(name)
    if plan.delta is not None:
        parts.append(plan.delta)
        names += [f"δ[{k}]" for k in range(plan.delta.shape[1])]
    return np.concatenate(parts, axis=1), names


def _times(plan: SamplingPlan) -> list[str] | None:
    """The times of each row, in a plan for networks of two times."""
    if plan.to is None:
        return None
    return [f"{t:.4g} → {r:.4g}" for t, r in zip(plan.time, plan.to[:, 0], strict=True)]


def _heat_map(values: Array, names: list[str], title: str, times: list[str] | None = None) -> Any:
    rows, columns = values.shape
    figure, (axes,) = new_axes(1.6 + 0.95 * columns, 1.2 + 0.26 * min(rows, 60))
    largest = float(np.abs(values).max()) or 1.0
    # small coefficients stay visible: the shade grows with the logarithm
    shade = np.sign(values) * np.log1p(9.0 * np.abs(values) / largest) / np.log(10.0)
    axes.imshow(shade, cmap="RdBu", vmin=-1.0, vmax=1.0, aspect="auto", interpolation="nearest")
    axes.grid(False)
    axes.set_xticks(range(columns), names)
    axes.xaxis.tick_top()
    axes.set(ylabel="row" if times is None else "t → r", title=title)
    if times is not None and rows <= _NUMBERED:
        axes.set_yticks(range(rows), times)
    axes.title.set_fontsize(9)
    if rows <= _NUMBERED:
        for (i, k), value in np.ndenumerate(values):
            if value:
                ink = "white" if abs(shade[i, k]) > 0.6 else "black"
                axes.text(k, i, f"{value:.4g}", ha="center", va="center", fontsize=7, color=ink)
    return figure
