"""Our samplers in diffusers' pipelines, against its own schedulers there, and reading these.

The pipelines are real, their weights small and random (tiny_pipelines.py). The scheduler that a pipeline has
by itself and its twin here start from the same generator, so they draw the same noise; the twin's result is
to agree to 1e-4 of the largest entry. Where diffusers is at fault the test says so, and shows it.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import pickle
import subprocess
import sys
import threading
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
    HeunSampler,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    SamplerFactory,
    SamplingMethod,
    SamplingPlan,
)
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler, read
from noise_scheduler_sampling_system.integrations.diffusers.reading.class_table import NO_PATH, READERS
from noise_scheduler_sampling_system.integrations.diffusers.reading.scheduler_fields import possible_classes
from noise_scheduler_sampling_system.support.registry import Registry
from tiny_pipelines import LATENT, arguments, build

TOLERANCE = 1e-4
#: Samplers that ask for more than a scheduler of diffusers is given.
NOT_APPLICABLE = {"adaptive", "ddim_cfg_pp", "dpmpp_2m_cfg_pp", "euler_ancestral_cfg_pp"}
METHODS = [m.value for m in SamplingMethod if m.value not in NOT_APPLICABLE]
NETWORKS = ("unet", "transformer")


def scheduler_of(name: str, **settings: Any) -> Any:
    cls = getattr(diffusers, name)
    accepted = inspect.signature(cls.__init__).parameters
    usual = {} if settings.pop("bare", False) else LATENT | {"clip_sample": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of DPM-Solver without ++, which is to go
        return cls(**{k: v for k, v in usual.items() if k in accepted} | settings)


def images(pipe: Any, kind: str, **more: Any) -> np.ndarray:
    torch.manual_seed(3)  # some pipelines hand no generator to their scheduler
    return np.asarray(pipe(**arguments(kind, **more)).images)


def relative(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert np.isfinite(b).all()
    return float(np.abs(a - b).max() / np.abs(b).max())


def compare(kind: str, scheduler: Any, **more: Any) -> float:
    """How far the pipeline with our scheduler is from the pipeline with its own."""
    pipe = build(kind, scheduler)
    expected = images(pipe, kind, **more)
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
    return relative(images(pipe, kind, **more), expected)


# twins

KARRAS, EXPONENTIAL, BETA = ({f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta"))
LEADING, TRAILING, LINSPACE = ({"timestep_spacing": name} for name in ("leading", "trailing", "linspace"))
FLAT = {"steps_offset": 0}
V = {"prediction_type": "v_prediction"}
LOWEST = {"final_sigmas_type": "sigma_min"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0, "bare": True}
ZERO_SNR = {"rescale_betas_zero_snr": True, **V, **TRAILING, **FLAT}

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


# image to image

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
@pytest.mark.parametrize("method", METHODS)
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


# every sampler in every pipeline


@pytest.mark.parametrize("kind", ["sd", "sd_img2img", "sd_inpaint", "sdxl", "sd3", "flux", "pixart", "ddpm"])
def test_every_sampler_runs_in(kind):
    pipe = build(kind)
    base, steps = pipe.scheduler, 3
    network = next(getattr(pipe, name) for name in NETWORKS if hasattr(pipe, name))
    calls = []
    hook = network.register_forward_pre_hook(lambda *_: calls.append(1))
    fast = {"guidance_scale": 1.0} if kind.startswith("sd") else {}
    usual = images(pipe, kind, steps=steps, **fast).shape
    for method in METHODS:
        wide = {"t_min": 0.01, "t_max": 100.0} if method == "restart" else {}
        pipe.scheduler = PlanScheduler.from_config(base, method=method, **wide)
        calls.clear()
        result = images(pipe, kind, steps=steps, **fast)
        skipped = pipe.scheduler.begin_index or 0
        assert result.shape == usual, method
        assert np.isfinite(result).all(), method
        assert len(calls) == pipe.scheduler.plan.nfe - skipped == len(pipe.scheduler.timesteps) - skipped, method
    hook.remove()


@pytest.mark.parametrize("method", sorted(NOT_APPLICABLE))
def test_samplers_that_need_more_are_refused(method):
    with pytest.raises(ConfigurationError, match=r"has no plan|guided one only"):
        PlanScheduler.from_config(scheduler_of("DDIMScheduler"), method=method).set_timesteps(5)


def test_an_explicit_spacing_is_our_own_pipelines():
    """The same levels, method and noise as ``DiffusionPipeline`` takes by itself."""
    base = scheduler_of("DDIMScheduler")
    config = NoiseSchedulerConfig.from_diffusers(base).replace(timestep_spacing="karras")

    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x + t.reshape(-1, 1, 1, 1) / 1000)

    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for method in ("dpmpp_2m", "heun", "unipc", "seeds"):
        expected = DiffusionPipeline(config, method)
        ours = PlanScheduler.from_config(base.config, method=method, timestep_spacing="karras")
        ours.set_timesteps(7)
        assert ours.plan == expected.plan(7)
        if expected.plan(7).stochastic:
            continue
        x = noise * ours.init_noise_sigma
        for t in ours.timesteps:
            x = ours.step(network(ours.scale_model_input(x, t), t.reshape(1)), t, x).prev_sample
        torch.testing.assert_close(x, expected.sample(network, num_inference_steps=7, initial_noise=noise))


def test_flow_pipelines_own_sigmas_give_way_to_a_chosen_spacing_and_others_do_not():
    base = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = build("flux", base)
    pipe.scheduler = PlanScheduler.from_config(base, method="dpmpp_2m", timestep_spacing="karras")
    images(pipe, "flux", steps=6)
    karras = pipe.scheduler.sigmas
    mu = 0.5 + (1.15 - 0.5) * (16 - 256) / (4096 - 256)  # as Flux computes it for 16 tokens
    own = NoiseSchedulerConfig.from_diffusers(base, mu=mu).replace(timestep_spacing="karras")
    expected = DiffusionPipeline(own, "dpmpp_2m").plan(6)
    torch.testing.assert_close(karras, torch.tensor(expected.sigma, dtype=torch.float32))
    given = {k: v for k, v in arguments("flux").items() if k != "num_inference_steps"}
    pipe(sigmas=[1.0, 0.7, 0.2], num_inference_steps=3, **given)
    assert len(pipe.scheduler.timesteps) == 3
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=[1.0, 0.7, 0.2], mu=mu)
    torch.testing.assert_close(pipe.scheduler.sigmas, theirs.sigmas)


def test_a_label_may_name_the_spacing():
    base = scheduler_of("DDIMScheduler")
    scheduler = PlanScheduler.from_config(base, method="DPM++ 2M Karras")
    other = PlanScheduler.from_config(base, method="dpmpp_2m", timestep_spacing="karras")
    scheduler.set_timesteps(6)
    other.set_timesteps(6)
    assert scheduler.plan == other.plan


def test_timesteps_and_sigmas_of_a_call_are_taken():
    scheduler = PlanScheduler.from_config(scheduler_of("DDIMScheduler"), method="dpmpp_2m")
    scheduler.set_timesteps(timesteps=[900, 500, 30])
    assert scheduler.timesteps.tolist() == [900, 500, 30]
    scheduler = PlanScheduler.from_config(scheduler_of("EulerDiscreteScheduler"), method="dpmpp_2m")
    scheduler.set_timesteps(sigmas=[10.0, 3.0, 0.5, 0.0])
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([10.0, 3.0, 0.5, 0.0]))
    pipe = build("sd", scheduler_of("EulerDiscreteScheduler"))
    given = {k: v for k, v in arguments("sd").items() if k != "num_inference_steps"}
    expected = pipe(sigmas=[10.0, 3.0, 0.5, 0.0], **given).images
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
    given["generator"].manual_seed(0)
    assert relative(pipe(sigmas=[10.0, 3.0, 0.5, 0.0], **given).images, expected) < TOLERANCE


# runs that share a scheduler


def loop(scheduler: Any, x: Tensor, steps: int | None, edit: Any = None) -> Tensor:
    if steps is not None:
        scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(x) * 0.7, t, x).prev_sample
        x = x if edit is None else edit(x)
    return x


def shared(method: str = "unipc") -> Any:
    return PlanScheduler.from_config(scheduler_of("DDIMScheduler"), method=method)


def start(seed: int) -> Tensor:
    return torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", ["unipc", "pndm", "dpmpp_3m", "heun", "ddim"])
def test_interleaved_runs_do_not_mix(method):
    scheduler, xs = shared(method), [start(1), start(2), start(3)]
    expected = [loop(shared(method), x, 7) for x in xs]
    scheduler.set_timesteps(7)
    for t in scheduler.timesteps:  # three runs through the same timesteps
        xs = [scheduler.step(torch.tanh(x) * 0.7, t, x).prev_sample for x in xs]
    for got, wanted in zip(xs, expected, strict=True):
        assert torch.equal(got, wanted)


def test_runs_with_timesteps_of_their_own_do_not_mix_even_when_edited():
    scheduler, a, b = shared(), start(1), start(2)
    edit = lambda x: (x * 0.99).clone()  # noqa: E731
    expected = loop(shared(), a, 7, edit), loop(shared(), b, 5, edit)
    scheduler.set_timesteps(7)
    first = list(scheduler.timesteps)
    scheduler.set_timesteps(5)
    second = list(scheduler.timesteps)
    for i in range(7):
        a = edit(scheduler.step(torch.tanh(a) * 0.7, first[i], a).prev_sample)
        if i < 5:
            b = edit(scheduler.step(torch.tanh(b) * 0.7, second[i], b).prev_sample)
    assert torch.equal(a, expected[0])
    assert torch.equal(b, expected[1])


def test_what_may_be_of_several_runs_is_an_error():
    scheduler, a, b = shared(), start(1), start(2)
    scheduler.set_timesteps(6)
    times = list(scheduler.timesteps)
    a = scheduler.step(a, times[0], a).prev_sample
    b = scheduler.step(b, times[0], b).prev_sample
    with pytest.raises(ConfigurationError, match="may belong to several runs"):
        scheduler.step(a, times[1], a.clone())
    a, b = (scheduler.step(x, times[1], x).prev_sample for x in (a, b))  # both may still go on
    del a
    with pytest.raises(ConfigurationError, match="may belong to several runs"):
        scheduler.step(b, times[2], b * 1.0)


def test_an_edited_run_does_not_take_the_predictions_of_one_that_began_after_it():
    scheduler, a, b = shared(), start(1), start(2)
    scheduler.set_timesteps(6)
    times = list(scheduler.timesteps)
    a = scheduler.step(a, times[0], a).prev_sample * 0.9  # nobody holds what was handed out
    b = scheduler.step(b, times[0], b).prev_sample
    with pytest.raises(ConfigurationError, match="may belong to several runs"):
        scheduler.step(a, times[1], a)
    scheduler.step(b, times[1], b)


def test_a_given_up_run_does_not_leave_its_predictions_to_another():
    scheduler, x = shared(), start(1)
    scheduler.set_timesteps(6)
    times = list(scheduler.timesteps)
    lost = start(9)
    for t in times[:3]:
        lost = scheduler.step(lost, t, lost).prev_sample
    del lost
    expected = loop(shared(), x, 6)
    for t in times:  # no set_timesteps: the run that begins at the first entry is new
        x = scheduler.step(torch.tanh(x) * 0.7, t, x).prev_sample
    assert torch.equal(x, expected)


def test_steps_out_of_turn_are_an_error():
    scheduler, x = shared(), start(1)
    with pytest.raises(ConfigurationError, match="no timesteps yet"):
        scheduler.step(x, torch.tensor(1), x)
    scheduler.set_timesteps(6)
    times = list(scheduler.timesteps)
    x = scheduler.step(x, times[0], x).prev_sample
    for wrong in (times[3], int(times[3])):
        with pytest.raises(ConfigurationError, match="due to make call 2"):
            scheduler.step(x, wrong, x)
    with pytest.raises(ConfigurationError, match="none of the times"):
        scheduler.step(x, 123456, x)
    with pytest.raises(ConfigurationError, match="due to make call 2"):
        scheduler.step(x.clone(), times[4], x.clone())
    scheduler.step(x, times[1], x)


@pytest.mark.parametrize("method", ["pndm", "unipc"])
def test_times_by_value(method):
    """Entries that are copied, moved or turned into numbers are found by value, the repeated ones of PNDM too."""
    expected = loop(shared(method), start(1), 6)
    for kind in (float, lambda t: t.clone(), lambda t: t.expand(4), lambda t: t.item()):
        scheduler, x = shared(method), start(1)
        scheduler.set_timesteps(6)
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(x) * 0.7, kind(t), x)[0]
        assert torch.equal(x, expected)


def test_repeated_runs_are_the_same():
    scheduler = shared()
    first = loop(scheduler, start(1), 6)
    assert torch.equal(loop(scheduler, start(1), None), first)
    assert torch.equal(loop(scheduler, start(1), 6), first)


def test_a_pipeline_called_from_a_callback_of_another_that_shares_the_scheduler():
    pipe = build("sd", PlanScheduler.from_config(scheduler_of("UniPCMultistepScheduler")))
    alone, other = images(pipe, "sd", steps=6), images(pipe, "sd", steps=4, seed=5)
    inner = []

    def nested(_: Any, step: int, __: Any, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 2:
            inner.append(images(pipe, "sd", steps=4, seed=5))
        return {"latents": kept["latents"] * 1.0}  # an edited state, at that

    outer = images(pipe, "sd", steps=6, callback_on_step_end=nested)
    np.testing.assert_array_equal(inner[0], other)
    np.testing.assert_array_equal(outer, alone)


def test_threads_share_a_scheduler():
    pipe = build("sd", PlanScheduler.from_config(scheduler_of("UniPCMultistepScheduler", solver_order=3)))
    # a tokenizer is not thread-safe: every call sets its padding, which a call in another thread may then use
    prompt, negative = pipe.encode_prompt("a cat", "cpu", 1, True)
    told = {"prompt": None, "prompt_embeds": prompt, "negative_prompt_embeds": negative}
    jobs = [(4, 0), (6, 1), (6, 2), (5, 3)]
    expected = {job: images(pipe, "sd", steps=job[0], seed=job[1], **told) for job in jobs}
    found: dict[tuple[int, int], list[np.ndarray]] = {job: [] for job in jobs}

    def work(job: tuple[int, int]) -> None:
        for _ in range(2):
            found[job].append(np.asarray(pipe(**arguments("sd", steps=job[0], seed=job[1], **told)).images))

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in jobs:
        assert len(found[job]) == 2
        for result in found[job]:
            np.testing.assert_array_equal(result, expected[job])


def test_a_callback_that_edits_latents_acts_the_same_in_both():
    seen = []

    def halved(_: Any, step: int, __: Any, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(step)
        return {"latents": kept["latents"] * 0.5 if step == 3 else kept["latents"]}

    # of schedulers that keep x/α a factor is a factor, too; call 3 is the end of a step of Heun's
    for name in ("DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"):
        pipe = build("sd", scheduler_of(name))
        expected = images(pipe, "sd", steps=6, callback_on_step_end=halved)
        pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
        seen.clear()
        got = images(pipe, "sd", steps=6, callback_on_step_end=halved)
        assert relative(got, expected) < TOLERANCE
        assert seen == list(range(len(pipe.scheduler.timesteps)))


def test_generators_one_a_sample():
    for name in ("EulerAncestralDiscreteScheduler", "DDPMScheduler"):
        pipe = build("sd", scheduler_of(name))
        expected = images(pipe, "sd", batch=2, generator=[torch.Generator().manual_seed(i) for i in (4, 5)])
        pipe.scheduler = PlanScheduler.from_config(pipe.scheduler)
        got = images(pipe, "sd", batch=2, generator=[torch.Generator().manual_seed(i) for i in (4, 5)])
        assert relative(got, expected) < TOLERANCE
        single = images(pipe, "sd", generator=[torch.Generator().manual_seed(5)])
        assert relative(got[1:], single) < TOLERANCE


def test_a_network_that_returns_the_same_memory_does_not_corrupt_the_history():
    def run(same: bool) -> Tensor:
        scheduler, x, memory = shared("lms"), start(1), torch.empty(1, 3, 4, 4)
        scheduler.set_timesteps(7)
        for t in scheduler.timesteps:
            output = torch.tanh(x) * 0.7
            x = scheduler.step(memory.copy_(output) if same else output, t, x).prev_sample
        return x

    assert torch.equal(run(True), run(False))


# saving


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "dpmpp_2m", "timestep_spacing": "karras", "solver_type": "exact"},
     {"method": "unipc", "timestep_spacing": "beta", "spacing_options": {"a": 0.7}, "order": 2}],
    ids=str,
)  # fmt: skip
def test_saved_with_the_pipeline_and_loaded(options, tmp_path):
    pipe = build("sd", scheduler_of("EulerDiscreteScheduler", **KARRAS))
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, **options)
    expected = images(pipe, "sd")
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.scheduler, PlanScheduler)
    np.testing.assert_array_equal(images(loaded, "sd"), expected)
    alone = PlanScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    alone.set_timesteps(5)
    assert alone.plan == pipe.scheduler.plan
    for again in (
        PlanScheduler.from_config(alone.config), PlanScheduler.from_config(alone),
        copy.deepcopy(pipe.scheduler), pickle.loads(pickle.dumps(pipe.scheduler)),
    ):  # fmt: skip
        again.set_timesteps(5)
        assert again.plan == pipe.scheduler.plan


def test_a_copy_keeps_its_timesteps_and_shares_no_state():
    scheduler = shared()
    scheduler.set_timesteps(6)
    x = scheduler.step(start(1), scheduler.timesteps[0], start(1)).prev_sample
    other = copy.deepcopy(scheduler)
    assert torch.equal(other.timesteps, scheduler.timesteps)
    assert torch.equal(loop(other, start(2), None), loop(shared(), start(2), 6))
    scheduler.step(x, scheduler.timesteps[1], x)


def test_a_pickle_of_version_1_3_is_read():
    """There the scheduler was a module of its own, and the pickle held every argument of ``set_timesteps``."""
    scheduler = PlanScheduler.from_config(scheduler_of("DDIMScheduler"), method="dpmpp_2m")
    scheduler.set_timesteps(4)
    request = {"num_inference_steps": 4, "timesteps": None, "sigmas": None, "mu": None}
    cls, config, _, shift = scheduler.__reduce__()[1]
    arguments = pickle.dumps((cls, config, request, shift), protocol=0).replace(b".plan_scheduler\n", b"\n")
    made_by = b"cnoise_scheduler_sampling_system.integrations.diffusers.scheduler\n_again\n"
    again = pickle.loads(made_by + arguments.removesuffix(b".") + b"R.")
    assert type(again) is PlanScheduler
    assert torch.equal(again.timesteps, scheduler.timesteps)
    assert (again.plan.sampler, again.plan.nfe) == ("dpmpp_2m", 4)


def test_choices_are_kept_changed_and_undone():
    ours = PlanScheduler.from_config(scheduler_of("EulerDiscreteScheduler", **KARRAS), method="dpmpp_2m", order=1)
    other = PlanScheduler.from_config(ours.config, timestep_spacing="log_snr")
    other.set_timesteps(5)
    assert (other.plan.sampler, other.plan.options["order"]) == ("dpmpp_2m", 1)
    third = PlanScheduler.from_config(ours.config, method="heun")
    third.set_timesteps(5)
    assert third.plan.sampler == "heun"
    changed = PlanScheduler.from_config(ours.config, use_karras_sigmas=False)
    changed.set_timesteps(5)
    assert changed.timesteps[1] != ours.set_timesteps(5) or changed.timesteps[1] != ours.timesteps[1]
    with pytest.raises(ConfigurationError, match="did you mean 'solver_type'"):
        PlanScheduler.from_config(ours.config, solvertype="exact")


def test_diffusers_reads_our_config_back():
    base = scheduler_of("EulerDiscreteScheduler", **KARRAS)
    ours = PlanScheduler.from_config(base.config, method="dpmpp_2m", timestep_spacing="karras")
    back = diffusers.EulerDiscreteScheduler.from_config(ours.config)
    public = {k: v for k, v in base.config.items() if not k.startswith("_")}
    assert {k: v for k, v in back.config.items() if k in public} == public
    assert diffusers.EulerDiscreteScheduler in ours.compatibles
    assert ours.config.num_train_timesteps == len(ours) == 1000
    assert ours.config.prediction_type == "epsilon"
    assert ours.config.steps_offset == 1


def test_plans_are_given_saved_and_asked_for(tmp_path):
    base = scheduler_of("DDIMScheduler")
    pipeline = DiffusionPipeline(NoiseSchedulerConfig.from_diffusers(base), "dpmpp_2m")
    plans = {4: pipeline.plan(4), 6: pipeline.plan(6)}
    pipe = build("sd", base)
    pipe.scheduler = PlanScheduler.from_config(base, method="dpmpp_2m", timestep_spacing="leading")
    expected = images(pipe, "sd", steps=6)
    for given in (plans, plans[6], plans[6].to_dict(), {"6": plans[6].to_dict()}):
        pipe.scheduler = PlanScheduler.from_plan(given, base.config)
        assert relative(images(pipe, "sd", steps=6), expected) < 1e-6
    pipe.scheduler.save_pretrained(tmp_path)
    pipe.scheduler = PlanScheduler.from_pretrained(tmp_path)
    assert relative(images(pipe, "sd", steps=6), expected) < 1e-6
    assert pipe.scheduler.plan == plans[6]
    with pytest.raises(ConfigurationError, match=r"no plan for 5 steps[\s\S]*\[6\]"):
        pipe.scheduler.set_timesteps(5)
    other = PlanScheduler.from_plan(plans[6], scheduler_of("DDIMScheduler", beta_end=0.02, beta_schedule="linear"))
    with pytest.raises(ConfigurationError, match="are not those of"):
        other.set_timesteps(6)


def test_traced_plans_drop_in():
    base = scheduler_of("EulerDiscreteScheduler")
    from noise_scheduler_sampling_system.plans.tracing.trace import trace

    pipe = build("sd", base)
    expected = images(pipe, "sd", steps=5)
    pipe.scheduler = PlanScheduler.from_plan(trace(base, 5), base)
    assert relative(images(pipe, "sd", steps=5), expected) < TOLERANCE


def test_a_config_without_a_class():
    """One that only one class can have says enough; of several, the method does, or the object."""
    nameless = {k: v for k, v in scheduler_of("EulerDiscreteScheduler").config.items() if k != "_class_name"}
    scheduler = PlanScheduler.from_config(nameless)
    scheduler.set_timesteps(3)
    assert scheduler.plan.sampler == "euler"
    several = dict(scheduler_of("KDPM2DiscreteScheduler").config)
    with pytest.raises(ConfigurationError, match=r"may be that of LMSDiscreteScheduler, KDPM2"):
        PlanScheduler.from_config(several)
    assert PlanScheduler.from_config(several, method="heun").order == 2
    assert PlanScheduler.from_config({**several, "_class_name": "KDPM2DiscreteScheduler"}).order == 2
    with pytest.raises(ConfigurationError, match="does not name its class"):
        PlanScheduler.from_config({"beta_start": 0.1})


def test_a_config_made_of_another_ones_is_that_of_the_class_that_made_it():
    """Made in Python it names no class, and keeps the fields of the other one behind its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedulers = {}
        for name in READERS:
            short = {"num_train_timesteps": 20} if "num_train_timesteps" in read_fields(name) else {}
            schedulers[name] = scheduler_of(name, bare=True, **short)
        for name, scheduler in schedulers.items():
            for other in schedulers.values():
                config = type(scheduler).from_config(dict(other.config)).config
                assert "_class_name" not in config
                found = possible_classes(config)
                assert name in found, (name, type(other).__name__)
                assert all(read_fields(one) == read_fields(name) for one in found)


