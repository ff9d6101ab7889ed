"""A scheduler of diffusers and PlanScheduler in its place give the same images in diffusers' pipelines."""

from __future__ import annotations

import inspect
import math
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
from tiny_pipelines import arguments, build
from twins import (
    BETA,
    EXPONENTIAL,
    FLAT,
    FLOW_SIGMAS,
    KARRAS,
    LEADING,
    LINSPACE,
    LOWEST,
    SDE,
    TOLERANCE,
    TRAILING,
    ZERO_SNR,
    V,
    compare,
    images,
    relative,
    scheduler_of,
    start,
)

BETA_TWINS: list[tuple[str, dict[str, Any], int]] = [
    ("DDIMScheduler", {}, 5),
    ("DDIMScheduler", {"set_alpha_to_one": False, **V}, 7),
    ("DDIMScheduler", TRAILING | FLAT, 5),  # 5 divides 1000: elsewhere diffusers steps to a wrong timestep
    ("DDIMScheduler", ZERO_SNR, 5),
    ("DDIMScheduler", {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"}, 5),
    ("DDIMParallelScheduler", {}, 5),
    ("CogVideoXDDIMScheduler", {"snr_shift_scale": 3.0, **V}, 5),
    ("DDPMScheduler", {}, 5),
    ("DDPMScheduler", {"variance_type": "fixed_small_log", **LINSPACE, **FLAT}, 6),
    ("DDPMScheduler", {"beta_schedule": "sigmoid", **TRAILING, **FLAT}, 5),
    ("PNDMScheduler", {"skip_prk_steps": True}, 6),
    ("PNDMScheduler", {"skip_prk_steps": False}, 6),
    ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}, 6),
    *(("EulerDiscreteScheduler", flags, 5) for flags in (LEADING, TRAILING | FLAT, LINSPACE | FLAT)),
    *(("EulerDiscreteScheduler", flags, 6) for flags in (KARRAS, EXPONENTIAL | LEADING, BETA, LOWEST | LEADING, V)),
    (
        "EulerDiscreteScheduler",
        {"timestep_type": "continuous", "sigma_min": 0.002, "sigma_max": 700.0, **KARRAS, **V},
        5,
    ),
    ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, 5),
    ("EulerDiscreteScheduler", {"trained_betas": [0.001 * (i + 1) for i in range(100)], "num_train_timesteps": 100}, 5),
    ("EulerAncestralDiscreteScheduler", LEADING, 6),
    ("EulerAncestralDiscreteScheduler", LINSPACE | V, 6),
    *(
        ("HeunDiscreteScheduler", flags, 4)
        for flags in (LEADING, KARRAS, EXPONENTIAL, BETA, V, {"beta_schedule": "exp"})
    ),
    *(("LMSDiscreteScheduler", flags, 7) for flags in (LEADING, KARRAS, EXPONENTIAL, BETA)),
    *(("KDPM2DiscreteScheduler", flags, 4) for flags in (LEADING, KARRAS, EXPONENTIAL, BETA)),
    *(("KDPM2AncestralDiscreteScheduler", flags, 4) for flags in (LEADING, KARRAS, TRAILING)),
    *(
        ("DPMSolverMultistepScheduler", flags, 6)
        for flags in (
            LEADING,
            TRAILING | FLAT,
            KARRAS,
            EXPONENTIAL,
            BETA,
            {"use_lu_lambdas": True},
            {"solver_type": "heun"},
            {"solver_order": 1},
            SDE | KARRAS,
        )
    ),
    *(
        ("DPMSolverMultistepScheduler", flags, steps)
        for steps in (6, 16)  # from 15 on it keeps its order to the end
        for flags in (
            {},
            LOWEST,
            {"solver_order": 3, "solver_type": "heun"},
            {"algorithm_type": "dpmsolver", **LOWEST},
            {"euler_at_final": True, **LOWEST},
            {"lower_order_final": False, **LOWEST},
        )
    ),
    ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -2.0, "beta_schedule": "squaredcos_cap_v2"}, 6),
    ("DPMSolverMultistepScheduler", ZERO_SNR, 6),
    ("DPMSolverMultistepScheduler", SDE | {"solver_order": 1}, 6),
    # no sampler is the same: traced
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver", **LOWEST}, 6),
    ("DPMSolverSinglestepScheduler", {}, 6),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3, **KARRAS}, 7),
    ("DEISMultistepScheduler", {}, 6),
    ("DEISMultistepScheduler", {"solver_order": 3, **LEADING}, 16),
    *(
        ("UniPCMultistepScheduler", flags, 6)
        for flags in (
            {},
            {"solver_order": 3},
            {"solver_type": "bh1", **LOWEST},
            TRAILING | FLAT,
            KARRAS,
            V,
            {"predict_x0": False, **LOWEST},
            {"disable_corrector": [0, 2]},
        )
    ),
    ("SASolverScheduler", {}, 6),
    ("SASolverScheduler", {"predictor_order": 3, "corrector_order": 4}, 9),
    ("LCMScheduler", {}, 4),
    ("TCDScheduler", {}, 4),
    *(("EDMEulerScheduler", flags, 6) for flags in ({}, {"sigma_schedule": "exponential"}, V, LOWEST)),
    *(("EDMDPMSolverMultistepScheduler", flags, 6) for flags in ({}, SDE, {"solver_order": 3, "solver_type": "heun"})),
    ("EDMDPMSolverMultistepScheduler", {"thresholding": True, "sample_max_value": 3.0}, 6),
    *(("DPMSolverMultistepScheduler", {**FLOW_SIGMAS, **flags}, 6) for flags in ({}, SDE)),
    ("UniPCMultistepScheduler", FLOW_SIGMAS, 6),
    ("DEISMultistepScheduler", FLOW_SIGMAS, 6),
    ("SASolverScheduler", FLOW_SIGMAS, 6),
]


