"""Pipelines of diffusers run by this library: the same images as their own, and everything that only ours does."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

import tiny_pipelines as tiny
from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, SamplingPlan, guidance
from noise_scheduler_sampling_system.integrations.diffusers.pipelines.image_request import ImageRequest, prompt_of
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

TEXT = ["sd", "sdxl", "sd3", "pixart", "flux"]
LENGTH = {"sd3", "flux", "pixart"}
STEPS = 5


def noise(batch: int = 2, channels: int = 4, seed: int = 3) -> Tensor:
    return torch.randn(batch, channels, tiny.SIDE // 2, tiny.SIDE // 2, generator=torch.Generator().manual_seed(seed))


def extra(kind: str) -> dict[str, Any]:
    return {"encode_options": {"max_sequence_length": 16}} if kind in LENGTH else {}


def asked(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "height": tiny.SIDE,
        "width": tiny.SIDE,
        "num_inference_steps": STEPS,
        "output_type": "pt",
        **extra(kind),
        **more,
    }


def theirs(kind: str, pipe: Any, x: Tensor, **more: Any) -> Tensor:
    given = tiny.arguments(kind, steps=STEPS, batch=len(x), **{"output_type": "pt", **more})
    given = {k: v for k, v in given.items() if v is not None}
    latents = x if kind != "flux" else pipe._pack_latents(x, len(x), 4, tiny.SIDE // 2, tiny.SIDE // 2)
    return pipe(**given, latents=latents).images


def difference(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


@pytest.fixture
def posterior_mean(monkeypatch):
    """diffusers draws its image latents from the encoder's distribution, here its mean is taken."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean)


def draw(monkeypatch: Any, module: str, noise: Any) -> None:
    """Let a module of diffusers draw this noise."""
    monkeypatch.setattr(importlib.import_module(f"diffusers.{module}"), "randn_tensor", lambda *_, **__: noise())


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("kind", TEXT)
def test_text_to_image_is_the_pipelines_own(kind, scale):
    pipe, x = tiny.build(kind), noise()
    got = DiffusionPipeline.from_diffusers(pipe).generate(
        ["a cat", "two dogs"], guidance_scale=scale, initial_noise=x, **asked(kind)
    )
    expected = theirs(kind, pipe, x, prompt=["a cat", "two dogs"], guidance_scale=scale)
    assert got.shape == (2, 3, tiny.SIDE, tiny.SIDE)
    assert difference(got, expected) < 1e-4


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "pixart"])
def test_negative_prompts_and_several_images_a_prompt(kind):
    pipe, x = tiny.build(kind), noise(4)
    words = {"negative_prompt": ["red", "blurred"], "guidance_scale": 4.0}
    prompts = ["a cat", "two dogs"]
    got = DiffusionPipeline.from_diffusers(pipe).generate(
        prompts, num_images_per_prompt=2, initial_noise=x, **words, **asked(kind)
    )
    expected = theirs(kind, pipe, x, prompt=prompts, num_images_per_prompt=2, **words)
    assert difference(got, expected) < 1e-4
    plain = DiffusionPipeline.from_diffusers(pipe).generate(
        prompts, num_images_per_prompt=2, initial_noise=x, guidance_scale=4.0, **asked(kind)
    )
    assert difference(got, plain) > 1e-4


SCHEDULERS = [
    diffusers.EulerDiscreteScheduler(**tiny.LATENT),
    diffusers.EulerDiscreteScheduler(**tiny.LATENT, timestep_spacing="trailing", prediction_type="v_prediction"),
    diffusers.HeunDiscreteScheduler(**tiny.LATENT),
    diffusers.PNDMScheduler(**tiny.LATENT, skip_prk_steps=True),
    diffusers.LMSDiscreteScheduler(**tiny.LATENT, use_karras_sigmas=True),
    diffusers.DPMSolverMultistepScheduler(**tiny.LATENT, use_karras_sigmas=True),
    diffusers.DPMSolverMultistepScheduler(**tiny.LATENT, solver_order=3, timestep_spacing="trailing"),
    diffusers.DPMSolverSinglestepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", lower_order_final=True
    ),  # no twin: traced
    diffusers.UniPCMultistepScheduler(**tiny.LATENT),
    diffusers.DEISMultistepScheduler(**tiny.LATENT),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: type(s).__name__)
