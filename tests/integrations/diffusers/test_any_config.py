"""Configs of diffusers that few people have: every sampler on them, and what their own classes make of them."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import ConfigurationError
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from sampler_names import IN_DIFFUSERS

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LOWEST = {"final_sigmas_type": "sigma_min"}
#: Classes whose runs end at a level with noise.
NOISY_ENDS: list[tuple[str, dict[str, Any]]] = [
    ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1}),
    ("EulerDiscreteScheduler", LOWEST), ("DPMSolverMultistepScheduler", LOWEST), ("UniPCMultistepScheduler", LOWEST),
    ("DEISMultistepScheduler", {}), ("SASolverScheduler", {}),
]  # fmt: skip


def driven(scheduler: Any, steps: int) -> Tensor:
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(scheduler.scale_model_input(x, t)), t, x)[0]
    return x


@pytest.mark.parametrize(("name", "flags"), NOISY_ENDS, ids=str)
def test_every_sampler_runs_to_an_end_with_noise(name, flags):
    config = getattr(diffusers, name)(**SD, **flags)
    for method in IN_DIFFUSERS:
        wide = {"t_min": 0.01, "t_max": 100.0} if method == "restart" else {}
        assert driven(PlanScheduler.from_config(config, method=method, **wide), 6).isfinite().all(), method


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("offset", [0, 1])
def test_few_steps_of_pndm_are_its_own(offset, steps):
    theirs = diffusers.PNDMScheduler(**SD, skip_prk_steps=True, steps_offset=offset)
    if (offset, steps) == (0, 1):
        with pytest.raises(ConfigurationError, match="stays at its level, t = 0"):
            PlanScheduler.from_config(theirs).set_timesteps(1)
        return
    ours = PlanScheduler.from_config(theirs)
    torch.testing.assert_close(driven(ours, steps), driven(theirs, steps))
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("method", IN_DIFFUSERS)
def test_one_step(method):
    """Of which some samplers add no noise."""
    scheduler = PlanScheduler.from_config(diffusers.DDIMScheduler(), method=method)
    if method == "restart":
        with pytest.raises(ConfigurationError, match="no interval"):
            scheduler.set_timesteps(1)
        return
    assert driven(scheduler, 1).isfinite().all()


@pytest.mark.parametrize("total", [25, 100])
@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
                                  "SASolverScheduler"])  # fmt: skip
def test_as_many_steps_as_timesteps(name, total):
    """Rounding lists one twice, where theirs divides by 0."""
    theirs = getattr(diffusers, name)(num_train_timesteps=total)
    ours = PlanScheduler.from_config(theirs)
    assert driven(ours, total).isfinite().all()
    theirs.set_timesteps(total)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    assert len(set(ours.timesteps.tolist())) == total - 1
    assert ours.plan.nfe == total - 1


@pytest.mark.parametrize("name", ["DDPMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("given", [{"timesteps": [900, 500, 500, 10]}, {"timesteps": [900, 500, 600, 10]},
                                   {"sigmas": [9.0, 2.0, 2.0, 0.5]}], ids=str)  # fmt: skip
def test_levels_that_do_not_fall_are_refused_with_the_pair(name, given):
    scheduler = PlanScheduler.from_config(getattr(diffusers, name)(**SD))
    ((kind, values),) = given.items()
    with pytest.raises(ConfigurationError, match="entries 1 and 2 are") as refused:
        scheduler.set_timesteps(**given)
    assert refused.value.where == kind
    assert str(sorted(map(float, set(values)), reverse=True)) in str(refused.value)


@pytest.mark.filterwarnings("ignore:dynamic thresholding is pinned")
@pytest.mark.parametrize(
    "threshold",
    [
        {"sample_max_value": 0.5},
        {"dynamic_thresholding_ratio": 0.0},
        {"sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_thresholds_are_theirs(name, threshold):
    theirs = getattr(diffusers, name)(**SD, thresholding=True, **threshold)
    if "clip_sample" in theirs.config:
        theirs = getattr(diffusers, name)(**SD, thresholding=True, clip_sample=False, **threshold)
    torch.testing.assert_close(driven(PlanScheduler.from_config(theirs), 5), driven(theirs, 5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["UnCLIPScheduler", "KarrasVeScheduler"])
def test_what_their_own_code_cannot_do_is_said(name):
    scheduler = PlanScheduler.from_config(getattr(diffusers, name)(), method="ddim")
    with pytest.raises(ConfigurationError, match="timestep_spacing"):
        scheduler.set_timesteps(1)
