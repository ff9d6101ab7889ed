"""The error of samplers over their model calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from ..support.errors import ConfigurationError, shown
from .style import COLORS, DASHES, new_axes

__all__ = ["plot_convergence"]

_MEASURES = ("rms", "median")
_COUNTS = {"nfe": "model calls", "evaluations": "evaluations of the network"}


class _Comparison(Protocol):
    """What is read of a :class:`~.comparison.Comparison`, whose package is above this one."""

    @property
    def entries(self) -> Sequence[Any]: ...

    @property
    def budgets(self) -> Sequence[int]: ...

    def cell(self, entry: str, budget: int) -> Any: ...

    def order_of(self, entry: str) -> float: ...


def plot_convergence(comparison: _Comparison, measure: str = "rms", count: str = "nfe") -> Any:
    """The error of samplers over their model calls, on logarithmic axes, with measured orders and the Pareto front.

    Args:
        comparison: of :func:`~.comparison.compare`, with errors.
        measure: "rms" or "median".
        count: "nfe" (model calls) or "evaluations" (of the network).

    Raises:
        ConfigurationError: matplotlib is not installed, another measure or count, or no cell with an error.
    """
    for where, given, allowed in (("measure", measure, _MEASURES), ("count", count, tuple(_COUNTS))):
        if given not in allowed:
            raise ConfigurationError(f"got {shown(given)}", where=where, suggestion=f"give one of {', '.join(allowed)}")
    lines = {}
    for entry in comparison.entries:
        cells = [comparison.cell(entry.name, budget) for budget in comparison.budgets]
        points = [(getattr(cell, count), getattr(cell, measure), cell.standard_error) for cell in cells if cell.rms > 0]
        if points:
            lines[entry.name] = points
    if not lines:
        raise ConfigurationError(
            "no cell has an error", where="comparison", suggestion="compare deterministic samplers, with a reference"
        )
    figure, (axes,) = new_axes(8.0, 4.2 + 0.16 * len(lines))
    for i, (name, points) in enumerate(lines.items()):
        x, y, error = (list(column) for column in zip(*points, strict=True))
        order = comparison.order_of(name)
        label = name if math.isnan(order) else f"{name} (order {order:.1f})"
        style = {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i // len(COLORS) % len(DASHES)]}
        bars = error if measure == "rms" and not any(map(math.isnan, error)) else None
        axes.errorbar(x, y, yerr=bars, marker="o", markersize=4, capsize=2, label=label, **style)
    front: list[tuple[int, float]] = []
    for calls, error in sorted((p[0], p[1]) for points in lines.values() for p in points):
        if not front or error < front[-1][1]:
            front.append((calls, error))
    axes.plot(*zip(*front, strict=True), color="#999999", linewidth=4, alpha=0.4, zorder=0, label="Pareto front")
    axes.set(xscale="log", yscale="log", xlabel=_COUNTS[count], ylabel=f"error ({measure.replace('rms', 'RMS')})")
    calls_made = {p[0] for points in lines.values() for p in points}
    # numbers beside a budget would lie on it
    ticks = [n for n in calls_made if n in comparison.budgets or all(abs(n / m - 1) > 0.12 for m in comparison.budgets)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure
