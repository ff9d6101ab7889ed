"""A given guidance scale acts, is refused or is warned of; a plan's own takes the place of the default."""

from __future__ import annotations

import copy
import logging
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.guidance import (
    CachedGuidance,
    ClassifierFree,
    FrequencyDecoupled,
    Guidance,
    Interval,
    Rescale,
)
from noise_scheduler_sampling_system.pipeline.request import DEFAULT_SCALE, DefaultScale, Request
from noise_scheduler_sampling_system.serving import Batcher

PIPELINE = DiffusionPipeline(NoiseSchedulerConfig(), "dpmpp_2m")
RUN: dict[str, Any] = {"shape": (3, 1, 8, 8), "condition": {"class_labels": torch.tensor([1, 2, 7])}}
FOLDED = CachedGuidance(3.0, calls=(0, 1)).folded_into(PIPELINE.plan(4))


def streamed(**given: Any) -> torch.Tensor:
    return list(PIPELINE.stream(seed=0, **given))[-1].x


def compiled(**given: Any) -> torch.Tensor:
    return PIPELINE.compile(backend="eager", **given)(0)


def served(**given: Any) -> torch.Tensor:
    with Batcher(PIPELINE) as batcher:
        return batcher.submit(seed=0, **given).result()


def sampled(**given: Any) -> torch.Tensor:
    return PIPELINE.sample(seed=0, **given)


@pytest.mark.parametrize("run", [sampled, streamed, compiled, served])
def test_a_plan_of_another_scale_refuses_every_given_scale(run):
    expected = run(plan=FOLDED, **RUN)  # a prepared run of the default is not one of 7.5
    torch.testing.assert_close(run(plan=FOLDED, guidance_scale=3.0, **RUN), expected)
    for scale in (7.5, 7.4, 1.0):
        with pytest.raises(ConfigurationError, match="holds guidance of scale 3") as raised:
            run(plan=FOLDED, guidance_scale=scale, **RUN)
        assert raised.value.where == "guidance_scale"


@pytest.mark.parametrize("guidance", [ClassifierFree(2.0), CachedGuidance(2.0), [CachedGuidance(2.0)], []])
def test_a_scale_beside_guidance_is_refused(guidance):
    for name, value in (("guidance_scale", 5.0), ("guidance_scale", 7.5), ("classifier_free_guidance", False)):
        with pytest.raises(ConfigurationError, match="beside guidance") as raised:
            PIPELINE.sample(num_inference_steps=4, guidance=guidance, **{name: value}, **RUN)
        assert raised.value.where == name


def test_a_given_scale_is_the_interpolation_of_cfg_pp(caplog):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim_cfg_pp")
    run = {**RUN, "num_inference_steps": 4, "seed": 0}
    given = pipeline.sample(guidance_scale=7.5, **run)
    assert "λ from 0 to 1; 7.5" in caplog.text
    assert torch.equal(given, pipeline.sample(guidance=ClassifierFree(7.5), **run))
    assert not torch.allclose(given, pipeline.sample(**run), atol=0.1)


def test_the_default_is_a_number_that_copies_keep():
    for each in (DEFAULT_SCALE, copy.deepcopy(DEFAULT_SCALE), pickle.loads(pickle.dumps(DEFAULT_SCALE))):
        assert each == 7.5
        assert repr(each) == "7.5"
        assert not Request(guidance_scale=each).scale_given
    assert not Request.of({"guidance_scale": DefaultScale(7.0)}).scale_given
    assert Request(guidance_scale=7.5).scale_given
    assert Request.of({"guidance_scale": 7.5}).scale_given


@pytest.mark.parametrize(
    ("guidance", "said"),
    [
        (ClassifierFree(20.0), "this run has 20"),
        ([ClassifierFree(20.0), Rescale(0.5), Interval(0.3, 5.0)], "this run has 20"),
        (CachedGuidance(20.0), "this run has 20"),
        ([], "this run has 1:"),
        (ClassifierFree(3.0), ""),
        (CachedGuidance(3.0), ""),
        (ClassifierFree(("linear", 1.0, 20.0)), ""),  # no one number
        (FrequencyDecoupled(2.0, 20.0), ""),
    ],
)
def test_guidance_of_another_scale_than_a_calibrated_plans_is_warned_of(
    caplog, guidance: Guidance | list[Guidance], said: str
):
    plan = replace(PIPELINE.plan(4), provenance={"guidance_scale": 3.0})
    with caplog.at_level(logging.WARNING):
        PIPELINE.sample(plan=plan, guidance=guidance, seed=0, **RUN)
    assert (f"calibrated at guidance_scale=3, {said}" in caplog.text) if said else not caplog.text
