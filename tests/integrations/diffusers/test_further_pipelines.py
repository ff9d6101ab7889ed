"""PlanScheduler in pipelines whose schedulers have conventions of their own, and in those that start from images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from further_pipelines import FURTHER, make
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler

pytestmark = pytest.mark.filterwarnings("ignore")


def result(pipe: Any, given: dict[str, Any], steps: int) -> Tensor:
    torch.manual_seed(3)  # some pipelines do not pass their generator to the scheduler
    generator = torch.Generator().manual_seed(0)
    made = pipe(**given, num_inference_steps=steps, generator=generator, return_dict=False)[0]
    return torch.as_tensor(made)


def relative(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    assert torch.isfinite(b).all()
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("family", FURTHER)
def test_the_pipeline_makes_the_same(family):
    pipe, given = make(family)
    expected = result(pipe, given, 4)
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
    assert relative(result(pipe, given, 4), expected) < 1e-5
    assert pipe.scheduler.plan.nfe <= 4


def test_sana_sprint_in_its_usual_two_steps():
    pipe, given = make("sana_sprint")
    usual = {name: value for name, value in given.items() if name != "intermediate_timesteps"}
    expected = result(pipe, usual, 2)
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
    assert relative(result(pipe, usual, 2), expected) < 1e-5
    assert pipe.scheduler.timesteps.tolist() == pytest.approx([1.5708, 1.3, 0.0])


@pytest.mark.parametrize("family", ["anyflow", "mochi", "cogvideox_dpm", "stable_audio", "qwen_img2img", "flux2"])
def test_another_method_makes_something_else(family):
    """Or the agreement would say nothing."""
    pipe, given = make(family)
    own = pipe.scheduler
    pipe.scheduler = PlanScheduler.from_config(own)
    expected = result(pipe, given, 4)
    pipe.scheduler = PlanScheduler.from_config(own, method="dpmpp_3m")
    assert 1e-5 < relative(result(pipe, given, 4), expected) < 2.0
