"""Log-densities against exact ones: Gaussian and mixture data, smoothed by the noise of the cleanest level."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig, TimeGrid
from noise_scheduler_sampling_system.analysis.likelihood import log_likelihood
from noise_scheduler_sampling_system.models import GaussianMixtureModel, GaussianModel
from noise_scheduler_sampling_system.support.errors import ModelOutputError

MEANS = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def normal(x: torch.Tensor, variance: float, mean: torch.Tensor | float = 0.0) -> torch.Tensor:
    """The log-density of an isotropic Gaussian, over the last dimension."""
    d = x.shape[-1]
    return -0.5 * (x - mean).square().sum(-1) / variance - 0.5 * d * math.log(2 * math.pi * variance)


def mixture(x: torch.Tensor, alpha: float = 1.0, sigma: float = 0.0) -> torch.Tensor:
    """log p of α·(a mixture of five Gaussians of variance 0.3) + σ·ε."""
    each = normal(x[:, None], alpha**2 * 0.3 + sigma**2, alpha * MEANS)
    return each.logsumexp(1) - math.log(5)


def setting(schedule="vp", method="heun", spacing="log_snr", **config):
    pipeline = DiffusionPipeline(
        NoiseSchedulerConfig(beta_schedule=schedule, timestep_spacing=spacing, **config), method
    )
    model = GaussianMixtureModel(pipeline.scheduler, MEANS, 0.3, prediction_type=pipeline.config.prediction_type)
    return pipeline, model, model.sample_data(6, generator=2)


def error(pipeline, model, x, steps, **options):
    """The error of the ODE's part: the density at the noisiest level is taken to be the exact one."""
    found = log_likelihood(pipeline, model, x, steps, divergence="exact", **options)
    top = found.noisiest
    assumed = normal(found.latent, top.alpha**2 + top.sigma**2)
    corrected = found.log_prob - assumed + mixture(found.latent, top.alpha, top.sigma)
    exact = mixture(x, 1.0, found.cleanest.noise_to_signal)
    return float((corrected - exact).square().mean().sqrt())


@pytest.mark.parametrize("schedule", ["linear", "edm", "flow"])
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(schedule, method, order):
    pipeline, model, x = setting(schedule, method)
    counts = (25, 50, 100)
    errors = [error(pipeline, model, x, n) for n in counts]
    slope = -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])
    assert order - 0.2 < slope < order + 0.3, errors


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize("method", ["heun", "pndm"])
def test_every_prediction_type_and_sampler(method, prediction):
    pipeline, model, x = setting("vp", method, prediction_type=prediction)
    found = log_likelihood(pipeline, model, x, 80, divergence="exact")
    assert torch.allclose(found.log_prob, mixture(x, 1.0, found.cleanest.noise_to_signal), atol=0.03)
    assert found.nfe == pipeline.sampler.plan(grid=TimeGrid(pipeline.sampler.grid(81).levels[:-1])).nfe


def test_the_trace_of_gaussian_data_of_unit_variance_is_known():
    """It is what is subtracted: nothing is left to integrate, and all error is that of the latent."""
    for schedule in ("linear", "cosine", "v_diffusion"):
        pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=schedule, timestep_spacing="log_snr"), "heun")
        model = GaussianModel(pipeline.scheduler, prediction_type=pipeline.config.prediction_type)
        x = torch.randn(4, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        level = pipeline.scheduler.level(pipeline.scheduler.t_min)
        many = log_likelihood(pipeline, model, x, 80, divergence="exact")
        exact = normal(x.flatten(1), 1.0 + level.noise_to_signal**2)
        # what is left is where the sampler ends, and none of it the trace
        latent = normal(many.latent.flatten(1), 1.0) + 6 * math.log(level.alpha)
        assert torch.allclose(many.log_prob, latent, atol=1e-9)
        assert torch.allclose(many.log_prob, exact, atol=0.06)


def test_anisotropic_gaussian():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="edm"), "heun")
    factor = torch.tensor([[0.5, 0.2], [0.0, 1.3]], dtype=torch.float64)
    mean, covariance = torch.tensor([0.3, -0.2], dtype=torch.float64), factor @ factor.T
    model = GaussianModel(pipeline.scheduler, mean, covariance, "sample")
    x = model.sample_data(8, generator=1)
    found = log_likelihood(pipeline, model, x, 60, divergence="exact")
    smoothed = covariance + found.cleanest.sigma**2 * torch.eye(2)
    exact = torch.distributions.MultivariateNormal(mean, smoothed).log_prob(x)
    assert found.cleanest.sigma == pytest.approx(0.002)
    assert torch.allclose(found.log_prob, exact, atol=0.01)
    assert torch.allclose(found.bits_per_dim(), -exact / (2 * math.log(2)), atol=0.01)
    assert torch.allclose(found.bits_per_dim(2 / 256), 7 + found.bits_per_dim())


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_its_variance_falls_with_probes(probe):
    """One sample, many seeds: the mean is the exact divergence's result; four probes halve the deviation."""
    pipeline, model, x = setting(method="euler")
    many = x[:1].expand(1500, 4)
    exact = log_likelihood(pipeline, model, x[:1], 12, divergence="exact").log_prob
    single, four = (log_likelihood(pipeline, model, many, 12, probes=n, probe=probe, seed=n).log_prob for n in (1, 4))
    for drawn in (single, four):
        assert abs(float(drawn.mean() - exact)) < 4 * float(drawn.std()) / math.sqrt(len(drawn))
    assert float(single.std()) > 0.02
    assert float(four.std() / single.std()) == pytest.approx(0.5, abs=0.05)


