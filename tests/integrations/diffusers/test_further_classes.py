"""PlanScheduler and traced plans for classes with conventions of their own, against the classes in their loops.

Both run in float32 where nothing else is said. The tolerance of 1e-5 of the largest value is the rounding of diffusers'
float32 tables. An inverse run of few steps multiplies it: its first step leads from σ/α = 0.01 to σ/α of 1 to 150.
test_trace.py runs the traced plans of the same classes.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    ConfigurationError,
)
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler

V, X0 = {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
NO_CLIP, TRAILING = {"clip_sample": False}, {"timestep_spacing": "trailing"}
ZERO_SNR = {**TRAILING, "rescale_betas_zero_snr": True, "snr_shift_scale": 1.0}
#: Classes whose list of timesteps has the end of the run.
LIST_END = ("SCMScheduler", "DDPMWuerstchenScheduler")

CASES: list[tuple[str, dict[str, Any]]] = [
    *(("DDIMInverseScheduler", {**flags, **kind}) for kind in ({}, V) for flags in (
        NO_CLIP, {"clip_sample_range": 1.5}, NO_CLIP | TRAILING,
        NO_CLIP | {"set_alpha_to_one": False, "steps_offset": 1},
    )),
    *(("DPMSolverMultistepInverseScheduler", {**flags, **kind}) for kind in ({}, V, X0) for flags in (
        {}, {"solver_order": 3}, {"algorithm_type": "dpmsolver"},
    )),
    *(("DPMSolverMultistepInverseScheduler", flags) for flags in (
        {"solver_type": "heun"}, {"solver_order": 1}, {"use_karras_sigmas": True}, TRAILING,
        {"thresholding": True, "sample_max_value": 2.0},
    )),
    *(("CogVideoXDPMScheduler", {**flags, **kind}) for kind in (V, X0) for flags in (
        TRAILING, {"steps_offset": 1, "set_alpha_to_one": False}, ZERO_SNR,
    )),
    ("CogVideoXDPMScheduler", TRAILING),
    *(("CMStochasticIterativeScheduler", flags) for flags in (
        {}, {"clip_denoised": False}, {"s_noise": 1.01, "sigma_max": 40.0, "sigma_data": 1.0},
    )),
    *(("SCMScheduler", flags) for flags in ({}, {"sigma_data": 1.0})),
    *(("FlowMapEulerDiscreteScheduler", flags) for flags in ({}, {"shift": 5.0})),
    *(("MiniMaxH3Scheduler", flags) for flags in ({}, {"shift": 3.0})),
    *(("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True, **flags}) for flags in ({}, {"shift": 3.0})),
    ("DDPMWuerstchenScheduler", {"s": 0.02}),
]  # fmt: skip


def identify(value: Any) -> str:
    return str(value).replace(" ", "")


def network(x: Tensor, t: Any) -> Tensor:
    """A smooth nonlinear function of x and t, as a stand-in for a trained network."""
    phase = float(torch.as_tensor(t).reshape(-1)[0]) / 400
    y = torch.tanh(0.5 * x.roll(1, -1) + 0.5 * x * torch.cos(torch.tensor(phase)))
    return 0.7 * y + 0.2 * torch.sin(torch.tensor(phase))


def start(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).to(dtype)


def clean() -> Tensor:
    return torch.tanh(start())


def run(scheduler: Any, name: str, steps: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """The result of a scheduler's loop, as the pipelines of that class write it, and the next random number."""
    generator = torch.Generator().manual_seed(0)
    unset = {"intermediate_timesteps": None} if name == "SCMScheduler" and steps != 2 else {}
    scheduler.set_timesteps(steps, **unset)
    times = scheduler.timesteps[:-1] if name in LIST_END else scheduler.timesteps
    x, old = x * float(getattr(scheduler, "init_noise_sigma", 1.0)), None
    draws = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for i, t in enumerate(times):
        output = network(scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x, t)
        if isinstance(scheduler, diffusers.CogVideoXDPMScheduler):
            before = times[i - 1] if i else None
            x, old = scheduler.step(output, old, t, before, x, return_dict=False, **draws)
        else:
            t = t.expand(len(x)) if name == "DDPMWuerstchenScheduler" else t
            x = scheduler.step(output, t, x, return_dict=False, **draws)[0]
    return x, torch.randn(3, generator=generator)


def relative(a: Tensor, b: Tensor) -> float:
    assert torch.isfinite(b).all()
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize(("name", "flags"), CASES, ids=identify)
def test_a_plan_scheduler_does_what_the_class_does(name, flags, steps):
    theirs = getattr(diffusers, name)(**flags)
    ours = PlanScheduler.from_config(theirs)
    inverse = "Inverse" in name
    first = clean() if inverse else start()
    expected, following = run(theirs, name, steps, first)
    got, ours_following = run(ours, name, steps, first)
    torch.testing.assert_close(ours.timesteps.double(), theirs.timesteps.double(), rtol=1e-6, atol=1e-6)
    assert relative(got, expected) < (1e-4 if inverse else 1e-5)
    assert torch.equal(ours_following, following)  # as many draws as theirs