def read_fields(name: str) -> set[str]:
    return set(read({"_class_name": name}).fields)


def test_a_config_that_a_pipeline_replaces_is_read_again():
    base = scheduler_of("DDIMScheduler", steps_offset=0)
    scheduler = PlanScheduler.from_config(base)
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [800, 600, 400, 200, 0]
    with pytest.warns(FutureWarning, match="steps_offset"):  # Stable Diffusion sets it to 1
        pipe = build("sd", scheduler)
    images(pipe, "sd")
    assert pipe.scheduler.timesteps.tolist() == [801, 601, 401, 201, 1]


# numbers beside the state


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LCMScheduler"])
def test_the_predicted_clean_sample_is_theirs(name):
    theirs = scheduler_of(name)
    ours = PlanScheduler.from_config(theirs)
    generator = torch.Generator().manual_seed(2)
    noise, output = (torch.randn(1, 3, 4, 4, generator=generator) for _ in range(2))
    theirs.set_timesteps(4)
    ours.set_timesteps(4)
    t = theirs.timesteps[0]
    first = noise * theirs.init_noise_sigma
    theirs.scale_model_input(first, t)
    expected = theirs.step(output, t, first)
    clean = expected.denoised if name == "LCMScheduler" else expected.pred_original_sample
    got = ours.step(output, ours.timesteps[0], noise * ours.init_noise_sigma)
    if name == "LCMScheduler":  # its own is x₀ after the boundary condition, whose c_out is 1 to 1e-6 here
        assert relative(got.pred_original_sample, clean) < TOLERANCE
    assert relative(got[1], clean) < TOLERANCE
    assert list(got) == list(expected)  # the keys, as of any output of diffusers
    prev, again = got.to_tuple()
    assert prev is got.prev_sample is got["prev_sample"]
    assert torch.equal(again, got[list(got)[1]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stepped_in_float32(dtype):
    def run(kind: torch.dtype) -> Tensor:
        scheduler, x = shared("dpmpp_2m"), start(1).to(dtype)
        scheduler.set_timesteps(6)
        for t in scheduler.timesteps:
            x = scheduler.step((torch.tanh(x.float()) * 0.7).to(dtype).to(kind), t, x.to(kind)).prev_sample
            assert x.dtype == kind
            x = x.to(dtype)
        return x

    assert torch.equal(run(dtype), run(torch.float32).to(dtype))


def test_add_noise_and_velocity():
    ours, theirs = PlanScheduler.from_config(scheduler_of("DDIMScheduler")), scheduler_of("DDIMScheduler")
    generator = torch.Generator().manual_seed(2)
    clean, noise = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(2))
    times = torch.tensor([0, 501, 999])
    for _ in range(2):  # for training, and in a run
        torch.testing.assert_close(ours.add_noise(clean, noise, times), theirs.add_noise(clean, noise, times))
        torch.testing.assert_close(ours.get_velocity(clean, noise, times), theirs.get_velocity(clean, noise, times))
        ours.set_timesteps(4)
    flow, own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), None
    own = PlanScheduler.from_config(flow)
    flow.set_timesteps(6)
    own.set_timesteps(6)
    t = flow.timesteps[2:3]
    torch.testing.assert_close(own.scale_noise(clean, t, noise), flow.scale_noise(clean, t, noise))
    torch.testing.assert_close(own.sigmas, flow.sigmas)
    torch.testing.assert_close(own.timesteps, flow.timesteps)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-4, atol=1e-6)


