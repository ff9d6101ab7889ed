"""Stochastic steps as Gaussians: closed forms, gradients, and the log-probabilities of recorded runs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig, guidance
from noise_scheduler_sampling_system.analysis.step_probabilities import (
    StepDistribution,
    step_distribution,
    trajectory_log_probs,
)
from noise_scheduler_sampling_system.models import DigitsModel, GaussianModel
from noise_scheduler_sampling_system.running.bound_plan import bind_for
from noise_scheduler_sampling_system.running.loop import RowState
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys
from noise_scheduler_sampling_system.samplers.base import BaseSampler


class TinyNetwork(nn.Module):
    """A linear layer and the time."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, outputs, 3, padding=1, dtype=torch.float64)

    def forward(self, x, t):
        return self.layer(x) + 1e-3 * t.to(x).reshape(-1, 1, 1, 1)


def recorded(pipeline, model, steps=6, batch=3, dtype=torch.float64, **settings):
    """The N + 1 states of a run."""
    source = NoiseSource(resolve_keys(7, None, batch), (1, 4, 4), dtype)
    plan = pipeline.plan(steps)
    start = source.initial() * plan.prior_scale
    run = pipeline.stream(model, initial_sample=start, plan=plan, seed=7, dtype=dtype, **settings)
    return [start, *(step.x for step in run)]


def test_closed_form_of_a_gaussian():
    mean, std = torch.randn(4, 2, 3, dtype=torch.float64), 0.3
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    drawn, known = StepDistribution(mean, std), torch.distributions.Normal(mean, std)
    assert torch.allclose(drawn.log_prob(x), known.log_prob(x).sum((1, 2)))
    assert torch.allclose(drawn.log_prob(x, "mean"), known.log_prob(x).mean((1, 2)))
    assert torch.allclose(drawn.entropy(), known.entropy().sum((1, 2)))
    assert torch.allclose(drawn.entropy("mean"), known.entropy().mean((1, 2)))
    assert torch.equal(drawn.sample(x), mean + 0.3 * x)
    each = torch.rand(4, 2, 3, dtype=torch.float64) + 0.1
    drawn, known = StepDistribution(mean, each), torch.distributions.Normal(mean, each)
    assert torch.allclose(drawn.log_prob(x), known.log_prob(x).sum((1, 2)))
    assert torch.allclose(drawn.entropy(), known.entropy().sum((1, 2)))
    half = StepDistribution(mean.bfloat16(), 0.3).log_prob(x.bfloat16())
    assert half.dtype == torch.float32
    exact = torch.distributions.Normal(mean.bfloat16().float(), 0.3).log_prob(x.bfloat16().float()).sum((1, 2))
    assert torch.allclose(half, exact, rtol=1e-5)
    with pytest.raises(ConfigurationError, match="reduction"):
        drawn.log_prob(x, "max")
    with pytest.raises(ConfigurationError, match="deterministic"):
        StepDistribution(mean, 0.0).log_prob(x)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range", "learned"])
def test_a_ddpm_step_is_the_posterior(variance_type):
    """Mean and variance of Ho et al. 2020 (eq. 6 and 7) and of Nichol & Dhariwal 2021 (eq. 15), from the betas."""
    config = NoiseSchedulerConfig(variance_type=variance_type, timestep_spacing="trailing")
    pipeline = DiffusionPipeline(config, "ddpm")
    plan = pipeline.plan(config.num_train_timesteps)  # so that steps are those of the betas
    learned = variance_type.startswith("learned")
    model = TinyNetwork(2 if learned else 1)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    row = 400
    t = round(float(plan.time[row]))
    output = model(x, torch.full((2,), t)).detach()
    drawn = step_distribution(bind_for(plan, config), RowState(row, x, {}), output)

    betas = torch.linspace(config.beta_start, config.beta_end, config.num_train_timesteps, dtype=torch.float64)
    bar = (1 - betas).cumprod(0)
    epsilon = output[:, :1]
    mean = (x - betas[t] / (1 - bar[t]).sqrt() * epsilon) / (1 - betas[t]).sqrt()
    low = betas[t] * (1 - bar[t - 1]) / (1 - bar[t])
    fraction = (output[:, 1:] + 1) / 2 if learned else 0.0
    std = {
        "fixed_small": low.sqrt(),
        "fixed_large": betas[t].sqrt(),
        "learned_range": torch.exp((fraction * betas[t].log() + (1 - fraction) * low.log()) / 2) if learned else None,
        "learned": torch.exp(output[:, 1:] / 2) if learned else None,
    }[variance_type]
    assert torch.allclose(drawn.mean, mean, atol=1e-9)
    assert torch.allclose(torch.as_tensor(drawn.std, dtype=torch.float64), std, atol=1e-9)
    noise = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    after = bind_for(plan, config).advance(RowState(row, x, {}), output, lambda step, stage: noise).x
    assert torch.allclose(drawn.sample(noise), after, atol=1e-12)


