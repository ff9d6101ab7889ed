"""Figures show the numbers of what they draw."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    FileError,
    NoiseSchedulerFactory,
    plots,
)
from noise_scheduler_sampling_system.guidance import CachedGuidance


def plan(method="dpmpp_2m", steps=6, **options):
    return DiffusionPipeline(None, method, **options).plan(steps)


def guided(steps=6):
    return CachedGuidance(3.0, calls=(0, 2)).folded_into(plan(steps=steps))


def stream(method="ddim", steps=6):
    labels = {"class_labels": torch.arange(10)}
    return DiffusionPipeline(None, method).stream(None, (10, 1, 8, 8), steps, condition=labels, seed=0)


def test_schedules_are_drawn_as_they_are():
    paths = {name: NoiseSchedulerFactory.create(name) for name in ("linear", "cosine", "flow")}
    figure = plots.plot_schedules(paths)
    left, right = figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == list(paths)
    for k, path in enumerate(paths.values()):
        x, alpha = left.lines[2 * k].get_data()
        t = path.t_min + (path.t_max - path.t_min) * x[200]
        assert alpha[200] == pytest.approx(path.level(t).alpha)
        assert right.lines[k].get_ydata()[200] == pytest.approx(
            2.0 * math.log(path.level(t).alpha / path.level(t).sigma)
        )


def test_grids_show_where_the_model_is_evaluated():
    heun = plan("heun", 4)
    figure = plots.plot_grids([heun, DiffusionPipeline().grid(4)])
    first, second = figure.axes[0].lines
    expected = [2.0 * math.log(a / s) for a, s in zip(heun.alpha[:-1], heun.sigma[:-1], strict=True)]
    assert list(first.get_xdata()) == pytest.approx(expected)
    assert len(second.get_xdata()) == 4  # the clean end has no finite log SNR
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["heun", "grid of 4 steps"]


def test_a_plan_is_drawn_with_its_numbers():
    made = plan()
    figure = plots.plot_plan(made)
    texts = {text.get_text() for text in figure.axes[0].texts}
    for value in [*made.a, *made.b[:, :2].ravel()]:
        assert not value or f"{value:.4g}" in texts
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["a", "b[0]", "b[1]"]


def test_a_plan_that_holds_its_guidance_is_drawn_with_its_branches():
    made = guided()
    axes = plots.plot_plan(made).axes[0]
    assert "6 model calls, 8 evaluations, guidance 3" in axes.get_title()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["0  c+u", "1  c", "2  c+u", "3  c", "4  c", "5  c"]
    assert "δ[0]" in [label.get_text() for label in axes.get_xticklabels()]
    long = plots.plot_plan(guided(30)).axes[0]
    assert [label.get_text() for label in long.get_yticklabels()] == ["0  c+u", "2  c+u"]
    minus = plots.plot_plan_difference(made, plan()).axes[0]
    assert minus.get_title() == "dpmpp_2m with guidance 3 minus dpmpp_2m"
    shown = minus.images[0].get_array()
    assert np.any(shown[:, 3:])
    assert not np.any(shown[:, :3])


def test_grids_tell_the_branches_of_a_plan():
    axes = plots.plot_grids([guided(), plan()]).axes[0]
    filled, hollow, plain = axes.lines[:3]
    assert [len(line.get_xdata()) for line in (filled, hollow, plain)] == [2, 4, 6]
    assert filled.get_markerfacecolor() != hollow.get_markerfacecolor()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["both branches", "the condition alone"]
    assert plots.plot_grids([plan()]).axes[0].get_legend() is None


def test_the_difference_of_a_plan_from_itself_is_blank():
    figure = plots.plot_plan_difference(plan(), plan())
    assert not np.any(figure.axes[0].images[0].get_array())
    assert not figure.axes[0].texts
    assert plots.plot_plan_difference(plan("unipc"), plan("unipc", order=2)).axes[0].texts


def test_a_film_strip_shows_the_predicted_clean_samples():
    figure = plots.film_strip(stream(), samples=3, pictures=4)
    assert len(figure.axes) == 4
    last = list(stream())[-1]
    shown = figure.axes[-1].images[0].get_array()
    digit = 0.94 - 0.86 * ((last.pred_original_sample[0, 0] + 1.0) / 2.0).clamp(0.0, 1.0)
    assert np.allclose(shown[:8, :8, 0], digit, atol=1e-6)
    plain = plots.film_strip(stream(), samples=3, pictures=4, paper=False).axes[-1].images[0].get_array()
    brightness = ((last.pred_original_sample[0, 0] + 1.0) / 2.0).clamp(0.0, 1.0)
    assert np.allclose(plain[:8, :8, 0], brightness, atol=1e-6)


def test_grey_images_of_a_model_that_says_nothing_are_shown_as_they_are(tmp_path):
    steps = list(DiffusionPipeline().stream(lambda x, t: x * 0.0, (1, 1, 8, 8), 3, seed=0))
    again = pickle.loads(pickle.dumps(list(stream())[-1]))
    assert again.white_on_black
    assert not steps[-1].white_on_black
    brightness = ((steps[-1].pred_original_sample[0, 0] + 1.0) / 2.0).clamp(0.0, 1.0)
    shown = plots.film_strip(steps, samples=1, pictures=1).axes[-1].images[0].get_array()
    first = ((steps[0].pred_original_sample[0, 0] + 1.0) / 2.0).clamp(0.0, 1.0)
    assert np.allclose(shown[:8, :8, 0], first, atol=1e-6)
    plots.animate(steps, tmp_path / "grey.gif", columns=1)
    with Image.open(tmp_path / "grey.gif") as image:
        image.seek(image.n_frames - 1)  # equal frames are stored once
        frame = np.asarray(image.convert("L"), dtype=float)[::40, ::40] / 255.0
    assert np.allclose(frame, brightness, atol=0.02)


def test_an_animation_has_a_picture_for_each_step(tmp_path):
    plots.animate(stream(steps=5), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 5
    with pytest.raises(FileError, match="ending"):
        plots.animate(stream(), tmp_path / "a.png")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_schedules([]),
        lambda: plots.plot_schedules("linear"),
        lambda: plots.plot_grids([]),
        lambda: plots.plot_grids([3]),
        lambda: plots.plot_plan(3),
        lambda: plots.plot_plan_difference(plan(), plan(steps=7)),
        lambda: plots.film_strip([]),
        lambda: plots.film_strip([3]),
        lambda: plots.film_strip(DiffusionPipeline().stream(lambda x, t: x, (2, 5), 3, seed=0)),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw):
    with pytest.raises(ConfigurationError):
        draw()