def test_edm_networks_are_preconditioned_by_the_scheduler():
    theirs = diffusers.EDMEulerScheduler()
    ours = PlanScheduler.from_config(theirs)
    ours.set_timesteps(5)
    theirs.set_timesteps(5)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    x, output = start(1), start(2)
    sigma = theirs.sigmas[1]
    torch.testing.assert_close(ours.precondition_inputs(x, sigma), theirs.precondition_inputs(x, sigma))
    torch.testing.assert_close(
        ours.precondition_outputs(x, output, sigma), theirs.precondition_outputs(x, output, sigma)
    )
    with pytest.raises(ConfigurationError, match="no preconditioning"):
        shared().precondition_inputs(x, sigma)
    middle = PlanScheduler.from_config(theirs, method="dpm2")  # asks between the levels, too
    middle.set_timesteps(5)
    torch.testing.assert_close(middle.timesteps, 0.25 * middle.sigmas[:-1].log())


def test_churn_and_the_analytic_first_step_before_the_first_call():
    base = scheduler_of("DDIMScheduler")
    churned = PlanScheduler.from_config(base, method="edm", s_churn=5.0)
    churned.set_timesteps(5)
    plan = churned.plan
    assert not plan.asked[0]
    # noise added to noise is noise of a larger scale: that of the level where the model is asked first
    level = float(np.hypot(plan.alpha[1], plan.sigma[1]))
    assert churned.init_noise_sigma == pytest.approx(float(np.hypot(plan.a[0], plan.c[0, 0])), rel=1e-12)
    assert churned.init_noise_sigma == pytest.approx(level, rel=0.05)
    afs = PlanScheduler.from_config(base, method="dpmpp_2m", afs=True, timestep_spacing="trailing")
    afs.set_timesteps(5)
    assert len(afs.timesteps) == 4
    assert afs.init_noise_sigma == pytest.approx(float(afs.plan.a[0]))
    flow = PlanScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler(), method="dpmpp_2m", afs=True)
    with pytest.raises(ConfigurationError, match="do not multiply their noise"):
        flow.set_timesteps(5)


