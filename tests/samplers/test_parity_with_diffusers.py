"""The same grid, the same model outputs, the same noise: our samplers against diffusers'.

Third net: parity copies the other side's mistakes, so where diffusers is wrong (see
docs/conventions.md) the setting that avoids the mistake is compared.
"""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from peers import published

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig

TOLERANCE = 1e-5
SHAPE = (2, 3, 8, 8)
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
CLIPS = {
    "none": {},
    "clip": {"clip_sample": True, "clip_sample_range": 0.8},
    "threshold": {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.4},
}


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A smooth nonlinear function of x and t, as a stand-in for a trained network.

    Of modest slope, or the rounding of diffusers' float32 tables would be blown up; float64 inside.
    """
    phase = t.double().reshape(-1, 1, 1, 1) / 400
    y = x.double()
    return (0.7 * torch.tanh(0.5 * y.roll(1, -1) + 0.5 * y * torch.cos(phase)) + 0.2 * torch.sin(phase)).to(x.dtype)


def noises(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(SHAPE, generator=generator) for _ in range(count)]


def theirs(scheduler: object, steps: int, x: torch.Tensor, draws: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch,
           **options: object) -> torch.Tensor:  # fmt: skip
    """diffusers' own loop, its random numbers replaced by the given ones."""
    feed = iter(draws)
    monkeypatch.setattr(f"{type(scheduler).__module__}.randn_tensor", lambda *_, **__: next(feed), raising=False)
    scheduler.set_timesteps(steps)
    sigma_space = hasattr(scheduler, "sigmas") and scheduler.sigmas is not None
    if sigma_space:  # k-diffusion's coordinate x/α
        x = x * (1 + float(scheduler.sigmas[0]) ** 2) ** 0.5
    for t in scheduler.timesteps:
        asked = scheduler.scale_model_input(x, t)
        x = scheduler.step(network(asked, t.reshape(1).expand(SHAPE[0])), t, x, **options).prev_sample
    return x


def ours(config: NoiseSchedulerConfig, method: str, steps: int, x: torch.Tensor, draws: list[torch.Tensor],
         timesteps: object = None, **options: object) -> torch.Tensor:  # fmt: skip
    """Our plan in our loop, with the given noise in place of the keyed one."""
    from noise_scheduler_sampling_system.running.bound_plan import bind_for
    from noise_scheduler_sampling_system.running.loop import RowState, run_rows

    pipeline = DiffusionPipeline(config, method, **published(method), **options)
    plan = pipeline.plan(steps, timesteps=timesteps)
    times = torch.tensor(plan.time)
    bound = bind_for(plan, config)
    for step in run_rows(
        bound, lambda x, i: network(x, times[i].expand(SHAPE[0])), RowState(0, x, {}), lambda step, stage: draws[step]
    ):
        x = step.x
    return x


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def config(prediction: str, clip: str, schedule: str = "linear", **more: object) -> NoiseSchedulerConfig:
    return NoiseSchedulerConfig(
        **{"prediction_type": prediction, "beta_schedule": schedule, "steps_offset": 1, **CLIPS[clip], **more}
    )


def diffusers_config(prediction: str, clip: str, schedule: str = "linear", **more: object) -> dict[str, object]:
    clipping = {"clip_sample": False, **CLIPS[clip]}
    name = {"cosine": "squaredcos_cap_v2"}.get(schedule, schedule)
    base = {"prediction_type": prediction, "beta_schedule": name, "steps_offset": 1, "timestep_spacing": "leading"}
    return {"beta_start": 1e-4, "beta_end": 0.02, **base, **clipping, **more}


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("clipped_output", [True, False])
def test_ddim(prediction, clip, schedule, eta, clipped_output, monkeypatch):
    steps, x = 20, noises(1)[0]
    draws = noises(steps)
    reference = diffusers.DDIMScheduler(**diffusers_config(prediction, clip, schedule))
    expected = theirs(
        reference, steps, x, draws, monkeypatch, eta=eta, use_clipped_model_output=clipped_output or clip == "none"
    )
    settings = config(prediction, clip, schedule, use_clipped_model_output=clipped_output)
    assert relative(ours(settings, "ddim", steps, x, draws, eta=eta), expected) < TOLERANCE


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm(prediction, clip, variance, monkeypatch):
    # steps_offset=0: with 1, diffusers adds fixed_large noise to the final sample
    steps, x = 20, noises(1)[0]
    draws = noises(steps)
    reference = diffusers.DDPMScheduler(**diffusers_config(prediction, clip, variance_type=variance, steps_offset=0))
    expected = theirs(reference, steps, x, draws, monkeypatch)
    settings = config(prediction, clip, variance_type=variance, steps_offset=0)
    assert relative(ours(settings, "ddpm", steps, x, draws), expected) < TOLERANCE


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("skip", [True, False])
def test_pndm(skip, schedule, monkeypatch):
    # epsilon only: diffusers combines raw outputs of different times, which is wrong for other predictions
    steps, x = 20, noises(1)[0]
    keys = diffusers_config("epsilon", "none", schedule, skip_prk_steps=skip, set_alpha_to_one=True)
    del keys["clip_sample"]
    expected = theirs(diffusers.PNDMScheduler(**keys), steps, x, [], monkeypatch)
    assert relative(ours(config("epsilon", "none", schedule), "pndm", steps, x, [], skip_prk_steps=skip), expected) < (
        TOLERANCE
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("method", "theirs_class"), [("euler", diffusers.EulerDiscreteScheduler), ("heun", diffusers.HeunDiscreteScheduler)]
)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_sigma_space(method, theirs_class, prediction, spacing, monkeypatch):
    if (method, prediction) == ("euler", "sample"):
        prediction = "v_prediction"  # diffusers' Euler reads "sample" as a rescaled quantity of its own
    steps, x = 20, noises(1)[0]
    offset = 1 if spacing == "leading" else 0
    keys = diffusers_config(prediction, "none", timestep_spacing=spacing, steps_offset=offset)
    del keys["clip_sample"]
    settings = config(prediction, "none", timestep_spacing=spacing, steps_offset=offset)
    reference = theirs_class(**keys)
    # the same grid: 1 − ᾱ of diffusers' float32 table is 1.4e-4 off at t = 1, which Heun then divides by
    reference.alphas_cumprod = DiffusionPipeline(settings).scheduler.alphas_cumprod
    expected = theirs(reference, steps, x, noises(steps), monkeypatch)
    assert relative(ours(settings, method, steps, x, []), expected) < TOLERANCE


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_heun_with_clipping(prediction, monkeypatch):
    steps, x = 20, noises(1)[0]
    reference = diffusers.HeunDiscreteScheduler(**diffusers_config(prediction, "clip"))
    settings = config(prediction, "clip")
    reference.alphas_cumprod = DiffusionPipeline(settings).scheduler.alphas_cumprod
    expected = theirs(reference, steps, x, [], monkeypatch)
    assert relative(ours(settings, "heun", steps, x, []), expected) < TOLERANCE