@pytest.mark.parametrize(("name", "flags", "steps"), BETA_TWINS, ids=lambda value: str(value).replace(" ", ""))
def test_twin_in_stable_diffusion(name, flags, steps):
    assert compare("sd", scheduler_of(name, **flags), steps=steps) < TOLERANCE


F = "FlowMatchEulerDiscreteScheduler"


@pytest.mark.parametrize("kind", ["sd3", "flux"])
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        (F, {"shift": 3.0}), (F, KARRAS), (F, EXPONENTIAL), (F, BETA), (F, {"shift_terminal": 0.1}),
        (F, {"use_dynamic_shifting": True}), (F, {"use_dynamic_shifting": True, "time_shift_type": "linear"}),
        (F, {"stochastic_sampling": True}), ("FlowMatchLCMScheduler", {"shift": 2.0}),
        ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}), ("UniPCMultistepScheduler", FLOW_SIGMAS),
        ("UniPCMultistepScheduler", FLOW_SIGMAS | {"use_dynamic_shifting": True}),
        ("DPMSolverMultistepScheduler", FLOW_SIGMAS),
    ],
    ids=str,
)  # fmt: skip
def test_twin_in_flow_pipelines(kind, name, flags):
    scheduler = scheduler_of(name, **{"bare": True, **flags})
    if kind == "flux" and not {"sigmas", "mu"} <= set(inspect.signature(scheduler.set_timesteps).parameters):
        with pytest.raises((ValueError, TypeError, AssertionError)):  # Flux hands its own to every scheduler
            images(build(kind, scheduler), kind)
        return
    assert compare(kind, scheduler, steps=5) < TOLERANCE


USUAL = ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]


