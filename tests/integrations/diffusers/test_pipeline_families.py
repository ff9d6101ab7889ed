"""PlanScheduler in further families of pipelines: AuraFlow, CogVideoX, LTX and Wan, of small random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline
from noise_scheduler_sampling_system.integrations.diffusers import Backbone, PlanScheduler, register_backbone
from noise_scheduler_sampling_system.integrations.diffusers.pipelines.backbones import BACKBONES
from tiny_pipelines import LATENT, SIDE, arguments, build

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


# a family of your own


@pytest.fixture
def auraflow_registered():
    """AuraFlow as the documentation adds it, and the registry put back afterwards."""
    kept = BACKBONES._entries
    page = (Path(__file__).parents[3] / "docs" / "diffusers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "@register_backbone(" in block]
    assert len(block.splitlines()) <= 40
    names: dict[str, Any] = {"__name__": "docs/diffusers.md"}
    exec(compile(block, "docs/diffusers.md", "exec", dont_inherit=True), names)
    yield names["AuraFlow"]
    BACKBONES._entries = kept


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_registered_family_is_the_pipelines_own(auraflow_registered, scale):
    pipe, side = build("auraflow"), SIDE // 2
    x = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(3))
    more = {"guidance_scale": scale, "output_type": "pt"}
    expected = pipe(
        **arguments("auraflow", steps=5, batch=2, **more), latents=x, negative_prompt=["blurred"] * 2
    ).images
    ours = DiffusionPipeline.from_diffusers(pipe)
    assert isinstance(ours.backbone, auraflow_registered)
    images = ours.generate(
        ["a red cat"] * 2, negative_prompt="blurred", height=SIDE, width=SIDE, num_inference_steps=5, initial_noise=x,
        encode_options={"max_sequence_length": 16}, **more,
    )  # fmt: skip
    assert distance(images, expected) < 1e-4
    held = ours.generate(
        "a red cat", image=expected[:1], strength=0.5, height=SIDE, width=SIDE, num_inference_steps=4, seed=0,
        encode_options={"max_sequence_length": 16}, **more,
    )  # fmt: skip
    assert held.shape == (1, 3, SIDE, SIDE)


def test_a_family_that_is_not_registered_is_refused_with_the_ways_out():
    with pytest.raises(ConfigurationError, match="AuraFlowPipeline is not known") as refused:
        DiffusionPipeline.from_diffusers(build("auraflow"))
    assert "register a Backbone" in str(refused.value)


def test_a_name_is_registered_once():
    with pytest.raises(ConfigurationError, match="'FluxPipeline' is taken"):
        register_backbone("FluxPipeline")(type("Other", (Backbone,), {}))