@pytest.mark.parametrize("clip", ["clip", "threshold"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("method", "options"), [("ancestral", {}), ("euler", {}), ("ancestral", {"eta": 0.4})])
def test_clipping_where_diffusers_has_none(method, options, prediction, clip, monkeypatch):
    """diffusers' Euler samplers do not clip; its DDIM with the same η, which is the same step, does."""
    steps, x = 20, noises(1)[0]
    draws = noises(steps)
    eta = options.get("eta", 1.0 if method == "ancestral" else 0.0)
    reference = diffusers.DDIMScheduler(**diffusers_config(prediction, clip))
    expected = theirs(reference, steps, x, draws, monkeypatch, eta=eta, use_clipped_model_output=True)
    assert relative(ours(config(prediction, clip), method, steps, x, draws, **options), expected) < TOLERANCE


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_ancestral(prediction, monkeypatch):
    steps, x = 20, noises(1)[0]
    draws = noises(steps)
    keys = diffusers_config(prediction, "none")
    del keys["clip_sample"]
    expected = theirs(diffusers.EulerAncestralDiscreteScheduler(**keys), steps, x, draws, monkeypatch)
    assert relative(ours(config(prediction, "none"), "ancestral", steps, x, draws), expected) < TOLERANCE


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_learned_range(prediction, monkeypatch):
    """DDPM with a variance that the model interpolates (the second half of channels)."""
    from noise_scheduler_sampling_system.running.bound_plan import bind_for
    from noise_scheduler_sampling_system.running.loop import RowState, run_rows

    steps, x = 10, noises(1)[0]
    draws = noises(steps)
    reference = diffusers.DDPMScheduler(
        **diffusers_config(prediction, "none", variance_type="learned_range", steps_offset=0)
    )
    feed = iter(draws)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(feed))
    reference.set_timesteps(steps)

    def wide(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([network(x, t), torch.tanh(3 * x)], dim=1)

    expected = x
    for t in reference.timesteps:
        expected = reference.step(wide(expected, t.reshape(1).expand(SHAPE[0])), t, expected).prev_sample
    settings = config(prediction, "none", variance_type="learned_range", steps_offset=0)
    plan = DiffusionPipeline(settings, "ddpm").plan(steps)
    times = torch.tensor(plan.time)
    bound = bind_for(plan, settings)
    for step in run_rows(bound, lambda x, i: wide(x, times[i].expand(2)), RowState(0, x, {}), lambda s, _: draws[s]):
        x = step.x
    assert relative(x, expected) < TOLERANCE


@pytest.mark.parametrize("ours_name", ["linear", "cosine"])
def test_schedule_tables(ours_name):
    reference = diffusers.DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule={"cosine": "squaredcos_cap_v2"}.get(ours_name, ours_name)
    )
    scheduler = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=ours_name)).scheduler
    np.testing.assert_allclose(scheduler.betas.numpy(), reference.betas.numpy(), rtol=2e-4)
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), reference.alphas_cumprod.numpy(), rtol=1e-3)
    x0, noise = noises(2)
    t = torch.tensor([3, 700])
    assert relative(scheduler.add_noise(x0, noise, t), reference.add_noise(x0, noise, t)) < TOLERANCE
    assert relative(scheduler.velocity(x0, noise, t), reference.get_velocity(x0, noise, t)) < TOLERANCE


def test_consistency_steps_on_trigflow_are_those_of_scm(monkeypatch):
    """The default grid, 5 steps. diffusers begins at 1.5708, where cos t = -4e-6; the path ends at pi/2."""
    steps, x = 5, noises(1)[0]
    draws = noises(steps)
    scheduler = diffusers.SCMScheduler(sigma_data=1.0)
    monkeypatch.setattr(f"{type(scheduler).__module__}.randn_tensor", lambda *_, **__: next(feed))
    scheduler.set_timesteps(steps, intermediate_timesteps=None)
    feed, state = iter(draws), x
    for t in scheduler.timesteps[:-1]:
        state = scheduler.step(network(state, t.expand(SHAPE[0])), t, state).prev_sample
    assert relative(ours(NoiseSchedulerConfig(beta_schedule="trigflow"), "lcm", steps, x, draws), state) < TOLERANCE
