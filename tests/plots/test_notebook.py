"""In a notebook: short reprs, HTML and figures of what a user holds; help that says ranges."""

from __future__ import annotations

import dataclasses
import pydoc
import re

import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    PlanSet,
    plots,
)
from noise_scheduler_sampling_system.comparison import compare
from noise_scheduler_sampling_system.config.field_notes import field_notes
from noise_scheduler_sampling_system.grids import FrameGrid

PIPELINE = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"), "unipc", order=2)
FRAMES = FrameGrid.pyramid(PIPELINE.grid(4), 5, context=1)
ARGUMENTS = {"shape": (2, 1, 8, 8), "num_inference_steps": 5, "seed": 0}


def test_the_repr_of_a_pipeline_names_what_it_is_made_of():
    text = repr(PIPELINE)
    for part in ("'unipc'", "LinearNoiseScheduler", "'v_prediction'", "'beta57'", "order=2"):
        assert part in text
    assert "\n" not in text


def test_the_reprs_of_steps_states_and_results_hold_no_numbers_of_tensors():
    result = PIPELINE.sample(lambda x, t: x, return_result=True, **ARGUMENTS)
    steps = list(PIPELINE.stream(lambda x, t: x, **ARGUMENTS))
    for value in (result, steps[2], steps[2].state, steps[2].state.state):
        text = repr(value)
        assert "shape (2, 1, 8, 8)" in text
        assert "tensor([" not in text
        assert len(text) < 1200
    assert "t=" in repr(steps[2])


@pytest.fixture(scope="module")
def shown():
    found = compare(["ddim", "unipc"], nfe=(4, 8), shape=(4, 1, 8, 8))
    return {
        "schedule": PIPELINE.scheduler,
        "grid": PIPELINE.grid(6),
        "plan": PIPELINE.plan(6),
        "plans": PlanSet({n: PIPELINE.plan(n) for n in (4, 6)}),
        "pipeline": PIPELINE,
        "result": PIPELINE.sample(lambda x, t: 0.1 * x, return_result=True, profile=True, **ARGUMENTS),
        "vectors": PIPELINE.sample(lambda x, t: 0.1 * x, (2, 5), 4, seed=0, return_result=True),
        "comparison": found,
        "frame grid": FRAMES,
        "frame plan": PIPELINE.plan(grid=FRAMES),
        "frames": PIPELINE.sample(
            lambda x, t: 0.1 * x, (2, 5, 3), grid=FRAMES, context=torch.zeros(2, 1, 3), seed=0, return_result=True
        ),
    }


@pytest.mark.parametrize("name", [
    "schedule", "grid", "plan", "plans", "pipeline", "result", "vectors", "comparison", "frame grid", "frame plan",
    "frames",
])  # fmt: skip
def test_objects_show_text_and_figure(shown, name, monkeypatch):
    value = shown[name]
    assert value.plot().axes
    html = value._repr_html_()
    assert html.startswith("<pre>")
    assert "data:image/png;base64," in html
    monkeypatch.setattr(plots.notebook, "find_spec", lambda module: None)  # without matplotlib
    assert "<img" not in value._repr_html_()
    assert re.sub("<.*?>", "", value._repr_html_()).strip()


def test_frames_are_drawn_by_log_snr_with_a_dot_where_they_move():
    axes = plots.plot_frames(FRAMES).axes[0]
    drawn = axes.images[0].get_array()
    assert drawn.shape == (FRAMES.steps + 1, 5)
    assert (drawn[:, 0] == drawn.max()).all()  # context is clean
    assert (drawn[1:, 1:] >= drawn[:-1, 1:]).all()  # the others become clean
    assert len(axes.lines[0].get_xdata()) == sum(map(sum, FRAMES.moving)) == 4 * PIPELINE.grid(4).steps
    with pytest.raises(ConfigurationError, match="FrameGrid or a FramePlan"):
        plots.plot_frames(PIPELINE.grid(4))


def test_strokes_are_drawn_as_ink_and_other_grey_images_as_they_are():
    digits = PIPELINE.sample(return_result=True, **ARGUMENTS)
    black = PIPELINE.sample(lambda x, t: 0.1 * x, return_result=True, **ARGUMENTS)
    black = dataclasses.replace(black, samples=-torch.ones(2, 1, 8, 8))
    corners = [each.plot().axes[0].images[0].get_array()[0, 0, 0] for each in (digits, black)]
    assert corners == pytest.approx([0.94, 0.0], abs=0.1)


def test_the_convergence_of_a_comparison_is_drawn(shown):
    found = shown["comparison"]
    axes = found.plot().axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    drawn = [container.lines[0].get_ydata() for container in axes.containers]
    for entry, y in zip(found.entries, drawn, strict=True):
        assert list(y) == pytest.approx([found.cell(entry.name, budget).rms for budget in (4, 8)])
    medians = plots.plot_convergence(found, measure="median", count="evaluations").axes[0].containers
    assert list(medians[0].lines[0].get_ydata()) == [found.cell("ddim, leading", budget).median for budget in (4, 8)]
    with pytest.raises(ConfigurationError):
        plots.plot_convergence(found, measure="mean")
    with pytest.raises(ConfigurationError, match="no cell has an error"):
        compare(["ddim"], nfe=3, shape=(2, 1, 8, 8), reference=None).plot()


def test_help_lists_every_field_with_meaning_and_range():
    text = pydoc.plain(pydoc.render_doc(NoiseSchedulerConfig))
    for name, field in NoiseSchedulerConfig.model_fields.items():
        assert f"{name}: " in text
        note = field_notes()[name]
        assert len(note) > 10
        for bound in field.metadata:
            for kind in ("ge", "gt", "le", "lt"):
                limit = getattr(bound, kind, None)
                if limit is not None:
                    assert re.search(rf"\b{limit:g}\b" if limit < 1e6 else r"\b1000000\b", note), (name, kind, limit)


def test_plot_of_something_else_is_refused():
    with pytest.raises(ConfigurationError):
        plots.plot(3)