def test_a_network_that_returns_a_variance_too():
    theirs = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    ours = PlanScheduler.from_config(theirs)
    other = PlanScheduler.from_config(theirs, method="dpmpp_2m")
    generator = torch.Generator().manual_seed(2)
    x, output = start(1), torch.randn(1, 6, 4, 4, generator=generator)
    for scheduler in (theirs, ours, other):
        scheduler.set_timesteps(5)
    states = [s.step(output, s.timesteps[0], x, generator=torch.Generator().manual_seed(1))[0] for s in (theirs, ours)]
    assert relative(states[1], states[0]) < TOLERANCE
    plain = PlanScheduler.from_config(diffusers.DDPMScheduler(clip_sample=False), method="dpmpp_2m")
    plain.set_timesteps(5)
    expected = plain.step(output[:, :3], plain.timesteps[0], x)[0]
    assert torch.equal(other.step(output, other.timesteps[0], x)[0], expected)
    with pytest.raises(Exception, match="has shape"):
        plain.step(output, plain.timesteps[0], x)


def test_what_a_step_would_ignore_is_an_error():
    scheduler = shared("dpmpp_2m")
    scheduler.set_timesteps(4)
    x, t = start(1), scheduler.timesteps[0]
    for word in ("eta", "s_churn", "pred_orginal_sample"):
        with pytest.raises(ConfigurationError, match=f"^{word}: (got 0.5|no step takes)"):
            scheduler.step(x, t, x, **{word: 0.5})
    scheduler.step(x, t, x, eta=0.0)
    assert "eta" not in inspect.signature(scheduler.step).parameters
    assert "eta" in inspect.signature(shared("ddim").step).parameters


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "dpmpp_2n"}, "did you mean .*dpmpp_2m'"),
        ({"method": "DPM++ 2M Kerras"}, "there is no sampler"),
        ({"timestep_spacing": "karas"}, "did you mean 'karras'"),
        ({"spacing_options": {"rho": 3.0}}, "give timestep_spacing, too"),
        ({"method": "dpmpp_2m", "use_karras_sigmas": True}, "timestep_spacing='karras'"),
        ({"method": "dpmpp_2m", "plan": {}}, "beside a plan"),
        ({"config": diffusers.DDIMScheduler}, "is the class DDIMScheduler, neither"),
        ({"config": NoiseSchedulerConfig()}, "is a NoiseSchedulerConfig, neither"),
        ({"config": "scheduler_config.json"}, "is a str, neither"),
        ({"config": {"scheduler": ["diffusers", "DDIMScheduler"]}}, "is the config of a pipeline"),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_are_named_when_the_scheduler_is_made(wrong, message):
    with pytest.raises(ConfigurationError, match=message):
        PlanScheduler.from_config(**{"config": scheduler_of("DDIMScheduler").config, **wrong})


