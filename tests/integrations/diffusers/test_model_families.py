"""Wan, LTX, FLUX.2 and Qwen-Image behind ``generate``: each against its own pipeline, from the same noise."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline
from noise_scheduler_sampling_system.integrations.diffusers.pipelines.backbones import BACKBONES
from noise_scheduler_sampling_system.integrations.diffusers.pipelines.backbones.tokens import to_tokens
from tiny_pipelines import FLOW, arguments, build, image, ltx_vae, qwen_transformer, wan_transformer

KINDS = ["flux2", "flux2_klein", "qwen", "wan", "ltx"]
PROMPT = "a red cat"


def relative(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    assert torch.isfinite(b).all()
    return float((a - b).abs().max() / b.abs().max())


def noise(ours: Any, given: dict[str, Any], batch: int) -> Tensor:
    """Unit noise in the shape of x, as the run itself reads it."""
    size = {name: given[name] for name in ("height", "width", "num_frames") if name in given}
    shape = ours.inputs(prompt=[PROMPT] * batch, encode_options=options_of(given), **size)["shape"]
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def options_of(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("max_sequence_length", "text_encoder_out_layers") if name in given}


def as_theirs(kind: str, pipe: Any, x: Tensor) -> Tensor:
    """x in the shape of the pipeline's latents."""
    if kind == "qwen":
        return to_tokens(x)
    return pipe._pack_latents(x, 1, 1) if kind == "ltx" else x


def both(
    kind: str, pipe: Any, *, batch: int = 2, negative: str | None = "blurred", **more: Any
) -> tuple[Tensor, Tensor]:
    """The pixels of generate, and those of the pipeline."""
    ours = DiffusionPipeline.from_diffusers(pipe)
    given = arguments(kind, steps=4, seed=None, batch=batch, output_type="pt", **more)
    x = noise(ours, given, batch)
    negatives = {} if negative is None or "flux2" in kind else {"negative_prompt": [negative] * batch}
    made = pipe(**given, **negatives, latents=as_theirs(kind, pipe, x))
    expected = made.frames if hasattr(made, "frames") else made.images
    size = {name: given[name] for name in ("height", "width", "num_frames") if name in given}
    scale = given.get("true_cfg_scale", given.get("guidance_scale"))
    got = ours.generate(
        [PROMPT] * batch, num_inference_steps=4, guidance_scale=scale, initial_noise=x, output_type="pt",
        encode_options=options_of(given), **negatives, **size,
    )  # fmt: skip
    return got, expected


@pytest.mark.parametrize("kind", KINDS)
def test_generate_is_the_pipelines_own(kind):
    assert relative(*both(kind, build(kind))) < 1e-5


@pytest.mark.parametrize("kind", ["flux2_klein", "qwen", "wan", "ltx"])
def test_without_guidance(kind):
    # Qwen-Image has no second branch without a negative prompt, whatever the scale
    more = {} if kind == "qwen" else {"guidance_scale": 1.0}
    assert relative(*both(kind, build(kind), batch=1, negative=None, **more)) < 1e-5


@pytest.mark.parametrize(
    ("kind", "scheduler"),
    [
        ("wan", diffusers.FlowMatchEulerDiscreteScheduler(**FLOW)),
        ("qwen", diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)),
    ],
)
def test_with_another_scheduler(kind, scheduler):
    assert relative(*both(kind, build(kind, scheduler), batch=1)) < 1e-5


def with_parts(cls: Any, kind: str, **parts: Any) -> Any:
    """A tiny pipeline with other parts and settings."""
    pipe = cls(**{**build(kind).components, **parts})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_both_experts_of_wan_2_2():
    with torch.random.fork_rng():
        torch.manual_seed(8)
        second = type(wan_transformer()).from_config(wan_transformer().config).eval().requires_grad_(False)
    made = {}
    for ratio in (0.8, 0.0):
        pipe = with_parts(diffusers.WanPipeline, "wan", transformer_2=second, boundary_ratio=ratio)
        got, made[ratio] = both("wan", pipe, batch=1)
        assert relative(got, made[ratio]) < 1e-5
    assert relative(made[0.8], made[0.0]) > 1e-3  # the second one is used