def test_hutchinson_of_isotropic_data_has_no_variance():
    """vᵀ·v is subtracted with the trace, so that even Gaussian probes add nothing to what is known."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="vp", timestep_spacing="log_snr"), "heun")
    model = GaussianModel(pipeline.scheduler)
    x = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).expand(50, 6)
    for probe in ("rademacher", "gaussian"):
        assert (
            float(log_likelihood(pipeline, model, x, 10, probe=probe, seed=1).log_prob.std()) < 1e-6
        )  # the model is told float32 times


def test_keyed_by_seed_and_sample():
    pipeline, model, x = setting()
    whole = log_likelihood(pipeline, model, x, 5, seed=3, add_noise=True)
    assert torch.equal(whole.log_prob, log_likelihood(pipeline, model, x, 5, seed=3, add_noise=True).log_prob)
    part = log_likelihood(pipeline, model, x[:2], 5, seed=3, add_noise=True)
    assert torch.allclose(whole.log_prob[:2], part.log_prob, atol=1e-12)
    assert not torch.allclose(whole.log_prob, log_likelihood(pipeline, model, x, 5, seed=4, add_noise=True).log_prob)


def test_added_noise_and_given_grids():
    """From a level of some noise: the density is that of the data smoothed by σ/α, at noisy samples or at x itself."""
    pipeline, model, x = setting()
    path = pipeline.scheduler
    down = TimeGrid(tuple(path.level_at(v) for v in np.linspace(2 * path.level(path.t_max).half_log_snr, 1.0, 60)))
    s = down.levels[-1].noise_to_signal
    found = log_likelihood(pipeline, model, x, grid=down, divergence="exact")
    assert found.cleanest == down.levels[-1]
    assert s > 0.5
    assert torch.allclose(found.log_prob, mixture(x, 1.0, s), atol=0.02)
    upwards = log_likelihood(pipeline, model, x, grid=TimeGrid(down.levels[::-1]), divergence="exact")
    assert torch.equal(upwards.log_prob, found.log_prob)
    noisy = log_likelihood(
        pipeline, model, 0.0 * x.repeat(60, 1), grid=down, divergence="exact", add_noise=True, seed=0
    )
    start = model.reference_solution(noisy.latent, t=noisy.noisiest.t, t_end=down.levels[-1].t) / down.levels[-1].alpha
    assert float(start.std()) == pytest.approx(s, rel=0.08)
    assert torch.allclose(noisy.log_prob, mixture(start, 1.0, s), atol=0.05)


def test_conditions_and_types():
    pipeline, _, x = setting()
    labels = torch.tensor([0, 0, 0, 1, 1])
    model = GaussianMixtureModel(pipeline.scheduler, MEANS, 0.3, labels=labels)
    wanted = torch.tensor([0, 1, 0, 1, 0, 1])
    found = log_likelihood(pipeline, model, x, 60, divergence="exact", condition={"class_labels": wanted})
    s2 = 0.3 + found.cleanest.noise_to_signal**2
    of = [normal(x[:, None], s2, MEANS[labels == c]).logsumexp(1) - math.log(int((labels == c).sum())) for c in (0, 1)]
    assert torch.allclose(found.log_prob, torch.where(wanted == 0, of[0], of[1]), atol=0.03, rtol=0.01)
    single = log_likelihood(pipeline, model, x.float(), 60, divergence="exact", condition={"class_labels": wanted})
    assert single.latent.dtype == torch.float32
    assert single.log_prob.dtype == torch.float64
    assert torch.allclose(single.log_prob, found.log_prob, atol=1e-3)
    with torch.no_grad():  # the caller's setting does not matter
        again = log_likelihood(pipeline, model, x, 60, divergence="exact", condition={"class_labels": wanted})
    assert torch.equal(again.log_prob, found.log_prob)


def test_refusals():
    pipeline, model, x = setting()
    with pytest.raises(ConfigurationError, match="divergence"):
        log_likelihood(pipeline, model, x, 5, divergence="hutchison")
    with pytest.raises(ConfigurationError, match="probes"):
        log_likelihood(pipeline, model, x, 5, probes=0)
    with pytest.raises(ConfigurationError, match="not that of an ODE"):
        log_likelihood(DiffusionPipeline(pipeline.config, "ancestral"), model, x, 5)
    heun = DiffusionPipeline(pipeline.config.replace(clip_sample=True), "heun")
    clipped = log_likelihood(heun, model, x, 5, divergence="exact")  # the flow of the clipped predictions
    assert not torch.allclose(clipped.log_prob, log_likelihood(pipeline, model, x, 5, divergence="exact").log_prob)
    with pytest.raises(ConfigurationError, match="not that of an ODE"):
        log_likelihood(DiffusionPipeline(pipeline.config, "heun", afs=True), model, x, 5)
    weight = torch.ones((), requires_grad=True)
    for detached in (lambda x, t: model(x.detach(), t), lambda x, t: weight * model(x.detach(), t)):
        with pytest.raises(ModelOutputError, match="no gradient"):
            log_likelihood(pipeline, detached, x, 5)