def test_with_the_pipelines_scheduler_whichever_it_is(scheduler):
    pipe, x = tiny.build("sd", scheduler), noise()
    got = DiffusionPipeline.from_diffusers(pipe).generate(
        "a red cat", num_images_per_prompt=2, guidance_scale=3.0, initial_noise=x, **asked("sd")
    )
    assert difference(got, theirs("sd", pipe, x)) < 1e-4


@pytest.mark.parametrize("cls", [diffusers.DDIMScheduler, diffusers.DDPMScheduler])
def test_unconditional_pixels_with_clipping_and_noise_draw_by_draw(cls, monkeypatch):
    kind = "ddpm" if cls is diffusers.DDPMScheduler else "ddim"
    pipe, x = tiny.build(kind, cls()), noise(2, 3)
    source = NoiseSource(resolve_keys(7, None, 2), (3, tiny.SIDE // 2, tiny.SIDE // 2))
    draws = iter([x, *(source(step, 0) for step in range(STEPS))])
    draw(monkeypatch, f"pipelines.{kind}.pipeline_{kind}", draws.__next__)
    draw(monkeypatch, "schedulers.scheduling_ddpm", draws.__next__)
    expected = torch.tensor(pipe(batch_size=2, num_inference_steps=STEPS, output_type="np").images)
    monkeypatch.setattr(NoiseSource, "initial", lambda self: x)
    got = DiffusionPipeline.from_diffusers(pipe).generate(
        num_images_per_prompt=2, num_inference_steps=STEPS, seed=7, output_type="np"
    )
    assert difference(torch.tensor(got), expected) < 1e-4


@pytest.mark.parametrize("labels", [3, [3, 5]])
def test_classes_of_dit(labels):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = diffusers.DiTTransformer2DModel(
            sample_size=tiny.SIDE // 2, patch_size=2, in_channels=4, out_channels=8, num_layers=2,
            attention_head_dim=8, num_attention_heads=4, num_embeds_ada_norm=1000,
        ).eval()  # fmt: skip
    pipe = diffusers.DiTPipeline(network, tiny.vae(), diffusers.DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    count = len(labels) if isinstance(labels, list) else 1
    keys = resolve_keys(5, None, count)
    start = NoiseSource(keys, (4, tiny.SIDE // 2, tiny.SIDE // 2)).initial()
    with pytest.MonkeyPatch.context() as patch:
        draw(patch, "pipelines.dit.pipeline_dit", lambda: start)
        given = labels if isinstance(labels, list) else [labels]
        expected = pipe(given, guidance_scale=4.0, num_inference_steps=STEPS, output_type="np").images
    got = DiffusionPipeline.from_diffusers(pipe).generate(
        class_labels=labels, num_inference_steps=STEPS, seed=5, output_type="np"
    )
    assert np.abs(got - expected).max() < 1e-4


@pytest.mark.parametrize("strength", [0.4, 0.7, 1.0])
def test_image_to_image_is_the_pipelines_own(strength, posterior_mean, monkeypatch):
    pipe, x, image = tiny.build("sd_img2img"), noise(), tiny.image(2)
    draw(monkeypatch, "pipelines.stable_diffusion.pipeline_stable_diffusion_img2img", lambda: x)
    expected = pipe(**tiny.arguments("sd_img2img", batch=2, image=image, strength=strength, output_type="pt")).images
    got = DiffusionPipeline.from_diffusers(pipe).generate(
        ["a red cat"] * 2, image=image, strength=strength, guidance_scale=3.0, initial_noise=x, **asked("sd")
    )
    assert difference(got, expected) < 1e-4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheduler", [
    diffusers.DPMSolverMultistepScheduler(**tiny.LATENT, use_karras_sigmas=True),
    diffusers.EulerDiscreteScheduler(**tiny.LATENT),
    diffusers.HeunDiscreteScheduler(**tiny.LATENT),
    diffusers.PNDMScheduler(**tiny.LATENT, skip_prk_steps=True),
], ids=lambda s: type(s).__name__)  # fmt: skip
def test_image_to_image_with_other_schedulers(scheduler, posterior_mean, monkeypatch):
    pipe, x, image = tiny.build("sd_img2img", scheduler), noise(), tiny.image(2)
    draw(monkeypatch, "pipelines.stable_diffusion.pipeline_stable_diffusion_img2img", lambda: x)
    expected = pipe(**tiny.arguments("sd_img2img", batch=2, image=image, strength=0.7, output_type="pt")).images
    got = DiffusionPipeline.from_diffusers(pipe).generate(
        ["a red cat"] * 2, image=image, strength=0.7, guidance_scale=3.0, initial_noise=x, **asked("sd")
    )
    assert difference(got, expected) < 1e-4


def test_with_a_plan_scheduler_in_the_pipeline():
    from noise_scheduler_sampling_system.integrations.diffusers.scheduler.plan_scheduler import PlanScheduler

    pipe, x = tiny.build("sd"), noise()
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, method="dpmpp_2m", timestep_spacing="karras")
    got = DiffusionPipeline.from_diffusers(pipe).generate(
        "a red cat", num_images_per_prompt=2, guidance_scale=3.0, initial_noise=x, **asked("sd")
    )
    assert difference(got, theirs("sd", pipe, x)) < 1e-4


def test_image_to_image_of_a_text_pipeline_keeps_more_of_the_image_the_lower_the_strength():
    pipe, image = tiny.build("sd3"), tiny.image()
    ours = DiffusionPipeline.from_diffusers(pipe, "dpmpp_2m")
    clean = ours.backbone.encode(image, prompt_of(_request(height=tiny.SIDE, width=tiny.SIDE), ours.backbone))
    far = [
        difference(
            ours.generate(
                "a cat",
                image=image,
                strength=strength,
                guidance_scale=1.0,
                seed=1,
                **asked("sd3", output_type="latent"),
            ),
            clean,
        )
        for strength in (0.05, 0.3, 0.9)
    ]
    assert far[0] < far[1] < far[2]
    assert far[0] < far[2] / 2


def _request(**fields: Any) -> Any:
    return ImageRequest(prompt="a cat", **fields)


@pytest.mark.parametrize("kind", ["sd_inpaint", "sd_inpaint_9"])
def test_inpainting_is_the_pipelines_own(kind, posterior_mean, monkeypatch):
    pipe, x, image, mask = tiny.build(kind), noise(), tiny.image(2), tiny.mask(2)
    draw(monkeypatch, "pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint", lambda: x)
    expected = pipe(**tiny.arguments(kind, batch=2, image=image, mask_image=mask, output_type="latent")).images
    got = DiffusionPipeline.from_diffusers(pipe).generate(
        ["a red cat"] * 2, image=image, mask_image=mask, strength=0.7, guidance_scale=3.0, initial_noise=x,
        keep_known=kind == "sd_inpaint", **asked("sd", output_type="latent"),
    )  # fmt: skip
    assert difference(got, expected) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("method", ["dpmpp_2m", "ddpm", "heun", "dpmpp_sde", "unipc"])
@pytest.mark.parametrize("kind", ["sd", "sd_inpaint_9", "flux", "ddim"])
def test_inpainting_keeps_what_is_known_to_the_last_bit_and_changes_the_rest(kind, method):
    pipe = tiny.build(kind)
    ours = DiffusionPipeline.from_diffusers(pipe, method, **({"clip_sample": False} if kind == "ddim" else {}))
    side = {} if kind == "ddim" else {"height": tiny.SIDE, "width": tiny.SIDE}
    size = tiny.SIDE // 2 if kind == "ddim" else tiny.SIDE
    image = tiny.image()[..., :size, :size]
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 2 :] = 1.0
    prompt = {} if kind == "ddim" else {"prompt": "a cat", **extra(kind)}
    states = []
    got = ours.generate(
        **prompt, **side, image=image, mask_image=mask, strength=1.0, num_inference_steps=STEPS, seed=4,
        output_type="latent", callback=lambda step: states.append((step.x, step.sigma)), max_batch_size=1,
        num_images_per_prompt=2,
    )  # fmt: skip
    request = dataclasses.replace(_request(**side), prompt=prompt.get("prompt"))
    known = ours.backbone.encode(image, prompt_of(request, ours.backbone))
    half = known.shape[-1] // 2
    assert torch.equal(got[..., :half], known[..., :half].expand_as(got[..., :half]))
    assert difference(got[..., half:], known[..., half:]) > 0.1
    # not by the last paste alone: the run itself ends there
    last = states[STEPS - 1][0]
    assert difference(last[..., :half], known[..., :half]) < 1e-3 * float(known.abs().max())


@pytest.mark.parametrize("method", [None, "dpmpp_2m"])
@pytest.mark.parametrize("kind", ["sd", "sd3", "flux", "ddim"])
def test_sample_with_the_inputs_of_a_run_makes_what_generate_makes(kind, method):
    ours = DiffusionPipeline.from_diffusers(tiny.build(kind), method)
    size = {} if kind == "ddim" else {"height": tiny.SIDE, "width": tiny.SIDE}
    request = {**size, "num_inference_steps": STEPS, **extra(kind), **({} if kind == "ddim" else {"prompt": "a cat"})}
    drawn = ours.generate(**request, output_type="latent", seed=5, return_result=True)
    again = ours.sample(**ours.inputs(**request), seed=5, return_result=True)
    assert torch.equal(again.samples, drawn.samples)
    assert ours.plan(STEPS, **size).content_hash == again.plan.content_hash == drawn.plan.content_hash


def test_levels_of_flux_depend_on_the_size_of_the_image():
    ours = DiffusionPipeline.from_diffusers(tiny.build("flux"), "dpmpp_2m")
    small, large = (ours.plan(STEPS, height=side, width=side).sigma for side in (tiny.SIDE, 32 * tiny.SIDE))
    assert (large[1:-2] > small[1:-2] + 0.01).all()
    with pytest.raises(ConfigurationError, match="height"):
        ours.plan(STEPS, height=tiny.SIDE + 1)


def test_seeds_batches_and_early_stopping_are_those_of_sample():
    ours = DiffusionPipeline.from_diffusers(tiny.build("sd"), "dpmpp_2m_sde", timestep_spacing="trailing")
    asks = asked("sd", output_type="latent", guidance_scale=3.0, seed=9)
    whole = ours.generate(["a cat", "a dog", "a cow"], **asks)
    split = ours.generate(["a cat", "a dog", "a cow"], **asks, max_batch_size=1)
    assert difference(whole, split) < 1e-4 * float(whole.abs().max())
    first = ours.generate("a cat", **asks)
    assert difference(whole[:1], first) < 1e-4 * float(whole.abs().max())
    for image in ({}, {"image": tiny.image(), "strength": 0.7}):  # noise of the run, and noise on an image
        rest = ours.generate(["a dog", "a cow"], **asks, **image, first_index=1)
        all_three = ours.generate(["a cat", "a dog", "a cow"], **asks, **image)
        assert difference(all_three[1:], rest) < 1e-4 * float(whole.abs().max())
    result = ours.generate("a cat", **{**asks, "num_inference_steps": 30}, early_stopping=0.5, return_result=True)
    assert result.calls_saved > 0
    assert ours.config.timestep_spacing == "trailing"
    seen = []
    ours.generate("a cat", **asks, callback=lambda step: seen.append(step.index))
    assert seen == list(range(STEPS))
    again = ours.generate("a cat", **{**asks, "seed": None}, generator=torch.Generator().manual_seed(1))
    twice = ours.generate("a cat", **{**asks, "seed": None}, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again, twice)


def test_guidance_objects_and_plans():
    ours = DiffusionPipeline.from_diffusers(tiny.build("sd"))
    asks = asked("sd", output_type="latent", seed=2)
    plain = ours.generate("a cat", guidance_scale=4.0, **asks)
    assert torch.equal(ours.generate("a cat", guidance=guidance.ClassifierFree(4.0), **asks), plain)
    rescaled = ours.generate("a cat", guidance=[guidance.ClassifierFree(4.0), guidance.Rescale(0.7)], **asks)
    assert difference(rescaled, plain) > 1e-3
    plan = SamplingPlan.trace(ours.backbone.pipe.scheduler, STEPS)
    assert difference(ours.generate("a cat", guidance_scale=4.0, plan=plan, **asks), plain) < 1e-4


@pytest.mark.parametrize("kind", TEXT)
def test_a_plan_that_holds_its_guidance_takes_the_place_of_the_default_scale(kind):
    """The default of most of these pipelines is not 7.5; FLUX.1's scale is an input of the network."""
    ours = DiffusionPipeline.from_diffusers(tiny.build(kind), "ddim")
    asks = asked(kind, output_type="latent", seed=2)
    plan = guidance.CachedGuidance(3.0, calls=range(STEPS)).folded_into(ours.plan(STEPS))
    got = ours.generate("a cat", plan=plan, **asks)
    expected = ours.generate("a cat", plan=ours.plan(STEPS), guidance=guidance.ClassifierFree(3.0), **asks)
    assert difference(got, expected) < 1e-4
    if kind == "flux":
        assert torch.equal(ours.generate("a cat", plan=plan, guidance_scale=5.0, **asks), got)
        return
    size = {"height": tiny.SIDE, "width": tiny.SIDE, **extra(kind)}
    assert torch.equal(ours.sample(**ours.inputs(prompt="a cat", **size), plan=plan, seed=2), got)
    for scale in (ours.backbone.default_scale, 7.5):
        with pytest.raises(ConfigurationError, match="holds guidance of scale 3"):
            ours.generate("a cat", plan=plan, guidance_scale=scale, **asks)


def test_flux_takes_true_guidance_and_the_scale_that_its_network_is_told(monkeypatch):
    pipe, x = tiny.build("flux"), noise(1)
    ours = DiffusionPipeline.from_diffusers(pipe)
    words = {"negative_prompt": "blurred"}
    got = ours.generate("a red cat", guidance=guidance.ClassifierFree(3.0), initial_noise=x, **words, **asked("flux"))
    expected = theirs("flux", pipe, x, true_cfg_scale=3.0, **words)
    assert difference(got, expected) < 1e-4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        config = {**tiny.flux_transformer().config, "guidance_embeds": True}
        told = diffusers.FluxTransformer2DModel.from_config(config).eval()
    pipe.register_modules(transformer=told)
    for scale in (1.0, 4.0):
        got = DiffusionPipeline.from_diffusers(pipe).generate(
            "a red cat", guidance_scale=scale, initial_noise=x, **asked("flux")
        )
        assert difference(got, theirs("flux", pipe, x, guidance_scale=scale)) < 1e-4


@pytest.mark.parametrize("method", ["euler", "dpmpp_2m", "unipc", "heun", "dpmpp_sde", "adams", "lcm"])
@pytest.mark.parametrize("kind", ["sd", "sd3", "flux"])
def test_any_sampler_runs(kind, method):
    ours = DiffusionPipeline.from_diffusers(tiny.build(kind), method)
    images = ours.generate("a red cat", seed=0, **asked(kind))
    assert images.shape == (1, 3, tiny.SIDE, tiny.SIDE)
    assert 0.0 <= float(images.min()) < float(images.max()) <= 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    import copy

    pipe = tiny.build("sd")
    parts = {name: copy.deepcopy(part) for name, part in pipe.components.items()}
    half = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False).to(dtype)
    x = noise(1)
    got = DiffusionPipeline.from_diffusers(half).generate("a red cat", initial_noise=x, **asked("sd"))
    expected = DiffusionPipeline.from_diffusers(pipe).generate("a red cat", initial_noise=x, **asked("sd"))
    assert difference(got, expected) < (0.1 if dtype is torch.bfloat16 else 0.02)
    assert half.unet.dtype == dtype