@pytest.mark.parametrize(
    ("kind", "name", "flags"),
    [
        *((kind, name, {}) for kind in ("sdxl", "pixart", "sd_inpaint_9") for name in USUAL),
        # DDPMPipeline scales neither its noise nor the model's input, and hands over a generator
        *(("ddpm", name, {}) for name in ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler")),
        # with steps_offset=1, which Stable Diffusion's pipeline enforces, diffusers adds noise to the final sample
        ("ddpm", "DDPMScheduler", {"variance_type": "fixed_large", "steps_offset": 0}),
    ],
)
def test_twin_in_other_pipelines(kind, name, flags):
    assert compare(kind, scheduler_of(name, **flags), steps=5) < TOLERANCE


def test_diffusers_ipndm_drops_its_first_prediction():
    """At t = 1 it divides 0 by what should be α: whatever the network says, the clean sample is 0."""
    x, after = start(1), []
    for output in (start(2), start(3)):
        theirs, ours = diffusers.IPNDMScheduler(), PlanScheduler.from_config(diffusers.IPNDMScheduler())
        for scheduler in (theirs, ours):
            scheduler.set_timesteps(7)
            after.append(scheduler.step(output, scheduler.timesteps[0], x)[0])
        torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    assert torch.equal(after[0], after[2])
    assert not torch.allclose(after[1], after[3])


@pytest.mark.parametrize("clip", [{}, {"clip_sample": True}, {"thresholding": True, "sample_max_value": 1.5}], ids=str)
@pytest.mark.parametrize("told", [{}, {"eta": 0.7}, {"eta": 1.0, "use_clipped_model_output": True}], ids=str)
def test_ddim_is_told_eta_and_clipping_by_its_pipeline(clip, told):
    assert compare("ddim", scheduler_of("DDIMScheduler", **{"clip_sample": False, **clip}), **told) < TOLERANCE


@pytest.mark.parametrize("name", ["DDIMScheduler", "TCDScheduler"])
def test_eta_reaches_the_sampler_from_a_pipeline_that_looks_for_it(name):
    assert compare("sd", scheduler_of(name), eta=0.6) < TOLERANCE


def test_eta_as_an_option_is_not_undone_by_the_pipelines_default():
    pipe = build("sd", scheduler_of("DDIMScheduler"))
    expected = images(pipe, "sd", eta=0.6)
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, method="ddim", eta=0.6)
    assert relative(images(pipe, "sd"), expected) < TOLERANCE


@pytest.mark.parametrize("name", ["DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"])
def test_twins_whose_noise_is_a_brownian_motion(name, monkeypatch):
    """Their noise comes from a tree of its own; with independent draws in its place the rest agrees."""
    scheduler = scheduler_of(name)
    draws: list[Tensor] = []

    class Draws:
        def __init__(self, x: Tensor, *_: Any, **__: Any) -> None:
            self.shape, self.generator = x.shape, torch.Generator().manual_seed(5)

        def __call__(self, *_: Any) -> Tensor:
            draws.append(torch.randn(self.shape, generator=self.generator))
            return draws[-1]

    monkeypatch.setattr(f"{type(scheduler).__module__}.BrownianTreeNoiseSampler", Draws)
    pipe = build("sd", scheduler)
    expected = images(pipe, "sd", steps=5)
    feed = iter(draws)
    ours = "noise_scheduler_sampling_system.integrations.diffusers.scheduler.timestep_list.randn_tensor"
    monkeypatch.setattr(ours, lambda *_, **__: next(feed))
    independent = {"method": "dpmpp_sde", "brownian": False} if name == "DPMSolverSDEScheduler" else {}
    pipe.scheduler = PlanScheduler.from_config(scheduler, **independent)
    assert relative(images(pipe, "sd", steps=5), expected) < TOLERANCE


def test_the_comparison_tells_methods_apart():
    """Or agreement would say nothing."""
    pipe = build("sd", scheduler_of("EulerDiscreteScheduler"))
    base, found = pipe.scheduler, {}
    for method in ("euler", "dpmpp_2m", "unipc", "deis", "heun", "lms"):
        pipe.scheduler = PlanScheduler.from_config(base, method=method)
        found[method] = images(pipe, "sd", steps=5)
    names = sorted(found)
    assert all(relative(found[a], found[b]) > 20 * TOLERANCE for i, a in enumerate(names) for b in names[:i])


ENTERED = [
    "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
    "DEISMultistepScheduler", "SASolverScheduler",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["sd_img2img", "sd_inpaint", "sd_inpaint_9"])
@pytest.mark.parametrize("name", ENTERED)
def test_twin_from_an_image(kind, name):
    if (kind, name) == ("sd_inpaint", "KDPM2DiscreteScheduler"):
        kind = "sd_inpaint_9"  # see the next test
    assert compare(kind, scheduler_of(name), steps=8) < TOLERANCE


