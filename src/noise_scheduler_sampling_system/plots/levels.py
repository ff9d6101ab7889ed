"""Figures of noise schedules and of the levels that runs visit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..grids.time_grid import TimeGrid
from ..plans.plan import SamplingPlan
from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError, shown
from ..support.figures import explain_queries, mark_queries
from .style import COLORS, named, new_axes

__all__ = ["plot_grids", "plot_schedules"]

_POINTS = 401


def plot_schedules(schedules: NoisePath | Sequence[NoisePath] | Mapping[str, NoisePath]) -> Any:
    """α and σ (left) and log SNR (right) of noise schedules, over the fraction of the way from data to noise.

    Args:
        schedules: one, several, or a mapping from names.

    Raises:
        ConfigurationError: matplotlib is not installed, or not noise schedules.
    """
    figure, (left, right) = new_axes(9.0, 3.6, 2)
    fractions = np.linspace(0.0, 1.0, _POINTS)
    largest = 0.0
    for color, (name, path) in zip(_cycle(), named(schedules, NoisePath, "schedules").items(), strict=False):
        levels = path.levels(path.t_min + (path.t_max - path.t_min) * fractions)
        alpha, sigma = (np.array(v) for v in zip(*((level.alpha, level.sigma) for level in levels), strict=True))
        largest = max(largest, sigma.max())
        left.plot(fractions, alpha, color=color, label=name)
        left.plot(fractions, sigma, color=color, linestyle="--")
        with np.errstate(divide="ignore"):
            right.plot(fractions, 2.0 * (np.log(alpha) - np.log(sigma)), color=color)
    if largest > 5.0:
        left.set_yscale("log")
    left.set(xlabel="from data (0) to noise (1)", title="α (solid) and σ (dashed)")
    right.set(xlabel="from data (0) to noise (1)", title="log SNR")
    left.legend(fontsize=8, frameon=False)
    return figure


def plot_grids(grids: TimeGrid | SamplingPlan | Sequence[Any] | Mapping[str, Any]) -> Any:
    """The levels of grids, or the levels where plans evaluate the model, on an axis of log SNR.

    Of plans that hold their guidance, circles tell the calls that evaluate both branches.

    Args:
        grids: grids or plans: one, several, or a mapping from names.

    Raises:
        ConfigurationError: matplotlib is not installed, or neither grids nor plans.
    """
    items = grids if isinstance(grids, Mapping) else _labelled(grids)
    figure, (axes,) = new_axes(9.0, 1.0 + 0.42 * max(1, len(items)))
    guided = False
    for row, (color, (name, each)) in enumerate(zip(_cycle(), items.items(), strict=False)):
        log_snr = _log_snrs(each, str(name))
        if isinstance(each, SamplingPlan) and each.both is not None:
            both = [bool(u) for u, asks in zip(each.both, each.asked, strict=True) if asks]
            mark_queries(axes, log_snr, row, both, color)
            guided = True
        else:
            finite = [value for value in log_snr if math.isfinite(value)]
            axes.plot(finite, [row] * len(finite), "|", color=color, markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(items)), [str(name) for name in items])
    axes.set_ylim(len(items) - 0.4, -0.6)
    axes.set_xlabel("log SNR: noise on the left, data on the right")
    if guided:
        explain_queries(axes, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def _labelled(grids: Any) -> dict[str, Any]:
    values = list(grids) if isinstance(grids, Sequence) and not isinstance(grids, TimeGrid) else [grids]
    if not values:
        raise ConfigurationError("is empty", where="grids", suggestion="give at least one grid or plan")
    names = [each.sampler if isinstance(each, SamplingPlan) else f"grid of {_count(each)} steps" for each in values]
    return {name if names.count(name) == 1 else f"{name} #{i + 1}": each
            for i, (name, each) in enumerate(zip(names, values, strict=True))}  # fmt: skip


def _count(grid: Any) -> int:
    return len(grid.levels) - 1 if isinstance(grid, TimeGrid) else 0


def _log_snrs(each: Any, name: str) -> list[float]:
    """The log SNR of each level, infinite at the ends of a path."""
    if isinstance(each, TimeGrid):
        levels = list(each.levels)
    elif isinstance(each, SamplingPlan):
        rows = zip(each.time, each.alpha[:-1], each.sigma[:-1], each.asked, strict=True)
        levels = [Level(t, float(alpha), float(sigma)) for t, alpha, sigma, evaluates in rows if evaluates]
    else:
        raise ConfigurationError(f"got {shown(each)}", where=name, suggestion="give a TimeGrid or a SamplingPlan")
    return [2.0 * level.half_log_snr for level in levels]


def _cycle() -> Any:
    while True:
        yield from COLORS
