"""The picture of a calibration: the errors over the number of model calls, and the levels of the queries."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from ..grids.time_grid import make_grid
from ..plans.plan import SamplingPlan
from ..plans.plan_set import PlanSet
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from ..support.figures import explain_queries, figure_class, mark_queries
from ..support.files import write_atomic
from .search.search import STAGES

__all__ = ["draw", "is_calibrated"]

_OURS, _OTHERS, _GREY = "#c1440e", "#3b6ea5", "#8a8a8a"
_GRIDS = (("karras", "Karras (ρ = 7)"), ("log_snr", "even in log-SNR"))


def draw(plans: PlanSet, schedule: NoisePath, path: str | os.PathLike[str], title: str = "") -> None:
    """Draw the held-out errors of calibrated and built-in plans over the number of model calls, and the fitted levels.

    Args:
        plans: the plans of :func:`calibrate`.
        schedule: their noise schedule.
        path: the .png file to write.
        title: the title of the picture.

    Raises:
        ConfigurationError: a plan was not made by a calibration, or matplotlib is missing.
        FileError: the file cannot be written.
    """
    if any("held_out_error" not in plan.provenance for plan in plans.values()):
        raise ConfigurationError(
            "a plan has no calibration in its provenance", where="plans", suggestion="draw what calibrate() returned"
        )
    buffer = io.BytesIO()
    _figure(plans, schedule, title).savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())


def _figure(plans: PlanSet, schedule: NoisePath, title: str) -> Any:
    figure = figure_class()(figsize=(9.4, 3.9), dpi=180, facecolor="white", layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11, weight="bold", x=0.01, ha="left")
    errors, levels = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _errors(errors, plans)
    _levels(levels, plans, schedule)
    for axes in (errors, levels):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure


def is_calibrated(plan: SamplingPlan) -> bool:
    """Return whether a plan was found by a calibration, and is not the built-in sampler's that nothing beat."""
    own = (*STAGES, "grown", "outline")  # plans of older files hold only their kind
    return bool(plan.provenance.get("calibrated", plan.provenance.get("kind") in own))


def _errors(axes: Any, plans: PlanSet) -> None:
    budgets = list(plans)
    for nfe, plan in plans.items():
        others = [entry["held_out_error"]["rms"] for entry in plan.provenance["built_in"]]
        axes.plot([nfe] * len(others), others, "_", color=_OTHERS, alpha=0.35, markersize=9)
    for key, style in (("rms", "-"), ("median", ":")):
        ours = [plan.provenance["held_out_error"][key] for plan in plans.values()]
        known = {n: plan.provenance["built_in"][0] for n, plan in plans.items() if plan.provenance["built_in"]}
        best = [entry["held_out_error"][key] for entry in known.values()]
        axes.plot(budgets, ours, style, marker="o", color=_OURS, label=f"calibrated, {key}")
        axes.plot(list(known), best, style, marker="s", color=_OTHERS, label=f"best built-in, {key}", markersize=4)
    taken = {n: plan.provenance["held_out_error"]["rms"] for n, plan in plans.items() if not is_calibrated(plan)}
    if taken:
        axes.plot(
            list(taken), list(taken.values()), "o", color="white", markeredgecolor=_OURS, markersize=8, zorder=3,
            label="a built-in sampler is returned",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xticks(budgets)
    axes.set_xlabel("model calls" if plans.counts == "nfe" else plans.counts_in_words, fontsize=9)
    axes.set_ylabel("error to the fine solution, held-out noise", fontsize=9)
    axes.legend(fontsize=7.5, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _levels(axes: Any, plans: PlanSet, schedule: NoisePath) -> None:
    number, plan = max(plans.items(), key=lambda item: (is_calibrated(item[1]), item[0]))
    asked = [i for i in range(len(plan)) if plan.asked[i]]
    name = "calibrated" if is_calibrated(plan) else str(plan.provenance["kind"])
    guided = "" if plan.scale is None else f"guidance {plan.scale:g},\n"
    rows = [(f"{name}, {guided}{number} {plans.counts_in_words}", plan.sigma[asked] / plan.alpha[asked], _OURS)]
    for spacing, name in _GRIDS:
        grid = make_grid(schedule.spaced(spacing), plan.nfe)
        rows.append((name, np.array([v.noise_to_signal for v in grid.levels[:-1]]), _GREY))
    for y, (_, noise, color) in enumerate(rows):
        if plan.both is not None and y == 0:
            mark_queries(axes, noise.tolist(), -y, plan.both[asked].astype(bool).tolist(), color)
        else:  # a grid says nothing of branches
            axes.plot(noise, np.full(len(noise), -y), "o" if plan.both is None else "|", color=color, markersize=5)
        axes.axhline(-y, color=color, linewidth=0.5, alpha=0.4, zorder=0)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_yticks([-y for y in range(len(rows))], [name for name, _, _ in rows], fontsize=8)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.set_xlabel("σ/α at which the model is evaluated", fontsize=9)
    if plan.both is not None:
        explain_queries(axes, loc="upper center", bbox_to_anchor=(0.5, -0.16))
