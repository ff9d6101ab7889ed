"""A run in two parts: what one pipeline stops before its end, another takes on; and images that begin inside a step.

The base's pipeline cuts the list of timesteps by a number, the refiner's begins where the number is, one call early
for samplers of two calls (diffusers' ``denoising_end`` and ``denoising_start``). The two parts are the whole to the
last bit, or the second one is refused.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
)
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from sampler_names import IN_DIFFUSERS
from tiny_pipelines import LATENT, arguments, build

CLASSES = [
    "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
    "SASolverScheduler", "PNDMScheduler",
]  # fmt: skip


def scheduler(name: str = "EulerDiscreteScheduler", method: str | None = None, **more: Any) -> Any:
    usual = dict(LATENT) | ({"clip_sample": False} if name in ("DDIMScheduler", "DDPMScheduler") else {})
    usual |= {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    wide = {"t_min": 0.01, "t_max": 100.0} if method == "restart" else {}
    cls = getattr(diffusers, name)
    taken = {key: value for key, value in usual.items() if key in inspect.signature(cls.__init__).parameters}
    return PlanScheduler.from_config(cls(**taken), method=method, **wide, **more)


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(1.3 * x) + 1e-4 * t


def driven(own: Any, times: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    for t in times:
        x = own.step(network(own.scale_model_input(x, t), t), t, x, generator=generator).prev_sample
    return x


def first(own: Any, fraction: float) -> Tensor:
    """The timesteps that ``denoising_end`` leaves."""
    cutoff = round(1000 - fraction * 1000)
    return own.timesteps[: sum(1 for t in own.timesteps if t >= cutoff)]


def second(own: Any, fraction: float) -> Tensor:
    """Those that ``denoising_start`` leaves."""
    cutoff = round(1000 - fraction * 1000)
    count = sum(1 for t in own.timesteps if t < cutoff)
    if own.order == 2 and count % 2 == 0:
        count += 1
    begin = len(own.timesteps) - count
    own.set_begin_index(begin)
    return own.timesteps[begin:]


def start() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def both(made: Any, fraction: float, steps: int = 10, **between: Any) -> tuple[Tensor, Tensor]:
    """A whole run, and the same in two parts by schedulers of which the first is gone when the second begins."""
    whole, base, refiner = made(), made(), made()
    for each in (whole, base, refiner):
        each.set_timesteps(steps)
    expected = driven(whole, whole.timesteps, start() * whole.init_noise_sigma, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    handed = driven(base, first(base, fraction), start() * base.init_noise_sigma, generator)
    del base
    handed = torch.cat([handed])  # as the pipeline does: another tensor
    return expected, driven(refiner, second(refiner, fraction), between.get("edit", lambda x: x)(handed), generator)


@pytest.mark.parametrize("fraction", [0.2, 0.3, 0.55, 0.8])
def test_two_parts_are_the_whole_for_every_sampler(fraction):
    for method in IN_DIFFUSERS:
        whole, parts = both(lambda method=method: scheduler(method=method), fraction)
        assert torch.equal(whole, parts), method


@pytest.mark.parametrize("fraction", [0.62])
@pytest.mark.parametrize("name", CLASSES)
def test_two_parts_are_the_whole_for_every_twin(name, fraction):
    whole, parts = both(lambda: scheduler(name), fraction, steps=9)
    assert torch.equal(whole, parts)


def test_three_parts():
    for method in ("heun", "unipc", "dpm_3s", "dpmpp_sde"):
        whole, *parts = (scheduler(method=method) for _ in range(4))
        for each in (whole, *parts):
            each.set_timesteps(10)
        generators = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
        expected = driven(whole, whole.timesteps, start(), generators[0])
        x = driven(parts[0], first(parts[0], 0.3), start(), generators[1])
        middle = second(parts[1], 0.3)
        x = driven(parts[1], middle[: sum(1 for t in middle if t >= 400)], x.clone(), generators[1])
        x = driven(parts[2], second(parts[2], 0.6), x.clone(), generators[1])
        assert torch.equal(x, expected), method


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_in_half_precision_and_for_several_images_of_one(kind):
    for method in ("heun", "unipc"):
        own, other = scheduler(method=method), scheduler(method=method)
        for each in (own, other):
            each.set_timesteps(10)
        generator = torch.Generator()
        handed = driven(own, first(own, 0.5), start().to(kind), generator)
        got = driven(other, second(other, 0.5), handed.repeat(3, 1, 1, 1), generator)
        left = own.timesteps[len(first(own, 0.5)) :]
        expected = driven(own, left, handed, generator)
        assert torch.equal(got, expected.repeat(3, 1, 1, 1))


@pytest.mark.parametrize("method", ["heun", "dpmpp_2s", "predictor_corrector", "edm", "dpm_3s"])
def test_what_may_come_from_inside_a_step_is_refused_where_nothing_tells(method):
    with pytest.raises(ConfigurationError, match="no run of this process handed out"):
        both(lambda: scheduler(method=method), 0.5, edit=lambda x: 1.01 * x)


def test_another_course_is_refused_or_begins_with_a_step():
    """A state is taken by its level: where it is one of the second run's, and at a step's end, any sampler goes on."""

    def parts(base: Any, refiner: Any, steps: int = 10) -> Tensor:
        base.set_timesteps(10)
        refiner.set_timesteps(steps)
        x = driven(base, first(base, 0.5), start(), torch.Generator())
        return driven(refiner, second(refiner, 0.5), x.clone(), torch.Generator())

    for other in ("heun", "ddim", "dpmpp_2m", "dpm2"):
        assert parts(scheduler(method="unipc"), scheduler(method=other)).isfinite().all()
    with pytest.raises(ConfigurationError, match="inside a step"):
        parts(scheduler(method="heun"), scheduler(method="dpm2"))
    with pytest.raises(ConfigurationError, match="handed out by 'ddim'"):
        parts(scheduler(method="ddim"), scheduler(method="ddim"), steps=14)


def test_of_true_noise_a_refiner_of_another_method_keeps_the_image():
    """The levels fit: a network that returns the true noise gives the image back."""
    for pair in (("dpmpp_2m", "heun"), ("ddim", "dpm2"), ("unipc", "dpmpp_2s"), ("lms", "dpm_3s")):
        base, refiner = (scheduler(method=method) for method in pair)
        for each in (base, refiner):
            each.set_timesteps(10)
        clean, noise = start(), start().flip(0)
        x = base.add_noise(clean, noise, base.timesteps[:1])
        for t in first(base, 0.5):
            x = base.step(noise, t, x).prev_sample
        x = x.clone()
        for t in second(refiner, 0.5):
            x = refiner.step(noise, t, x).prev_sample
        assert float((x - clean).abs().max()) < 1e-4, pair


@pytest.mark.parametrize("steps", [7, 10])
@pytest.mark.parametrize("method", IN_DIFFUSERS)
def test_an_image_may_begin_at_any_model_call(method, steps):
    """Inside a step, too, where the rest of it is of first order; of the true noise it comes back."""
    own = scheduler(method=method)
    clean, noise = start(), start().flip(0)
    own.set_timesteps(steps)
    for begin in range(1, len(own.timesteps)):
        own.set_timesteps(steps)
        own.set_begin_index(begin)
        x = own.add_noise(clean, noise, own.timesteps[begin : begin + 1])
        try:
            for t in own.timesteps[begin:]:
                x = own.step(noise, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
        except ConfigurationError:
            if method in ("edm", "restart"):
                continue  # the next step begins with more noise than the image has
            raise
        assert x.isfinite().all()
        if not own.plan.stochastic:
            assert float((x - clean).abs().max()) < 1e-3, begin


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("steps", [9, 10])
def test_singlestep_begins_in_the_middle_as_theirs_does(steps, order):
    theirs = diffusers.DPMSolverSinglestepScheduler(**{k: v for k, v in LATENT.items() if k != "steps_offset"},
                                                    solver_order=order, lower_order_final=True)  # fmt: skip
    ours = PlanScheduler.from_config(theirs)
    for begin in range(1, steps):
        results = []
        for each in (theirs, ours):
            each.set_timesteps(steps)
            each.set_begin_index(begin)
            x = each.add_noise(start(), start().flip(0), each.timesteps[begin : begin + 1])
            for t in each.timesteps[begin:]:
                x = each.step(torch.tanh(x), t, x)[0]
            results.append(x)
        assert float((results[0] - results[1]).abs().max()) < 1e-4 * float(results[0].abs().max())


@pytest.fixture(scope="module")
def pipelines() -> tuple[Any, Any]:
    base = build("sdxl")
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline(**base.components)
    refiner.set_progress_bar_config(disable=True)
    return base, refiner


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("method", [None, "dpmpp_2s"])
def test_in_the_pipelines_of_stable_diffusion_xl(pipelines, name, method):
    if method is not None and name != "HeunDiscreteScheduler":
        return
    base, refiner = pipelines
    given = {**arguments("sdxl", steps=8), "output_type": "latent"}
    base.scheduler = scheduler(name, method)
    whole = base(**given).images
    for fraction in (0.3, 0.8):
        base.scheduler, refiner.scheduler = scheduler(name, method), scheduler(name, method)
        given["generator"] = torch.Generator().manual_seed(0)
        again = {key: value for key, value in given.items() if key not in ("height", "width", "latents")}
        latents = base(**given, denoising_end=fraction).images
        parts = refiner(**again, image=latents, denoising_start=fraction).images
        np.testing.assert_allclose(parts.numpy(), whole.numpy(), atol=1e-6 * float(whole.abs().max()))


def test_a_given_plan_is_handed_over_as_a_sampler_is():
    own = diffusers.EulerDiscreteScheduler(**LATENT)
    plan = DiffusionPipeline(NoiseSchedulerConfig.from_diffusers(own), "heun").plan(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, parts = both(lambda: PlanScheduler.from_plan(plan, own), 0.5, steps=8)
    assert torch.equal(whole, parts)
