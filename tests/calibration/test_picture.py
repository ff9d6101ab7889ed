"""The picture of a calibration shows the plan that was learned, and the branches that its queries evaluate."""

from __future__ import annotations

from dataclasses import replace

from noise_scheduler_sampling_system import DiffusionPipeline, PlanSet
from noise_scheduler_sampling_system.calibration.plot import _figure
from noise_scheduler_sampling_system.guidance import CachedGuidance

PIPELINE = DiffusionPipeline(None, "unipc")
ERROR = {"rms": 0.1, "median": 0.05}


def stated(plan, kind):
    facts = {"kind": kind, "held_out_error": ERROR, "built_in": [{"name": "unipc", "held_out_error": ERROR}]}
    return replace(plan, provenance=facts)


def levels(plans):
    return _figure(plans, PIPELINE.scheduler, "").axes[1]


def test_the_levels_are_those_of_the_largest_budget_that_is_calibrated():
    axes = levels(PlanSet({n: stated(PIPELINE.plan(n), kind) for n, kind in ((3, "fit"), (4, "fit"), (5, "unipc"))}))
    assert axes.get_yticklabels()[0].get_text() == "calibrated, 4 calls"
    assert [len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"] == [4, 4, 4]
    assert axes.get_legend() is None
    only = levels(PlanSet({n: stated(PIPELINE.plan(n), "unipc") for n in (3, 4)}))
    assert only.get_yticklabels()[0].get_text() == "unipc, 4 calls"


def test_queries_of_both_branches_are_filled():
    plan = CachedGuidance(2.0, calls=(0, 1, 3)).folded_into(PIPELINE.plan(5))
    axes = levels(PlanSet({8: stated(plan, "fit")}, "evaluations"))
    assert axes.get_yticklabels()[0].get_text() == "calibrated, guidance 2,\n8 evaluations"
    filled, hollow = (line for line in axes.lines[:3] if line.get_marker() == "o")
    both = plan.both == 1
    noise = plan.sigma[:-1] / plan.alpha[:-1]
    assert (list(filled.get_xdata()), list(hollow.get_xdata())) == (list(noise[both]), list(noise[~both]))
    assert filled.get_markerfacecolor() == filled.get_color() != hollow.get_markerfacecolor()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["both branches", "the condition alone"]