def test_what_a_plan_decides_is_not_given_beside_it():
    base = scheduler_of("DDIMScheduler")
    planned = PlanScheduler.from_plan(
        DiffusionPipeline(NoiseSchedulerConfig.from_diffusers(base), "heun").plan(4), base
    )
    for wrong in ({"timestep_spacing": "karras"}, {"order": 2}):
        with pytest.raises(ConfigurationError, match=r"beside a plan|neither a plan nor"):
            PlanScheduler.from_config(planned.config, **wrong)
    undone = PlanScheduler.from_config(planned.config, method="dpmpp_2m", timestep_spacing="karras")
    undone.set_timesteps(5)
    assert undone.plan.sampler == "dpmpp_2m"


def test_numbers_of_steps_that_are_missing_or_at_odds():
    scheduler = PlanScheduler.from_config(scheduler_of("DDIMScheduler"), method="dpmpp_2m")
    with pytest.raises(ConfigurationError, match="num_inference_steps: is missing"):
        scheduler.set_timesteps()
    with pytest.raises(ConfigurationError, match="got 5, and timesteps are 2 steps"):
        scheduler.set_timesteps(5, timesteps=[900, 10])


def test_a_registered_class_is_a_method_and_its_name_is_saved():
    scheduler = PlanScheduler.from_config(scheduler_of("DDIMScheduler"), method=HeunSampler)
    assert PlanScheduler.from_config(json.loads(json.dumps(dict(scheduler.config)))).config == scheduler.config
    scheduler.set_timesteps(3)
    assert scheduler.plan.sampler == "heun"

    class Mine(HeunSampler):
        pass

    with pytest.raises(ConfigurationError, match="Mine is not registered"):
        PlanScheduler.from_config(scheduler_of("DDIMScheduler"), method=Mine)