@pytest.mark.parametrize(("method", "options"), [("ddpm", {}), ("ancestral", {}), ("ddim", {"eta": 0.5})])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_log_probs_of_a_run_are_those_of_its_noise(method, options, reduction):
    """Each state is its mean and std·ξ with the keyed noise ξ, so that log p = −½ξ² − log std − ½ log 2π."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="trailing"), method, **options)
    model = DigitsModel(pipeline.scheduler)
    states = recorded(pipeline, model)
    found = trajectory_log_probs(pipeline, model, states, reduction=reduction)
    assert found.shape == (6, 3)
    plan, source = pipeline.plan(6), NoiseSource(resolve_keys(7, None, 3), (1, 4, 4), torch.float64)
    for step in range(5):
        each = -0.5 * source(step, 0).square() - math.log(plan.c[step, 0]) - 0.5 * math.log(2 * math.pi)
        expected = each.flatten(1).sum(1) if reduction == "sum" else each.flatten(1).mean(1)
        assert torch.allclose(found[step], expected, atol=1e-6)
    assert torch.equal(found[5], torch.zeros(3, dtype=torch.float64))  # to the clean sample, nothing is drawn
    some = trajectory_log_probs(pipeline, model, torch.stack(states), steps=[3, 1], reduction=reduction)
    assert torch.equal(some, found[[3, 1]])


def test_exact_transition_of_gaussian_data():
    """For Gaussian data the ancestral step's mean is affine: the log-probability in closed form."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="edm"), "ancestral")
    model = GaussianModel(pipeline.scheduler, 0.4, 0.5, "sample")
    states = recorded(pipeline, model, 4)
    found = trajectory_log_probs(pipeline, model, states)
    sigma = pipeline.plan(4).sigma
    for i in range(3):
        now, after = float(sigma[i]), float(sigma[i + 1])
        clean = (0.5 * states[i] + now**2 * 0.4) / (0.5 + now**2)  # E[x₀ | x]
        keep = (after / now) ** 2  # the posterior of x' given x and x₀
        law = torch.distributions.Normal(keep * states[i] + (1 - keep) * clean, after * math.sqrt(1 - keep))
        assert torch.allclose(found[i], law.log_prob(states[i + 1]).sum((1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range"])
def test_the_gradient_is_that_of_the_formula(variance_type):
    """By finite differences in the parameters, for all steps at once and for one at a time."""
    config = NoiseSchedulerConfig(variance_type=variance_type, timestep_spacing="trailing")
    pipeline, model = DiffusionPipeline(config, "ddpm"), TinyNetwork(2 if variance_type == "learned_range" else 1)
    states = recorded(pipeline, model)
    weights = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)[:, None] * torch.tensor([1.0, -0.5, 2.0])

    def total():
        return (weights * trajectory_log_probs(pipeline, model, states, reduction="mean")).sum()

    bias = model.layer.bias
    (gradient,) = torch.autograd.grad(total(), bias)
    assert bool((gradient != 0).all())
    for i in range(len(bias)):
        values = []
        for shift in (1e-5, -1e-5):
            with torch.no_grad():
                bias[i] += shift
                values.append(float(total()))
                bias[i] -= shift
        assert float(gradient[i]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)
    parts = torch.zeros_like(bias)
    for step in range(6):
        one = trajectory_log_probs(pipeline, model, states, steps=[step], reduction="mean")
        if one.requires_grad:
            parts += torch.autograd.grad((weights[step] * one[0]).sum(), bias)[0]
    assert torch.allclose(parts, gradient)


def test_guided_runs():
    """Guidance is part of the policy, with what it remembers."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddpm")
    model = DigitsModel(pipeline.scheduler)
    settings = {"condition": {"class_labels": torch.tensor([1, 2, 3])}, "guidance_scale": 3.0}
    states = recorded(pipeline, model, **settings)
    found = trajectory_log_probs(pipeline, model, states, **settings)
    source = NoiseSource(resolve_keys(7, None, 3), (1, 4, 4), torch.float64)
    each = -0.5 * source(2, 0).square() - math.log(pipeline.plan(6).c[2, 0]) - 0.5 * math.log(2 * math.pi)
    assert torch.allclose(found[2], each.sum((1, 2, 3)), atol=1e-6)
    assert not torch.allclose(found, trajectory_log_probs(pipeline, model, states))
    momentum = {"condition": settings["condition"], "guidance": guidance.AdaptiveProjected(3.0, momentum=-0.5)}
    states = recorded(pipeline, model, **momentum)
    found = trajectory_log_probs(pipeline, model, states, **momentum)
    assert torch.allclose(found[2], each.sum((1, 2, 3)), atol=1e-6)
    assert torch.allclose(trajectory_log_probs(pipeline, model, states, steps=[2], **momentum)[0], found[2])
    cached = {"condition": settings["condition"], "guidance": guidance.CachedGuidance(3.0, calls=(0, 2))}
    states = recorded(pipeline, model, **cached)
    found = trajectory_log_probs(pipeline, model, states, **cached)
    for step in (1, 3):  # which read the differences of steps 0 and 2
        assert torch.allclose(trajectory_log_probs(pipeline, model, states, steps=[step], **cached)[0], found[step])


class Remembering(BaseSampler):
    """Extrapolates from the last prediction, and takes back part of the last noise, in the words of the builder."""

    stochastic = True
    lag = 0.0

    def write(self, build, grid):
        last, noise = None, None
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            clean = p.sample if last is None else 1.5 * p.sample - 0.5 * last
            x = after.alpha * clean + 0.8 * after.sigma * p.epsilon
            if after.sigma:
                fresh = build.noise(i)
                x = x + 0.6 * after.sigma * fresh
                if noise is not None and self.lag:
                    x = x + self.lag * after.sigma * noise
                noise = fresh
            last = p.sample
            build.advance(x)


class Correlated(Remembering):
    lag = 0.3


@pytest.mark.parametrize("sampler", [Remembering, Correlated])
def test_multistep_and_correlated_noise(sampler):
    """The density of a state given all states before it: its own noise's, whatever is remembered."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="trailing"), sampler)
    model = DigitsModel(pipeline.scheduler)
    states = recorded(pipeline, model)
    found = trajectory_log_probs(pipeline, model, states)
    plan, source = pipeline.plan(6), NoiseSource(resolve_keys(7, None, 3), (1, 4, 4), torch.float64)
    for step in range(5):
        each = -0.5 * source(step, 0).square() - math.log(plan.c[step, 0]) - 0.5 * math.log(2 * math.pi)
        assert torch.allclose(found[step], each.sum((1, 2, 3)), atol=1e-6)
    assert torch.allclose(trajectory_log_probs(pipeline, model, states, steps=[4])[0], found[4])
    if sampler is Correlated:
        with pytest.raises(ConfigurationError, match="noise of earlier rows"):
            step_distribution(bind_for(plan, pipeline.config), RowState(2, states[2], {}), states[2])


class TwoNoises(BaseSampler):
    """An ancestral step whose noise comes in two halves."""

    def write(self, build, grid):
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            x = after.alpha * p.sample + 0.8 * after.sigma * p.epsilon
            build.advance(x + 0.36 * after.sigma * build.noise(i) + 0.48 * after.sigma * build.noise(i))


class TwoNoisesReadAgain(BaseSampler):
    """The same, with part of the first half in the next step, too."""

    def write(self, build, grid):
        old = None
        for i, now, after in grid.intervals():
            p = build.predict(now, i)
            x = after.alpha * p.sample + 0.8 * after.sigma * p.epsilon
            x = x if old is None else x + 0.1 * after.sigma * old
            old = build.noise(i)
            build.advance(x + 0.36 * after.sigma * old + 0.48 * after.sigma * build.noise(i))


class Churned(BaseSampler):
    """Noise first, then the model."""

    def write(self, build, grid):
        for i, now, after in grid.intervals():
            build.advance(0.8 * build.x + 0.6 * now.sigma * build.noise(i))
            p = build.predict(now, i)
            build.advance(after.alpha * p.sample + after.sigma * p.epsilon)


def test_several_noises_add_up_and_noise_before_a_call_is_refused():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), TwoNoises)
    model = DigitsModel(pipeline.scheduler)
    states = recorded(pipeline, model)
    plan, source = pipeline.plan(6), NoiseSource(resolve_keys(7, None, 3), (1, 4, 4), torch.float64)
    drawn = 0.6 * source(2, 0) + 0.8 * source(2, 1)
    std = 0.6 * float(plan.sigma[:-1][plan.step == 3][0])
    each = -0.5 * drawn.square() - math.log(std) - 0.5 * math.log(2 * math.pi)
    assert torch.allclose(trajectory_log_probs(pipeline, model, states)[2], each.sum((1, 2, 3)), atol=1e-6)
    again = DiffusionPipeline(NoiseSchedulerConfig(), TwoNoisesReadAgain)
    with pytest.raises(ConfigurationError, match="one of the noises"):
        trajectory_log_probs(again, model, recorded(again, model))
    churned = DiffusionPipeline(NoiseSchedulerConfig(), Churned)
    with pytest.raises(ConfigurationError, match="received noise in this step"):
        trajectory_log_probs(churned, model, recorded(churned, model))


def test_refusals():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddpm")
    model = DigitsModel(pipeline.scheduler)
    states = recorded(pipeline, model)
    with pytest.raises(ConfigurationError, match="7 states"):
        trajectory_log_probs(pipeline, model, states[:-1], plan=pipeline.plan(6))
    with pytest.raises(ConfigurationError, match="steps"):
        trajectory_log_probs(pipeline, model, states, steps=[6])
