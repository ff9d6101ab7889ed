"""What a calibration says of its end: a built-in sampler that nothing beat, one rule for the best, and its bar."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, PlanSet, calibrate
from noise_scheduler_sampling_system.app.commands.calibrate import _comparison, _found
from noise_scheduler_sampling_system.calibration import plot
from noise_scheduler_sampling_system.calibration.progress import WorkGauge
from noise_scheduler_sampling_system.calibration.search.gate import Gate
from noise_scheduler_sampling_system.calibration.student import CallCounter


def test_an_end_with_a_built_in_sampler_is_said_everywhere(caplog, tmp_path, monkeypatch):
    """The design has the smaller median and the larger root mean square."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig())
    with caplog.at_level(logging.WARNING):
        plan = calibrate(
            None, pipeline, shape=(1, 8, 8), nfe=4, trajectories=16, passes=12, teacher_calls=16, stages=["design"]
        )
    about = plan.provenance
    best, ours = about["built_in"][0]["held_out_error"], about["fitted"]["held_out_error"]
    assert about["calibrated"] is False
    assert about["held_out_error"] == best
    assert ours["rms"] > best["rms"]
    assert ours["median"] < best["median"]
    assert best["rms"] == min(entry["held_out_error"]["rms"] for entry in about["built_in"])
    assert f"4 calls: the built-in sampler {about['kind']} is returned" in caplog.text
    for figure in (best["rms"], best["median"], ours["rms"], ours["median"]):
        assert f"{figure:.3g}" in caplog.text
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(plot, "write_atomic", lambda path, data: None)
    inner = plot._errors

    def errors(axes: Any, plans: PlanSet) -> None:
        inner(axes, plans)
        drawn.update({line.get_label(): list(line.get_ydata()) for line in axes.lines})

    monkeypatch.setattr(plot, "_errors", errors)
    plot.draw(PlanSet({4: plan}), pipeline.scheduler, tmp_path / "a.png")
    assert drawn["best built-in, rms"] == [best["rms"]]
    assert drawn["best built-in, median"] == [best["median"]]  # of the same sampler, not the smallest of any
    assert drawn["a built-in sampler is returned"] == [best["rms"]]


class Bar:
    disable, n = False, 0.0

    def update(self, more: float) -> None:
        assert more >= 0.0
        self.n += more


@pytest.mark.parametrize("seconds", [None, 1e9])
def test_the_bar_goes_from_0_to_100_by_the_work_of_all_parts(seconds):
    bar, calls = Bar(), CallCounter()
    gauge = WorkGauge(bar, calls, {0: 100.0, 4: 300.0, 8: 600.0}, seconds)
    gauge.show()
    assert bar.n == pytest.approx(0.0, abs=1e-6)
    calls.samples = 50
    gauge.show()
    assert bar.n == pytest.approx(5.0)
    gauge.finish(0)
    assert bar.n == pytest.approx(10.0)
    calls.samples = 200  # half of what the next part may take
    gauge.show()
    assert bar.n == pytest.approx(25.0)
    gauge.finish(4)  # early
    calls.samples = 10_000  # more than was planned
    gauge.show()
    assert bar.n == pytest.approx(100.0)
    gauge.finish(8)
    assert bar.n == pytest.approx(100.0)


def test_a_gain_that_no_start_has_leaves_the_built_in_samplers():
    told = {"shape": (1, 8, 8), "nfe": 2, "trajectories": 4, "passes": 4, "teacher_calls": 8}
    plan = calibrate(None, DiffusionPipeline(), stages=("fit", "refine"), max_gain=1e-3, **told)
    assert plan.provenance["calibrated"] is False


def test_where_no_built_in_sampler_runs_the_table_is_returned_and_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(Gate, "built_in", lambda *_: [])
    told = {"shape": (1, 8, 8), "nfe": 2, "trajectories": 4, "passes": 4, "teacher_calls": 8}
    pipeline = DiffusionPipeline()
    plan = calibrate(None, pipeline, **told)
    assert plan.provenance["calibrated"] is True
    assert plan.provenance["built_in"] == []
    plot.draw(PlanSet({2: plan}), pipeline.scheduler, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
    assert _comparison(PlanSet({2: plan}))[1][4:] == ("none runs", "", "")
    assert _found(plan)["built_in"] is None
