"""Callbacks, and runs that end when the prediction no longer changes."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    SamplingResult,
)
from small_runs import METHODS, SHAPE, STEPS, Counting, network, pipeline


def test_callbacks_see_every_step_of_every_part():
    seen = []
    run = pipeline("heun")
    samples = run.sample(network, SHAPE, STEPS, seed=0, callback=seen.append, max_batch_size=2)
    assert [(s.first_sample, s.index) for s in seen] == [(f, i) for f in (0, 2) for i in range(STEPS)]
    assert torch.equal(torch.cat([s.x for s in seen if s.index == STEPS - 1]), samples)


def test_an_error_in_a_callback_ends_the_run():
    def stop(step):
        raise KeyboardInterrupt

    model = Counting()
    with pytest.raises(KeyboardInterrupt):
        pipeline().sample(model, SHAPE, STEPS, callback=stop)
    assert len(model.calls) == 1


def test_callbacks_do_not_change_the_result():
    run = pipeline("ddpm", thresholding=True, sample_max_value=2.0)
    watched = run.sample(network, SHAPE, STEPS, seed=0, callback=lambda step: step.pred_original_sample.zero_())
    assert torch.equal(watched, run.sample(network, SHAPE, STEPS, seed=0))


def settled_model(shape: tuple[int, ...], spread: float = 1e-3) -> Any:
    from noise_scheduler_sampling_system.models import GaussianModel

    path = pipeline().scheduler
    return GaussianModel(path, torch.zeros(shape), spread**2)


def test_early_stopping_ends_the_run_and_says_what_it_saved(caplog):
    run = pipeline(timestep_spacing="trailing")
    model = Counting(settled_model(SHAPE[1:]))
    with caplog.at_level(logging.INFO, logger="noise_scheduler_sampling_system"):
        result = run.sample(model, SHAPE, 40, seed=0, early_stopping=0.05, return_result=True)
    assert isinstance(result, SamplingResult)
    assert result.stopped_early
    assert 0 < result.nfe == len(model.calls) < 40
    assert result.steps == result.nfe
    assert result.calls_saved == 40 - result.nfe
    assert f"after step {result.steps} of 40: {result.calls_saved} of 40 model calls saved" in caplog.text
    full = run.sample(model, SHAPE, 40, seed=0)
    assert (result.samples - full).square().mean().sqrt() < 0.05


@pytest.mark.parametrize("method", METHODS)
def test_early_stopping_never_acts_while_noise_outweighs_signal(method):
    """Even a tolerance that everything meets."""
    run = pipeline(method)
    result = run.sample(network, SHAPE, 20, seed=0, early_stopping=1e9, return_result=True)
    plan = result.plan
    last = result.nfe - 1
    assert plan.sigma[last] < plan.alpha[last]
    before = int((plan.step < plan.step[last]).sum()) - 1
    assert plan.sigma[before] >= plan.alpha[before], "and acts at the first step that may"


def test_early_stopping_of_a_sample_does_not_depend_on_its_neighbours():
    model = settled_model(SHAPE[1:], spread=0.3)
    run = pipeline(timestep_spacing="trailing")
    kinds = {"num_inference_steps": 40, "early_stopping": 0.02}
    together = run.sample(model, SHAPE, seed=[5, 6, 7], **kinds, return_result=True)
    assert together.stopped_early
    lengths = set()
    for i, seed in enumerate((5, 6, 7)):
        alone = run.sample(model, (1, *SHAPE[1:]), seed=[seed], **kinds, return_result=True)
        assert torch.allclose(together.samples[i], alone.samples[0], rtol=0, atol=1e-6)
        lengths.add(alone.nfe)
    assert together.nfe == max(lengths)


def test_a_run_that_never_settles_is_the_plain_run():
    run = pipeline("heun")
    result = run.sample(network, SHAPE, STEPS, seed=0, early_stopping=1e-12, return_result=True)
    assert not result.stopped_early
    assert result.calls_saved == 0
    assert torch.equal(result.samples, run.sample(network, SHAPE, STEPS, seed=0))


@pytest.mark.parametrize("tolerance", [0, -1e-3, math.inf, math.nan, True, "1e-3"])
def test_a_tolerance_that_means_nothing_is_refused(tolerance):
    model = Counting()
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(model, SHAPE, STEPS, early_stopping=tolerance)
    assert raised.value.where == "early_stopping"
    assert model.calls == []