def test_wan_2_2_5b_tells_every_token_the_time():
    pipe, told = with_parts(diffusers.WanPipeline, "wan", expand_timesteps=True), []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, given: told.append(given["timestep"]), with_kwargs=True
    )
    with hook:
        assert relative(*both("wan", pipe)) < 1e-5
    shapes = {tuple(each.shape) for each in told}
    assert len({tokens for _, tokens in shapes}) == 1  # their calls and ours; the branches may be one batch
    assert all(tokens > 1 for _, tokens in shapes)


def test_ltx_with_a_decoder_that_is_told_a_time():
    """0, the default of its pipeline."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        vae = type(ltx_vae()).from_config(ltx_vae().config, timestep_conditioning=True).eval()
    pipe = with_parts(diffusers.LTXPipeline, "ltx", vae=vae)
    assert relative(*both("ltx", pipe, batch=1)) < 1e-5
    x = torch.ones(1, 8, 2, 1, 1)
    with torch.no_grad():
        early, late = (vae.decode(x, torch.tensor([t]), return_dict=False)[0] for t in (0.0, 0.05))
    assert relative(late, early) > 0.1


def test_a_qwen_image_that_is_told_the_scale_is_refused():
    other = type(qwen_transformer()).from_config(qwen_transformer().config, guidance_embeds=True)
    with pytest.raises(ConfigurationError, match="guidance_embeds=False"):
        DiffusionPipeline.from_diffusers(with_parts(diffusers.QwenImagePipeline, "qwen", transformer=other))


def test_shift_of_flux_2_depends_on_size_and_steps():
    ours = DiffusionPipeline.from_diffusers(build("flux2"))
    grids = {(n, side): ours.plan(n, height=side, width=side).sigma[1] for n, side in ((4, 16), (4, 32), (8, 16))}
    assert len(set(grids.values())) == 3
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    pipe = build("flux2")
    pipe.scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=compute_empirical_mu(16, 4))
    assert grids[4, 16] == pytest.approx(float(pipe.scheduler.sigmas[1]), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_any_sampler_runs(kind):
    ours = DiffusionPipeline.from_diffusers(build(kind), "dpmpp_2m")
    given = arguments(kind)
    size = {name: given[name] for name in ("height", "width", "num_frames") if name in given}
    made = ours.generate(
        PROMPT, num_inference_steps=3, seed=0, output_type="latent", encode_options=options_of(given), **size
    )
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("kind", ["flux2", "qwen"])
def test_images_are_encoded_and_decoded(kind):
    """Encoding is the inverse of the decoder's scaling, so a run of strength near 0 keeps the latents of the image."""
    ours, given = DiffusionPipeline.from_diffusers(build(kind), "euler"), arguments(kind)
    held = ours.generate(
        PROMPT, image=image(), strength=0.02, num_inference_steps=1, seed=0, output_type="latent", height=16, width=16,
        encode_options=options_of(given),
    )  # fmt: skip
    other = ours.generate(
        PROMPT, image=image(seed=5), strength=0.02, num_inference_steps=1, seed=0, output_type="latent", height=16,
        width=16, encode_options=options_of(given),
    )  # fmt: skip
    assert held.shape == other.shape
    assert relative(held, other) > 0.05
    assert ours.backbone.decode(held).shape == (1, 3, 16, 16)


BAD = [
    ("wan", {"num_frames": 6}, "give 5 or 9"), ("qwen", {"num_frames": 5}, "makes images"),
    ("ltx", {"image": image()}, "PlanScheduler"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "wrong", "message"), BAD, ids=lambda value: str(value)[:20])
def test_what_cannot_work_is_refused(kind, wrong, message):
    ours, given = DiffusionPipeline.from_diffusers(build(kind)), arguments(kind)
    size = {name: given[name] for name in ("height", "width", "num_frames") if name in given}
    with pytest.raises(ConfigurationError, match=message):
        ours.generate(PROMPT, num_inference_steps=2, encode_options=options_of(given), **{**size, **wrong})


def test_other_pipelines_of_these_families_are_refused_with_the_way_out():
    assert {"Flux2Pipeline", "Flux2KleinPipeline", "QwenImagePipeline", "WanPipeline", "LTXPipeline"} <= set(BACKBONES)
    with pytest.raises(ConfigurationError, match="CogVideoXPipeline is not known") as refused:
        DiffusionPipeline.from_diffusers(build("cogvideox"))
    assert "PlanScheduler" in str(refused.value)