def test_output_types_and_images_in():
    ours = DiffusionPipeline.from_diffusers(tiny.build("sd"))
    tensor = ours.generate("a red cat", seed=0, **asked("sd"))
    array = ours.generate("a red cat", seed=0, **asked("sd", output_type="np"))
    pictures = ours.generate("a red cat", seed=0, **asked("sd", output_type="pil"))
    assert np.allclose(array, tensor.permute(0, 2, 3, 1).numpy())
    assert isinstance(pictures[0], PIL.Image.Image)
    assert np.abs(np.asarray(pictures[0]) / 255 - array[0]).max() < 1 / 254
    again = ours.generate("a red cat", image=pictures, strength=0.5, seed=0, **asked("sd"))
    other = ours.generate("a red cat", image=array, strength=0.5, seed=0, **asked("sd"))
    assert difference(again, other) < 0.05


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("sd", {}, "prompt"),
    ("sd", {"prompt": "a", "class_labels": 1}, "class_labels"),
    ("ddim", {"prompt": "a"}, "prompt"),
    ("sd", {"prompt": "a", "height": 33}, "height"),
    ("sd", {"prompt": "a", "output_type": "jpg"}, "output_type"),
    ("sd", {"prompt": "a", "strength": 0.5}, "strength"),
    ("sd", {"prompt": "a", "mask_image": tiny.mask()}, "mask_image"),
    ("sd", {"prompt": "a", "image": tiny.image(), "strength": 0.0}, "strength"),
    ("sd", {"prompt": "a", "image": tiny.image(), "strength": 0.01}, "strength"),
    ("sd", {"prompt": "a", "image": tiny.image(3)}, "image"),
    ("sd", {"prompt": ["a", "b"], "negative_prompt": ["a"]}, "negative_prompt"),
    ("sd", {"prompt": "a", "num_images_per_prompt": 0}, "num_images_per_prompt"),
    ("sd", {"prompt": "a", "guidance": guidance.ClassifierFree(2.0), "guidance_scale": 2.0}, "guidance_scale"),
    ("sd", {"prompt": "a", "num_inference_steps": 0}, "num_inference_steps"),
    ("sd", {"prompt": "a", "latents": noise()}, "latents"),
]


