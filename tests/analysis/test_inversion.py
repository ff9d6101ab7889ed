"""Reversible samplers: both ways together are the identity; the order of each; what cannot be undone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    SamplerFactory,
    TimeGrid,
)
from noise_scheduler_sampling_system.analysis.inversion import Ends, ReversibleRun
from noise_scheduler_sampling_system.guidance import AdaptiveProjected
from noise_scheduler_sampling_system.models import DigitsModel, GaussianMixtureModel

SAMPLERS = [("belm", {}), ("bdia", {}), ("bdia", {"gamma": 0.9})]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def digits(method="belm", options=None, schedule="linear", spacing="trailing", **config):
    pipeline = DiffusionPipeline(
        NoiseSchedulerConfig(beta_schedule=schedule, timestep_spacing=spacing, **config), method, **(options or {})
    )
    return pipeline, DigitsModel(pipeline.scheduler, pipeline.config.prediction_type)


@pytest.mark.parametrize("steps", [2, 5, 20, 50])
@pytest.mark.parametrize("schedule", ["linear", "edm"])
@pytest.mark.parametrize(("method", "options"), SAMPLERS)
def test_both_ways_are_the_identity(method, options, schedule, steps):
    pipeline, model = digits(method, options, schedule, "karras")
    run = ReversibleRun(pipeline, model, steps)
    images = model.sample_data(3, (1, 8, 8), generator=1)
    noise = run.plan.prior_scale * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).double()
    # rounding is multiplied by the inverse of each Q on one of the ways
    loss = max(1.0, options.get("gamma", 1.0) ** -steps)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 3e-3)):
        latent = run.encode(images.to(dtype))
        assert latent.x.dtype == dtype
        assert relative(run.decode(latent).x, images) < tolerance * loss
        forward = run.decode(noise.to(dtype))
        if dtype == torch.float64:
            back = run.encode(forward)
            assert relative(back.x, noise) < 1e-9 * loss
            if steps > 2:  # all in between as well: the neighbours agree
                again = run.decode(back)
                assert relative(again.beside, forward.beside) < 1e-9 * loss
    ddim = DiffusionPipeline(pipeline.config, "ddim")
    assert relative(_ddim_round_trip(ddim, model, images, steps), images) > 1e-4  # which does not have the property


def _ddim_round_trip(pipeline, model, images, steps):
    down = pipeline.sampler.grid(steps)
    level = down.levels[-2]
    up = pipeline.sampler.plan(grid=down.reversed()) if steps > 1 else None
    x = level.alpha * images
    x = pipeline.sample(model, plan=up, initial_sample=x, dtype=torch.float64)
    return pipeline.sample(model, plan=pipeline.sampler.plan(grid=down), initial_sample=x, dtype=torch.float64)


@pytest.mark.parametrize(("method", "options"), SAMPLERS)
def test_the_run_is_that_of_the_pipeline(method, options):
    """Two states, or one state and all predictions: the same samples, in as many model calls."""
    pipeline, model = digits(method, options)
    calls = []

    def counted(x, t):
        calls.append(float(t[0]))
        return model(x, t)

    noise = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = pipeline.sample(counted, initial_noise=noise, num_inference_steps=12, dtype=torch.float64)
    run = ReversibleRun(pipeline, counted, 12)
    ends = run.decode(noise * run.plan.prior_scale)
    assert relative(ends.x, expected) < 1e-12
    assert calls[:12] == calls[12:]
    run.encode(ends)
    assert calls[24:] == calls[1:12][::-1]


def test_guided_clipped_and_edited():
    """Whatever the prediction goes through, it is a function of the state; another condition edits."""
    pipeline, model = digits(prediction_type="v_prediction", clip_sample=True)
    labels = torch.tensor([3, 5])
    images = model.sample_data(2, (1, 8, 8), generator=4, class_labels=labels).clamp(-1, 1)
    settings = {"guidance_scale": 3.0, "condition": {"class_labels": labels}}
    latent = ReversibleRun(pipeline, model, 20, **settings).encode(images)
    assert relative(ReversibleRun(pipeline, model, 20, **settings).decode(latent).x, images) < 1e-11
    other = {**settings, "condition": {"class_labels": torch.tensor([8, 8])}}
    assert relative(ReversibleRun(pipeline, model, 20, **other).decode(latent).x, images) > 0.05


def test_encoded_noise_is_close_to_the_exact_one():
    pipeline, model = digits("belm", spacing="karras")
    images = model.sample_data(4, (1, 8, 8), generator=1)
    top = pipeline.scheduler.t_max
    level = pipeline.scheduler.level(pipeline.scheduler.t_min)
    exact = model.reference_solution(level.alpha * images, t=pipeline.scheduler.t_min, t_end=top)
    errors = [relative(ReversibleRun(pipeline, model, n).encode(images).x, exact) for n in (25, 50, 100)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


@pytest.mark.parametrize(
    ("method", "options", "spaced", "order"),
    [
        ("belm", {}, "log", 2),
        ("belm", {}, "uneven", 2),
        ("bdia", {}, "log", 2),
        ("bdia", {"gamma": 0.5}, "log", 1),
        ("bdia", {}, "uneven", 1),  # where neighbouring steps differ by a factor, the errors do not cancel
    ],
)
def test_measured_order(method, options, spaced, order):
    sampler = SamplerFactory.create(method, NoiseSchedulerConfig(beta_schedule="vp"), **options)
    path = sampler.scheduler
    means = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = GaussianMixtureModel(path, means, 0.3)
    x = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    high, low = path.level(0.9 * path.t_max), path.level(0.05 * path.t_max)
    exact = model.reference_solution(x, t=high.t, t_end=low.t)
    counts, errors = (40, 80, 160), []
    for count in counts:
        weights = np.ones(count) if spaced == "log" else np.tile([1.0, 2.0], count // 2)
        places = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
        ends = [2 * math.log(level.alpha / level.sigma) for level in (high, low)]
        levels = [path.level_at(float(v)) for v in ends[0] + (ends[1] - ends[0]) * places]
        plan = sampler.plan(grid=TimeGrid(tuple(levels)))
        pipeline = DiffusionPipeline(sampler.config, method, **options)
        out = pipeline.sample(model, plan=plan, initial_sample=x, dtype=torch.float64)
        errors.append(float((out - exact).square().mean().sqrt()))
    slope = -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])
    assert order - 0.2 < slope < order + 0.6, (slope, errors)
    if spaced == "log":
        assert sampler.order == order


def test_what_cannot_be_undone_is_refused():
    pipeline, model = digits("ddim")
    with pytest.raises(ConfigurationError, match="cannot be undone exactly"):
        ReversibleRun(pipeline, model, 10)
    with pytest.raises(ConfigurationError, match="cannot be undone exactly"):
        ReversibleRun(digits("heun")[0], model, 10)
    with pytest.raises(ConfigurationError, match="cannot be undone exactly"):
        ReversibleRun(digits("belm")[0], model, 1)
    settings = {"condition": {"class_labels": torch.tensor([1])}, "guidance": AdaptiveProjected(3.0, momentum=-0.5)}
    belm, model = digits("belm")
    with pytest.raises(ConfigurationError, match="remembers"):
        ReversibleRun(belm, model, 4, **settings).encode(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ConfigurationError, match="gamma"):
        DiffusionPipeline(NoiseSchedulerConfig(), "bdia", gamma=0.0)
    with pytest.raises(ConfigurationError, match="gamma"):
        DiffusionPipeline(NoiseSchedulerConfig(), "bdia", gamma=1.1)


def test_from_zero_signal():
    """Rectified flow starts without signal: BDIA can be undone there; BELM's first two steps are DDIM's."""
    pipeline, model = digits("bdia", schedule="flow")
    run = ReversibleRun(pipeline, model, 10)
    noise = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert relative(run.encode(run.decode(noise)).x, noise) < 1e-12
    belm = DiffusionPipeline(pipeline.config, "belm")
    two = belm.sample(model, initial_noise=noise, num_inference_steps=2, dtype=torch.float64)
    ddim = DiffusionPipeline(pipeline.config, "ddim")
    assert torch.allclose(two, ddim.sample(model, initial_noise=noise, num_inference_steps=2, dtype=torch.float64))
    with pytest.raises(ConfigurationError, match="cannot be undone exactly"):
        ReversibleRun(belm, model, 10)


def test_ends_may_be_moved_and_cast():
    pipeline, model = digits()
    run = ReversibleRun(pipeline, model, 6)
    images = model.sample_data(2, (1, 8, 8), generator=1)
    latent = run.encode(images)
    mixed = Ends(latent.x, latent.beside.float())  # takes the type of the end
    assert run.decode(mixed).x.dtype == torch.float64
