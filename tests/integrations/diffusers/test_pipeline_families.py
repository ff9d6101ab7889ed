"""PlanScheduler in further families of pipelines: AuraFlow, CogVideoX, LTX and Wan, of small random weights."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from tiny_pipelines import LATENT, arguments, build

FAMILIES = ["auraflow", "cogvideox", "ltx", "wan"]
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def latents(pipe: Any, kind: str) -> torch.Tensor:
    torch.manual_seed(3)  # LTX does not pass its generator to the scheduler
    return pipe(**arguments(kind, steps=5), return_dict=False)[0]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    assert torch.isfinite(b).all()
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize(
    ("kind", "scheduler"),
    [
        *((kind, None) for kind in FAMILIES),
        ("auraflow", diffusers.FlowMatchHeunDiscreteScheduler(shift=1.73)),
        ("auraflow", diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73, use_karras_sigmas=True)),
        ("cogvideox", diffusers.DPMSolverMultistepScheduler(**LATENT, prediction_type="v_prediction")),
        ("cogvideox", diffusers.EulerDiscreteScheduler(**LATENT, prediction_type="v_prediction")),
        ("ltx", diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0, stochastic_sampling=True)),
        ("wan", diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)),
        ("wan", diffusers.DPMSolverMultistepScheduler(**FLOW)),
        ("wan", diffusers.UniPCMultistepScheduler(**FLOW, solver_order=3)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_a_twin_in_a_further_family(kind, scheduler):
    pipe = build(kind, scheduler)
    expected = latents(pipe, kind)
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
    assert distance(latents(pipe, kind), expected) < 1e-5


@pytest.mark.parametrize("kind", FAMILIES)
def test_another_method_in_a_further_family(kind):
    pipe = build(kind)
    expected = latents(pipe, kind)
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler, method="dpmpp_3m")
    assert 1e-4 < distance(latents(pipe, kind), expected) < 0.5
