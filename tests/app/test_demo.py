"""The demo shows the default settings, and where samplers differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline
from noise_scheduler_sampling_system.app import demo
from noise_scheduler_sampling_system.support.figures import difference_mosaic, mosaic, save_image


def test_the_demo_draws_two_models_with_the_default_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SHOWN", {"ddim": "DDIM", "unipc": "UniPC"})
    monkeypatch.setattr(demo, "_EXACT", 12)
    panels = demo.compare_samplers(budgets=(2, 4))
    assert [len(panel.comparison.cell("ddim", 2).samples) for panel in panels] == [12, 10]
    for panel in panels:
        for entry in panel.comparison.entries:
            plain = DiffusionPipeline(None, entry.name).plan(4)
            assert panel.comparison.cell(entry.name, 4).plan.content_hash == plain.content_hash
    text = demo.summary(panels)
    for panel in panels:
        assert f"{panel.comparison.cell('unipc', 4).median:.2g}" in text
    demo.draw_comparison(panels, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1500
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert len(demo.compare_samplers(budgets=(3,))) == 1


def test_ink_is_dark_and_differences_are_white_red_or_blue():
    images = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    drawn = mosaic(images, 2)
    assert drawn[0, 0, 0] > 0.9  # the background of a digit is paper
    assert drawn[0, -1, 0] < 0.1  # its strokes are ink
    assert np.array_equal(mosaic(images, 2, paper=False)[0, 0], [0.0, 0.0, 0.0])
    red, white, blue = (difference_mosaic(torch.full((1, 1, 2, 2), d), 1)[0, 0] for d in (1.0, 0.0, -1.0))
    assert red[0] > red[2]
    assert white.tolist() == [1.0, 1.0, 1.0]
    assert blue[2] > blue[0]


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 2, 8, 8), (3, 4, 8, 8), (1, 3, 2, 8, 8), (0, 1, 8, 8)])
def test_a_shape_that_is_no_picture_is_refused(shape, tmp_path):
    with pytest.raises(ConfigurationError, match="are not pictures"):
        save_image(torch.zeros(shape), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