DETERMINISTIC = [
    ("DDIMInverseScheduler", {}), ("DPMSolverMultistepInverseScheduler", {"solver_order": 3}),
    ("MiniMaxH3Scheduler", {}), ("FlowMapEulerDiscreteScheduler", {"shift": 5.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "flags"), DETERMINISTIC, ids=identify)
def test_in_double_precision(name, flags):
    """What is left is the rounding of the class's own float32 tables."""
    theirs = getattr(diffusers, name)(**flags)
    x = clean().double()
    expected, _ = run(theirs, name, 5, x)
    assert expected.dtype == torch.float64
    assert relative(run(PlanScheduler.from_config(theirs), name, 5, x)[0], expected) < 1e-5


def test_other_samplers_run_on_their_levels():
    """With a method, network and state keep the conventions of the class."""
    for name, flags in (("SCMScheduler", {}), ("MiniMaxH3Scheduler", {}), ("CMStochasticIterativeScheduler", {})):
        theirs = getattr(diffusers, name)(**flags)
        found = {
            m: run(PlanScheduler.from_config(theirs, method=m), name, 20, start())[0] for m in ("ddim", "dpmpp_2m")
        }
        assert 1e-4 < relative(found["ddim"], found["dpmpp_2m"]) < 0.2


def test_a_run_from_data_to_noise_and_back():
    """The inverse of DDIM leads to the noise from which DDIM makes the image again."""
    x, settings = clean(), {"clip_sample": False, "beta_schedule": "scaled_linear"}
    there = PlanScheduler.from_config(diffusers.DDIMInverseScheduler(**settings))
    back = PlanScheduler.from_config(diffusers.DDIMScheduler(**settings))
    errors = {}
    for steps in (25, 100):
        noise, _ = run(there, "DDIMInverseScheduler", steps, x)
        errors[steps] = relative(run(back, "DDIMScheduler", steps, noise)[0], x)
    assert errors[100] < 0.4 * errors[25] < 0.4
    heun = PlanScheduler.from_config(diffusers.DDIMInverseScheduler(**settings), method="heun")
    assert relative(run(heun, "DDIMInverseScheduler", 100, x)[0], noise) < 0.1


def test_a_step_is_told_where_it_goes():
    scheduler = PlanScheduler.from_config(diffusers.FlowMapEulerDiscreteScheduler(shift=5.0))
    scheduler.set_timesteps(3)
    x, times = start(), [*scheduler.timesteps, 0.0]
    for t, r in itertools.pairwise(times):
        x = scheduler.step(network(x, t), t, x, r)[0]
    expected, _ = run(diffusers.FlowMapEulerDiscreteScheduler(shift=5.0), "FlowMapEulerDiscreteScheduler", 3, start())
    assert relative(x, expected) < 1e-5
    scheduler.set_timesteps(3)
    with pytest.raises(ConfigurationError, match="r_timestep: got 500") as refused:
        scheduler.step(x, scheduler.timesteps[0], x, r_timestep=500.0)
    assert "set_timesteps(timesteps=[...])" in str(refused.value)


@pytest.mark.parametrize("name", LIST_END)
def test_the_end_of_the_list_is_not_a_call(name):
    scheduler = PlanScheduler.from_config(getattr(diffusers, name)())
    scheduler.set_timesteps(2)
    assert len(scheduler.timesteps) == 3
    assert scheduler.plan.nfe == 2
    x = start()
    for t in scheduler.timesteps[:-1]:
        x = scheduler.step(x, t, x)[0]
    with pytest.raises(ConfigurationError, match="the end of the run") as refused:
        scheduler.step(x, scheduler.timesteps[-1], x)
    assert "timesteps[:-1]" in str(refused.value)


def test_noise_on_images_follows_the_clock_of_the_class():
    image, noise = clean(), start()
    minimax = PlanScheduler.from_config(diffusers.MiniMaxH3Scheduler())
    for t in (0.0, 0.3, 0.97, 1.0):
        expected = diffusers.MiniMaxH3Scheduler().scale_noise(image, t, noise)
        torch.testing.assert_close(minimax.scale_noise(image, t, noise), expected)
    scm = PlanScheduler.from_config(diffusers.SCMScheduler())
    t = torch.tensor(1.2)
    torch.testing.assert_close(scm.add_noise(image, noise, t), t.cos() * image + 0.5 * t.sin() * noise)


def test_arguments_of_set_timesteps_in_the_order_of_the_class():
    for given in (((2, [1.57, 0.9, 0.0], None, None, None), {}), ((2,), {"timesteps": [1.57, 0.9, 0.0],
                  "max_timesteps": None, "intermediate_timesteps": None})):  # fmt: skip
        scheduler = PlanScheduler.from_config(diffusers.SCMScheduler())
        scheduler.set_timesteps(*given[0], **given[1])
        torch.testing.assert_close(scheduler.timesteps, torch.tensor([1.57, 0.9, 0.0]))
    with pytest.raises(ConfigurationError, match="Intermediate timesteps"):
        PlanScheduler.from_config(diffusers.SCMScheduler()).set_timesteps(4)


def test_a_scheduler_of_stable_cascade_is_of_the_class_that_its_pipelines_ask_for(tmp_path):
    made = PlanScheduler.from_config(diffusers.DDPMWuerstchenScheduler())
    made.set_timesteps(3)
    made.save_pretrained(tmp_path)
    copies = [made, copy.deepcopy(made), pickle.loads(pickle.dumps(made)), PlanScheduler.from_pretrained(tmp_path)]
    for each in copies:
        assert isinstance(each, PlanScheduler)
        assert isinstance(each, diffusers.DDPMWuerstchenScheduler)
    assert torch.equal(copies[2].timesteps, made.timesteps)
    assert type(diffusers.DDPMWuerstchenScheduler.from_config(made.config)) is diffusers.DDPMWuerstchenScheduler
    assert not isinstance(PlanScheduler.from_config(diffusers.DDIMScheduler()), diffusers.DDIMScheduler)