def test_diffusers_blends_at_a_wrong_level_between_the_stages_of_kdpm2():
    """Its add_noise takes the σ after the step where the state, and the network's input, are half way."""
    scheduler = scheduler_of("KDPM2DiscreteScheduler")
    scheduler.set_timesteps(6)
    x = torch.ones(1, 1, 2, 2)
    for t in scheduler.timesteps[:1]:
        scheduler.scale_model_input(x, t)
        scheduler.step(x, t, x)
    t = scheduler.timesteps[1]
    believed = float((1.0 / scheduler.scale_model_input(x, t)[0, 0, 0, 0] ** 2 - 1.0).sqrt())
    noised = float(scheduler.add_noise(0 * x, x, t.reshape(1))[0, 0, 0, 0])
    assert abs(believed / noised - 1.0) > 0.1
    ours = PlanScheduler.from_config(scheduler)
    ours.set_timesteps(6)
    assert float(ours.add_noise(0 * x, x, ours.timesteps[1:2])[0, 0, 0, 0]) == pytest.approx(
        believed / math.hypot(1.0, believed), rel=1e-5
    )


def constant_noise(scheduler: Any, steps: int, start: int) -> float:
    """The error of a run from the middle whose network always returns the true ε: any consistent method has none."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps[start * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start * scheduler.order)
    x = scheduler.add_noise(clean, noise, times[:1])
    for t in times:
        scheduler.scale_model_input(x, t)
        x = scheduler.step(noise, t, x, return_dict=False)[0]
    return float((x - clean).abs().max())


@pytest.mark.parametrize("start", [1, 3])
@pytest.mark.parametrize("method", IN_DIFFUSERS)
def test_a_run_from_the_middle_reads_nothing_from_before(method, start):
    scheduler = PlanScheduler.from_config(scheduler_of("EulerDiscreteScheduler", **KARRAS), method=method)
    error = constant_noise(scheduler, 8, start)
    if scheduler.plan.stochastic or method == "lcm":
        assert math.isfinite(error)  # its noise is not the network's
    else:
        assert error < 1e-4


def test_diffusers_lms_and_pndm_are_inconsistent_from_the_middle():
    """LMS takes weights for predictions that were never made, PNDM a start for times that it does not visit."""
    assert constant_noise(scheduler_of("LMSDiscreteScheduler"), 8, 3) > 1e-2
    assert constant_noise(PlanScheduler.from_config(scheduler_of("LMSDiscreteScheduler")), 8, 3) < 1e-4
    pipe = build("sd_img2img", scheduler_of("PNDMScheduler", skip_prk_steps=True))
    theirs = images(pipe, "sd_img2img", steps=8)
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
    ours = images(pipe, "sd_img2img", steps=8)
    assert relative(ours, theirs) > 1e-2
    # ours goes on as PNDM does after its start: iPNDM, here on the same levels
    base = scheduler_of("DDIMScheduler", set_alpha_to_one=False)
    pipe.scheduler = PlanScheduler.from_config(base, method="ipndm")
    levels = pipe.scheduler
    levels.set_timesteps(8)
    own = PlanScheduler.from_config(scheduler_of("PNDMScheduler", skip_prk_steps=True))
    own.set_timesteps(8)
    assert set(own.timesteps.tolist()) == set(levels.timesteps.tolist())


def test_a_fixed_plan_with_memory_is_not_entered_in_its_middle():
    base = scheduler_of("EulerDiscreteScheduler")
    config = NoiseSchedulerConfig.from_diffusers(base)
    plan = DiffusionPipeline(config, "dpmpp_2m").plan(8)
    with pytest.raises(ConfigurationError, match="begins at model call 4 of 8"):
        constant_noise(PlanScheduler.from_plan(plan, base), 8, 3)
    assert constant_noise(PlanScheduler.from_plan(DiffusionPipeline(config, "heun").plan(8), base), 8, 3) < 1e-4


def test_ddim_steps_to_the_next_timestep_of_its_list():
    """diffusers' goes to t − ⌊T/N⌋, which linspace does not visit; its Euler, the same method, is right."""
    base = scheduler_of("DDIMScheduler", **LINSPACE, **FLAT)
    pipe = build("sd", base)
    theirs = images(pipe, "sd", steps=6)
    pipe.scheduler = PlanScheduler.from_config(base)
    ours = images(pipe, "sd", steps=6)
    times = [float(t) for t in pipe.scheduler.timesteps]
    pipe.scheduler = scheduler_of("EulerDiscreteScheduler", **LEADING)  # whose noise has unit variance
    given = {k: v for k, v in arguments("sd").items() if k != "num_inference_steps"}
    euler = np.asarray(pipe(timesteps=times, **given).images)
    assert relative(ours, euler) < TOLERANCE
    assert relative(theirs, euler) > 1e-2
