"""Runs on the server: the embedded network, and pipelines of diffusers with and without prompts."""

from __future__ import annotations

from typing import Any

import pytest

import tiny_pipelines
from noise_scheduler_sampling_system import ConfigurationError
from noise_scheduler_sampling_system.integrations.named_models import NamedModel, named_model
from noise_scheduler_sampling_system.playground.request import RunRequest
from noise_scheduler_sampling_system.playground.studio import Studio

RUN: dict[str, Any] = {
    "path": "linear", "grid": "trailing", "sampler": "ddim", "steps": 2, "path_options": {}, "grid_options": {},
    "options": {}, "levels": None, "guidance": 2.0, "seed": 0, "digits": "any",
}  # fmt: skip


def test_the_embedded_network_is_offered_on_the_path_that_it_knows():
    studio = Studio(named_model("mnist"))
    catalog = studio.catalog()
    assert [path["name"] for path in catalog["paths"]] == ["linear"]
    assert (catalog["samples"], catalog["model"]["classes"], catalog["model"]["guided"]) == (6, 10, True)
    frames = list(studio.run(RunRequest.of({**RUN, "digits": "each"})))
    assert [(frame["calls"], frame["shape"]) for frame in frames] == [(n, [1, 28, 28]) for n in range(3)]


def test_a_pipeline_of_diffusers_draws_its_images():
    studio = Studio(NamedModel("folder", pipe=tiny_pipelines.ddpm()))
    assert studio.catalog()["model"]["guided"] is False
    assert [frame["count"] for frame in studio.run(RunRequest.of(RUN))] == [6, 6, 6]


def test_a_pipeline_that_takes_texts_draws_one_image_for_each():
    studio = Studio(NamedModel("folder", pipe=tiny_pipelines.stable_diffusion()), ["a cat", "a dog"])
    assert studio.catalog()["samples"] == 2
    frames = list(studio.run(RunRequest.of(RUN)))
    assert [(frame["count"], frame["shape"]) for frame in frames] == [(2, [3, 16, 16])] * 3, "decoded"
    with pytest.raises(ConfigurationError, match=r"prompt: is missing|prompt"):
        next(Studio(NamedModel("folder", pipe=tiny_pipelines.stable_diffusion())).run(RunRequest.of(RUN)))


def test_a_text_for_a_model_that_takes_none_is_refused():
    with pytest.raises(ConfigurationError, match="prompt: mnist takes none"):
        Studio(named_model("mnist"), ["a cat"])


def test_few_large_images_are_made_at_a_time():
    assert Studio(NamedModel("large", model=lambda x, t: x, shape=(3, 256, 256))).count == 1