@pytest.mark.parametrize(("kind", "arguments", "where"), BAD, ids=lambda value: str(value)[:30])
def test_what_cannot_work_is_refused_before_the_network_is_asked(kind, arguments, where, monkeypatch):
    pipe = tiny.build(kind)
    ours = DiffusionPipeline.from_diffusers(pipe)
    monkeypatch.setattr(type(pipe.unet), "forward", lambda *_, **__: pytest.fail("the network was asked"))
    with pytest.raises(ConfigurationError) as refused:
        ours.generate(**{"height": tiny.SIDE, "width": tiny.SIDE, "num_inference_steps": STEPS, **arguments})
    assert refused.value.where == where
    assert refused.value.suggestion


def test_pipelines_that_are_not_known_and_settings_that_do_not_go_together():
    class OtherPipeline:
        scheduler = diffusers.DDIMScheduler()

    with pytest.raises(ConfigurationError, match="OtherPipeline is not known") as refused:
        DiffusionPipeline.from_diffusers(OtherPipeline())
    assert "PlanScheduler" in refused.value.suggestion
    with pytest.raises(ConfigurationError, match="none is named"):
        DiffusionPipeline.from_diffusers(tiny.build("sd"), eta=0.5)
    with pytest.raises(ConfigurationError, match="neither text encoder nor decoder"):
        DiffusionPipeline().generate("a cat")


def test_a_change_of_settings_leaves_the_pipelines_own_levels():
    pipe = tiny.build("sd")
    ours = DiffusionPipeline.from_diffusers(pipe)
    leading = ours.generate("a cat", seed=0, **asked("sd", output_type="latent"))
    ours.update_config(timestep_spacing="trailing")
    trailing = ours.generate("a cat", seed=0, **asked("sd", output_type="latent"))
    assert difference(leading, trailing) > 1e-3
    pipe.scheduler = diffusers.DDIMScheduler(**{**tiny.LATENT, "steps_offset": 0}, clip_sample=False,
                                             timestep_spacing="trailing")  # fmt: skip
    expected = DiffusionPipeline.from_diffusers(pipe).generate("a cat", seed=0, **asked("sd", output_type="latent"))
    assert difference(trailing, expected) < 1e-4 * float(expected.abs().max())
