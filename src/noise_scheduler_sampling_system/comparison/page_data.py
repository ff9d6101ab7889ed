"""What the script of a comparison's page draws, as plain data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..plans.plan import SamplingPlan
from ..plans.plan_rows import Array
from ..schedules.path import Level, NoisePath
from ..support.registry import Registry
from .comparison import Cell, Comparison, Entry
from .snippets import as_diffusers, as_python, as_yaml

__all__ = ["page_data"]

#: Points of a schedule's curve.
_POINTS = 201


def page_data(comparison: Comparison) -> dict[str, Any]:
    """Budgets, entries with their errors and code, plans and noise schedules."""
    plans = []
    for each in comparison.entries:
        for budget in comparison.budgets:
            cell = comparison.cell(each.name, budget)
            if cell.plan is not None:
                plans.append(_plan(cell.plan, cell, each))
    return {
        "unit": comparison.unit,
        "budgets": list(comparison.budgets),
        "entries": [_entry(comparison, each) for each in comparison.entries],
        "plans": plans,
        "paths": _paths(comparison),
        "references": list(dict.fromkeys(map(str, comparison.references.values()))),
    }


def _entry(comparison: Comparison, entry: Entry) -> dict[str, Any]:
    cells = [comparison.cell(entry.name, budget) for budget in comparison.budgets]
    measured = [cell for cell in cells if not math.isnan(cell.rms)]
    order = comparison.order_of(entry.name)
    return {
        "name": entry.name,
        "budget": [cell.budget for cell in measured],
        "nfe": [cell.nfe for cell in measured],
        "evaluations": [cell.evaluations for cell in measured],
        "rms": [cell.rms for cell in measured],
        "standard_error": [_number(cell.standard_error) for cell in measured],
        "median": [cell.median for cell in measured],
        "order": _number(order),
        "stochastic": entry.stochastic,
        "code": {
            str(cell.budget): {
                "python": as_python(entry, cell, comparison.about),
                "yaml": as_yaml(entry, cell),
                "diffusers": as_diffusers(entry, cell, comparison.about),
            }
            for cell in cells
            if not cell.problem
        },
    }


def _plan(plan: SamplingPlan, cell: Cell, entry: Entry) -> dict[str, Any]:
    """Levels, weights and evaluations of a plan."""
    b = _used(plan.b)
    delta = np.zeros((len(plan), 0)) if plan.delta is None else _used(plan.delta)
    return {
        "entry": entry.name,
        "budget": cell.budget,
        "hash": plan.content_hash,
        "space": plan.space,
        "log_snr": [_number(2.0 * level.half_log_snr) for level in _levels(plan)],
        "time": [_number(t) for t in plan.time],
        "a": plan.a.tolist(),
        "b": b.tolist(),
        "delta": delta.tolist(),
        "noise": np.abs(plan.c).sum(axis=1).tolist() if plan.stochastic else None,
        "gains": plan.gains.tolist(),
        "branches": [list(names) for names in cell.branches_by_row],
        "kept": _kept(b),
        "kept_differences": _kept(delta),
    }


def _used(columns: Array) -> Array:
    """The columns up to the last that is not zero everywhere, at least one."""
    used = np.flatnonzero(columns.any(axis=0))
    return columns[:, : int(used[-1]) + 1 if len(used) else 1]


def _kept(columns: Array) -> list[list[int]]:
    """For each row, the earlier rows that it reads."""
    return [[i - k for k in range(1, min(i + 1, columns.shape[1])) if columns[i, k]] for i in range(len(columns))]


def _levels(plan: SamplingPlan) -> list[Level]:
    """The levels of the rows of a plan, and of its end."""
    times = [*plan.time.tolist(), math.nan]
    return [Level(*each) for each in zip(times, plan.alpha.tolist(), plan.sigma.tolist(), strict=True)]


def _paths(comparison: Comparison) -> list[dict[str, Any]]:
    """The curves of the noise schedules, each once, under a short name where it tells them apart."""
    paths: list[NoisePath] = []
    for each in comparison.entries:
        path = each.pipeline.scheduler.spaced("leading")
        if path not in paths:
            paths.append(path)
    names = [Registry.key(path.config.beta_schedule) for path in paths]
    return [
        _path(path, name if names.count(name) == 1 else f"{name} #{i + 1}")
        for i, (path, name) in enumerate(zip(paths, names, strict=True))
    ]


def _path(path: NoisePath, name: str) -> dict[str, Any]:
    times = np.linspace(path.t_min, path.t_max, _POINTS)
    levels = path.levels(times)
    return {
        "name": name,
        "fraction": np.linspace(0.0, 1.0, _POINTS).tolist(),
        "alpha": [level.alpha for level in levels],
        "sigma": [level.sigma for level in levels],
        "log_snr": [_number(2.0 * level.half_log_snr) for level in levels],
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
