"""Wan 2.2: the run of its pipeline in diffusers, with both transformers, and ours."""

from __future__ import annotations

import copy

import diffusers
import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, SamplingPlan
from noise_scheduler_sampling_system.guidance import ClassifierFree
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler, experts_of, read
from noise_scheduler_sampling_system.models import Experts
from tiny_pipelines import _t5_parts, wan, wan_transformer, wan_vae

STEPS, SHAPE = 6, (1, 16, 3, 8, 8)


@pytest.fixture(scope="module")
def pipe() -> diffusers.WanPipeline:
    second = copy.deepcopy(wan_transformer())  # the first is made once a process
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(0.6)
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    made = diffusers.WanPipeline(
        **_t5_parts(), vae=wan_vae(), transformer=wan_transformer(), transformer_2=second, scheduler=scheduler,
        boundary_ratio=0.875,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def its_own_run(pipe: diffusers.WanPipeline, latents: torch.Tensor) -> torch.Tensor:
    return pipe(
        "a cat", negative_prompt="bad", height=64, width=64, num_frames=9, num_inference_steps=STEPS, latents=latents,
        guidance_scale=4.0, guidance_scale_2=2.0, output_type="latent",
    ).frames  # fmt: skip


def test_a_run_of_both_transformers_is_that_of_the_pipeline(pipe, latents):
    """UniPC with history over the switch, and guidance 4 and 2."""
    theirs = its_own_run(pipe, latents)
    own, null = pipe.encode_prompt("a cat", "bad", device=torch.device("cpu"), max_sequence_length=512)
    experts = experts_of(pipe)
    plan = SamplingPlan.trace(pipe.scheduler, STEPS)  # with its levels and its whole timesteps
    assert set(experts.rows(plan)) == {"high", "low"}
    sampler = DiffusionPipeline(read(pipe.scheduler).config, "unipc")

    def run(model: Experts) -> torch.Tensor:
        return sampler.sample(
            model, plan=plan, initial_noise=latents, condition={"encoder_hidden_states": own},
            null_condition={"encoder_hidden_states": null}, guidance=ClassifierFree(experts.scale(high=4.0, low=2.0)),
        )  # fmt: skip

    most = float(theirs.abs().max())
    assert most > 0.5
    torch.testing.assert_close(run(experts), theirs, rtol=0, atol=1e-5 * most)
    only_high = run(Experts(pipe.transformer, pipe.transformer, boundary=0.875))
    assert float((only_high - theirs).abs().max()) > 1e-2 * most  # the networks differ


def test_a_plan_scheduler_runs_inside_the_pipeline_with_its_switch(pipe, latents):
    theirs = its_own_run(pipe, latents)
    before = pipe.scheduler
    try:
        pipe.scheduler = PlanScheduler.from_config(before.config)
        torch.testing.assert_close(its_own_run(pipe, latents), theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    finally:
        pipe.scheduler = before


def test_generate_takes_a_scale_for_each_network(pipe, latents):
    pipeline = DiffusionPipeline.from_diffusers(pipe)
    scales = pipeline.backbone.network.scale(high=4.0, low=2.0)
    made = pipeline.generate(
        "a cat", negative_prompt="bad", height=64, width=64, num_frames=9, num_inference_steps=STEPS,
        initial_noise=latents, guidance=ClassifierFree(scales), output_type="latent",
    )  # fmt: skip
    theirs = its_own_run(pipe, latents)
    torch.testing.assert_close(made, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_a_pipeline_of_one_network_is_refused():
    with pytest.raises(ConfigurationError, match="has not two transformers"):
        experts_of(wan())
