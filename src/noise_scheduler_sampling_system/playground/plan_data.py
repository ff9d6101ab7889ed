"""A plan as the page reads it: short, and complete enough to run it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..grids.time_grid import TimeGrid
from ..plans.plan import SamplingPlan
from ..schedules.path import Level, NoisePath
from .numbers import packed

__all__ = ["KINDS", "grid_data", "kind_of", "plan_data"]

#: How α and σ follow from log-SNR: α² + σ² = 1, α + σ = 1, α = 1, or another law.
KINDS = ("preserving", "straight", "exploding", "other")
#: The largest relative error of α and σ for which a path is of a kind.
_ROUNDING = 1e-9


def kind_of(path: NoisePath) -> str:
    """One of :data:`KINDS`."""
    levels = path.levels(np.linspace(path.t_min, path.t_max, 9))
    for kind, law in zip(KINDS, (_preserving, _straight, _exploding), strict=False):
        if all(math.isclose(law(level), 1.0, rel_tol=_ROUNDING) for level in levels):
            return kind
    return KINDS[-1]


def _preserving(level: Level) -> float:
    return math.hypot(level.alpha, level.sigma)


def _straight(level: Level) -> float:
    return level.alpha + level.sigma


def _exploding(level: Level) -> float:
    return level.alpha


def grid_data(grid: TimeGrid) -> dict[str, Any]:
    """The times and log-SNR of a grid, which the plans of all samplers on it share."""
    levels = grid.levels
    log_snr = _log_snr(np.array([level.alpha for level in levels]), np.array([level.sigma for level in levels]))
    return {"time": packed(grid.times), "log_snr": packed(log_snr)}


def plan_data(plan: SamplingPlan, kind: str, grid: TimeGrid | None = None) -> dict[str, Any]:
    """The columns that the page's runner needs, packed (:func:`.numbers.packed`); columns of zeros are left out.

    Args:
        plan: of a sampler. Its unclipped predictions are the clipped ones, because the page's model is not clipped.
        kind: that of the path. Of a path of another law α and σ are written, too.
        grid: written by :func:`grid_data`. If every row is at one of its levels, the rows name it by "at".
    """
    b, c = plan.b.copy(), plan.c
    b[:, 0] += plan.raw
    columns = {"a": plan.a}
    at = None if grid is None else _places(plan, grid)
    if at is None:
        columns |= {"time": plan.time, "log_snr": _log_snr(plan.alpha, plan.sigma)}
    columns |= {f"b{k}": column for k, column in enumerate(b.T) if k == 0 or column.any()}
    columns |= {f"c{k}": column for k, column in enumerate(c.T) if column.any()}
    if plan.null is not None:
        columns["null"] = plan.null
    if kind == KINDS[-1]:
        columns |= {"alpha": plan.alpha, "sigma": plan.sigma}
    data: dict[str, Any] = {
        "space": plan.space,
        "order": plan.order,
        "prior": plan.prior_scale,
        "rows": len(plan),
        "hash": plan.fingerprint,
        "columns": {name: packed(column) for name, column in columns.items()},
    }
    if at is not None:
        data["at"] = at
    if plan.steps != len(plan):
        data["step"] = plan.step.tolist()
    if plan.asks is not None:
        data["asks"] = plan.asks.tolist()
    keys = [
        [step, 0] if noisy else [-1, -1] for step, noisy in zip(plan.step.tolist(), plan.c[:, 0] != 0.0, strict=True)
    ]
    if plan.stochastic and plan.noise_key.tolist() != keys:  # these are what the page takes where none are written
        data["keys"] = plan.noise_key.tolist()
    return data


def _log_snr(alpha: Any, sigma: Any) -> Any:
    with np.errstate(divide="ignore"):  # −∞ without signal, +∞ without noise
        return 2.0 * (np.log(alpha) - np.log(sigma))


def _places(plan: SamplingPlan, grid: TimeGrid) -> list[int] | None:
    """The level of the grid that each row of a plan is at; None where one is at none."""
    known = {(level.t, level.alpha, level.sigma): i for i, level in enumerate(grid.levels)}
    rows = zip(plan.time.tolist(), plan.alpha.tolist(), plan.sigma.tolist(), strict=False)
    found = [known.get(row) for row in rows]
    return None if None in found else [place for place in found if place is not None]
