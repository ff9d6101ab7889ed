"""Reading schedulers of diffusers: each is read or refused with the reason, and its path is theirs."""

from __future__ import annotations

import math
import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    SamplerFactory,
    SamplingPlan,
)
from noise_scheduler_sampling_system.grids import make_grid
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler, read
from noise_scheduler_sampling_system.integrations.diffusers.reading.class_table import READERS
from noise_scheduler_sampling_system.integrations.diffusers.reading.refusals import NO_PATH, NO_TWIN
from noise_scheduler_sampling_system.support.registry import Registry
from twins import (
    KARRAS,
    LEADING,
    LOWEST,
    V,
    scheduler_of,
)

CLASSES = sorted(
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler") and isinstance(getattr(diffusers, name), type) and name != "SchedulerMixin"
)


#: Classes with steps that the package does not export.
HIDDEN = {"ConsistencyDecoderScheduler", "ScoreSdeVpScheduler"}


def test_every_scheduler_of_diffusers_is_read_or_refused():
    assert set(CLASSES) | HIDDEN == set(READERS) | set(NO_PATH)
    assert set(READERS).isdisjoint(NO_PATH)
    assert set(NO_TWIN) <= set(READERS)
    assert all(refusal.reason and refusal.instead for refusal in (*NO_PATH.values(), *NO_TWIN.values()))


@pytest.mark.parametrize("name", [name for name in CLASSES if name in READERS])
def test_every_class_that_is_read_is_replaced_or_refused_with_the_way_out(name):
    if name not in NO_TWIN:
        assert PlanScheduler.from_config(scheduler_of(name, bare=True)).order >= 1
        return
    with pytest.raises(ConfigurationError) as refused:
        PlanScheduler.from_config(scheduler_of(name, bare=True))
    assert NO_TWIN[name].reason in str(refused.value)
    assert NO_TWIN[name].instead in str(refused.value)


@pytest.mark.parametrize(
    ("name", "steps", "choice"),
    [
        ("KarrasVeScheduler", 9, {"method": "edm", "s_churn": 40.0, "timestep_spacing": "karras"}),
        ("RePaintScheduler", 5, {"method": "ddim", "timestep_spacing": "leading"}),
        ("ScoreSdeVeScheduler", 9, {"method": "predictor_corrector", "timestep_spacing": "log_snr"}),
    ],
)
def test_the_ways_out_that_refusals_name_run(name, steps, choice):
    scheduler = PlanScheduler.from_config(scheduler_of(name, bare=True), **choice)
    scheduler.set_timesteps(5)
    assert (scheduler.plan.sampler, len(scheduler.timesteps)) == (choice["method"], steps)
    for word in choice:
        assert word in NO_TWIN[name].instead


@pytest.mark.parametrize("name", sorted(NO_PATH))
def test_those_without_a_path_are_refused_with_the_reason(name):
    with pytest.raises(ConfigurationError, match=f"{name} is not read: ") as refused:
        NoiseSchedulerConfig.from_diffusers({"_class_name": name})
    assert NO_PATH[name].instead in str(refused.value)


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
    if type(scheduler).__name__ == "SCMScheduler":
        angle = np.linspace(0.01, 1.57, 20)
        return angle, np.cos(angle), np.sin(angle)
    if type(scheduler).__name__ in ("LTXEulerAncestralRFScheduler", "MiniMaxH3Scheduler"):
        scheduler.set_timesteps(20, device="cpu")
    sigma = scheduler.sigmas.double().numpy()
    sigma = sigma[sigma > 0][5:-5]
    if scheduler.config.get("shift") is not None or "RF" in type(scheduler).__name__:
        return sigma * (1 if type(scheduler).__name__ == "MiniMaxH3Scheduler" else 1000), 1.0 - sigma, sigma
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
        ("SCMScheduler", {"prediction_type": "epsilon"}, "got 'epsilon'"),
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
        ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1, **KARRAS}, "shift_terminal"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous", **V}, "to be told"),
        ("ScoreSdeVeScheduler", {}, "the score"),
        ("MiniMaxH3Scheduler", {}, "share of the signal"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "share of the signal"),
        ("SCMScheduler", {}, "0.5 times those of the path"),
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
    ltx = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0, shift_terminal=0.1)
    ltx.set_timesteps(7)
    config = NoiseSchedulerConfig.from_diffusers(ltx)
    assert dict(config.spacing_options) == {"shift_terminal": 0.1}
    levels = make_grid(NoiseSchedulerFactory.create(config), 7).levels
    assert [level.sigma for level in levels] == pytest.approx(ltx.sigmas.tolist(), abs=1e-6)
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