def test_unclip_pipelines_say_where_a_step_goes():
    theirs = diffusers.UnCLIPScheduler()
    ours = PlanScheduler.from_config(theirs)
    x, output = start(1), start(2)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(6)
    t, following = ours.timesteps[2:4]
    ours.set_begin_index(2)  # at 999 the rounding of its ᾱ, 2e-9 as a product in float32, shows

    def step(scheduler: Any, to: Any) -> Tensor:
        return scheduler.step(output, t, x, prev_timestep=to, generator=torch.Generator().manual_seed(1))[0]

    assert relative(step(ours, following), step(theirs, following)) < TOLERANCE
    for wrong in (ours.timesteps[5], 3):
        with pytest.raises(ConfigurationError, match="the next time of the run is"):
            step(ours, wrong)
    assert torch.equal(step(ours, int(following)), step(ours, following))


def test_without_diffusers_the_rest_works_and_the_error_says_what_to_install():
    code = """
import sys
sys.modules["diffusers"] = None  # as good as not installed
import noise_scheduler_sampling_system as package
from noise_scheduler_sampling_system.integrations import diffusers
assert package.DiffusionPipeline(package.NoiseSchedulerConfig(), "ddim").plan(3).nfe == 3
for attempt in (
    lambda: diffusers.PlanScheduler,
    lambda: package.NoiseSchedulerConfig.from_diffusers({"_class_name": "DDIMScheduler"}),
    lambda: package.models.mnist_unet(),
):
    try:
        attempt()
    except package.ConfigurationError as error:
        print("not installed" in str(error), "[diffusers]" in str(error))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout.split(), run.stderr) == (["True"] * 6, "")


# reading

CLASSES = sorted(
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler") and isinstance(getattr(diffusers, name), type) and name != "SchedulerMixin"
)


def test_every_scheduler_of_diffusers_is_read_or_refused():
    assert set(CLASSES) == (set(READERS) | set(NO_PATH)) - {"ConsistencyDecoderScheduler"}  # which is not exported


@pytest.mark.parametrize("name", sorted(NO_PATH))
def test_those_without_a_path_are_refused_with_the_reason(name):
    with pytest.raises(ConfigurationError, match=f"{name} is not read: "):
        NoiseSchedulerConfig.from_diffusers({"_class_name": name})


def their_levels(scheduler: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, α and σ as a scheduler of diffusers has them by itself, before any run."""
    if hasattr(scheduler, "_alpha_cumprod"):
        t = torch.linspace(0.05, 0.95, 20)
        cumulative = scheduler._alpha_cumprod(t, "cpu").double().numpy()
        return t.double().numpy(), np.sqrt(cumulative), np.sqrt(1.0 - cumulative)
    if hasattr(scheduler, "alphas_cumprod"):
        cumulative = scheduler.alphas_cumprod.double().numpy()
        return np.arange(len(cumulative)), np.sqrt(cumulative), np.sqrt(1.0 - cumulative)
    if type(scheduler).__name__ == "IPNDMScheduler":
        inside = slice(1, len(scheduler.timesteps) - 1, 50)
        return tuple(v[inside].double().numpy() for v in (scheduler.timesteps, scheduler.alphas, scheduler.betas))
    if type(scheduler).__name__ == "ScoreSdeVeScheduler":
        return (
            scheduler.timesteps.double().numpy(),
            np.ones(len(scheduler.timesteps)),
            scheduler.sigmas.double().numpy(),
        )
    if type(scheduler).__name__ == "KarrasVeScheduler":
        scheduler.set_timesteps(20)
        sigma = scheduler.schedule.double().sqrt().numpy()[1:-1]
        return sigma, np.ones_like(sigma), sigma
    if type(scheduler).__name__ == "LTXEulerAncestralRFScheduler":
        scheduler.set_timesteps(20, device="cpu")
    sigma = scheduler.sigmas.double().numpy()
    sigma = sigma[sigma > 0][5:-5]
    if scheduler.config.get("shift") is not None or "RF" in type(scheduler).__name__:
        return sigma * 1000, 1.0 - sigma, sigma
    return sigma, np.ones_like(sigma), sigma


