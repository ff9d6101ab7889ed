"""Our samplers in diffusers' pipelines, against its own schedulers there, and reading these.

The pipelines are real, their weights small and random (tiny_pipelines.py). The scheduler that a pipeline has
by itself and its twin here start from the same generator, so they draw the same noise; the twin's result is
to agree to 1e-4 of the largest entry. Where diffusers is at fault the test says so, and shows it.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
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
)
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from sampler_names import IN_DIFFUSERS, NOT_IN_DIFFUSERS
from tiny_pipelines import arguments, build
from twins import (
    NETWORKS,
    TOLERANCE,
    images,
    relative,
    scheduler_of,
    shared,
    start,
)


@pytest.mark.parametrize("kind", ["sd", "sd_img2img", "sd_inpaint", "sdxl", "sd3", "flux", "pixart", "ddpm"])
def test_every_sampler_runs_in(kind):
    pipe = build(kind)
    base, steps = pipe.scheduler, 3
    network = next(getattr(pipe, name) for name in NETWORKS if hasattr(pipe, name))
    calls = []
    hook = network.register_forward_pre_hook(lambda *_: calls.append(1))
    fast = {"guidance_scale": 1.0} if kind.startswith("sd") else {}
    usual = images(pipe, kind, steps=steps, **fast).shape
    for method in IN_DIFFUSERS:
        wide = {"t_min": 0.01, "t_max": 100.0} if method == "restart" else {}
        pipe.scheduler = PlanScheduler.from_config(base, method=method, **wide)
        calls.clear()
        result = images(pipe, kind, steps=steps, **fast)
        skipped = pipe.scheduler.begin_index or 0
        assert result.shape == usual, method
        assert np.isfinite(result).all(), method
        assert len(calls) == pipe.scheduler.plan.nfe - skipped == len(pipe.scheduler.timesteps) - skipped, method
    hook.remove()


@pytest.mark.parametrize("method", sorted(NOT_IN_DIFFUSERS))
def test_samplers_that_need_more_are_refused(method):
    with pytest.raises(ConfigurationError, match=r"has no plan|guided one only|network of two times"):
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