FLAGS = [
    ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}), ("DDPMScheduler", {"beta_schedule": "sigmoid"}),
    ("DDPMScheduler", {"beta_schedule": "laplace"}), ("HeunDiscreteScheduler", {"beta_schedule": "exp"}),
    ("DDIMScheduler", {"trained_betas": [0.01, 0.02, 0.05], "num_train_timesteps": 3}),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True, **V}),
    ("CogVideoXDDIMScheduler", {"snr_shift_scale": 1.5}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 5.0}), ("EDMEulerScheduler", {"sigma_max": 20.0}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "flags"), [*((n, {}) for n in CLASSES if n in READERS), *FLAGS], ids=lambda v: str(v) if v else ""
)
def test_the_path_is_theirs(name, flags):
    scheduler = scheduler_of(name, bare=True, **flags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = NoiseSchedulerConfig.from_diffusers(scheduler)
        assert NoiseSchedulerConfig.from_diffusers(scheduler.config | {"_class_name": name}) == config
    path = NoiseSchedulerFactory.create(config)
    times, alpha, sigma = their_levels(scheduler)
    # ᾱ of theirs is a product in float32, and so is 1 − ᾱ
    np.testing.assert_allclose(path.alpha(times), alpha, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(path.sigma(times), sigma, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CLASSES if name in READERS])
def test_what_is_read_makes_a_sampler_or_says_why_not(name):
    reading = read(scheduler_of(name, bare=True))
    if reading.sampler is None:
        assert reading.refusal
        if not reading.traceable:
            with pytest.raises(ConfigurationError, match="is not a sampler here"):
                PlanScheduler.from_config(scheduler_of(name, bare=True))
        return
    path = NoiseSchedulerFactory.create(reading.config_for(reading.sampler))
    plan = SamplerFactory.create(reading.sampler, path, **reading.options_for(10)).plan(10)
    assert isinstance(plan, SamplingPlan)
    assert Registry.key(reading.sampler) == plan.sampler


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "depends on the image's size"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas is on"),
        ("FlowMatchLCMScheduler", {"scale_factors": [0.5, 1.0]}, "scale_factors is given"),
        ("IPNDMScheduler", {"trained_betas": [0.5, 0.1]}, "trained_betas is given"),
        ("DDPMWuerstchenScheduler", {"scaler": 2.0}, "got 2.0"),
    ],
)  # fmt: skip
def test_fields_that_cannot_be_honoured_are_refused(name, flags, message):
    with pytest.raises(ConfigurationError, match=message):
        NoiseSchedulerConfig.from_diffusers(scheduler_of(name, bare=True, **flags))


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("EulerDiscreteScheduler", {**KARRAS, **LEADING}, "begins and ends where the 'leading' timesteps do"),
        ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -5.1}, "lambda_min_clipped"),
        ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1}, "shift_terminal"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous", **V}, "to be told"),
        ("ScoreSdeVeScheduler", {}, "the score"),
        ("IPNDMScheduler", {}, "not a spacing here"),
    ],
)  # fmt: skip
def test_levels_that_no_spacing_has_are_warned_of(name, flags, message):
    with pytest.warns(UserWarning, match=message):
        NoiseSchedulerConfig.from_diffusers(scheduler_of(name, bare=True, **flags))


def test_flags_become_settings():
    config = NoiseSchedulerConfig.from_diffusers(
        scheduler_of("DPMSolverMultistepScheduler", thresholding=True, sample_max_value=2.0, **KARRAS, **LOWEST)
    )
    assert (config.timestep_spacing, dict(config.spacing_options)) == ("karras", {"end": "lowest"})
    assert (config.thresholding, config.sample_max_value, config.clip_sample) == (True, 2.0, False)
    config = NoiseSchedulerConfig.from_diffusers(diffusers.DDPMScheduler(variance_type="fixed_large", steps_offset=1))
    assert (config.variance_type, config.clip_sample, config.steps_offset) == ("fixed_large", True, 1)
    flux = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    config = NoiseSchedulerConfig.from_diffusers(flux, mu=1.1)
    assert config.schedule_options["shift"] == pytest.approx(math.exp(1.1))
    assert read(scheduler_of("UniPCMultistepScheduler", solver_order=3)).options["order"] == 3
    assert read(scheduler_of("DDIMScheduler", clip_sample=True)).config.use_clipped_model_output is False
    assert "tau_func is a function" in read(scheduler_of("SASolverScheduler", tau_func=lambda t: 1.0)).refusal


def test_a_dictionary_of_the_hub_is_read_with_its_class_defaults():
    """As published with Stable Diffusion 1.5, with keys that the class does not know."""
    published = {
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
        "clip_sample": False,
    }  # fmt: skip
    config = NoiseSchedulerConfig.from_diffusers(published)
    expected = NoiseSchedulerConfig.preset("sd15").replace(spacing_options={"end": "lowest"})
    assert config == expected
    scheduler = PlanScheduler.from_config(published)
    scheduler.set_timesteps(50)
    assert (scheduler.plan.sampler, len(scheduler.timesteps)) == ("pndm", 51)
