"""What a run begins with: initial noise, times, a plan, numbers of steps, shapes and types."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    SamplingPlan,
)
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys
from small_runs import METHODS, SHAPE, STEPS, Counting, draw, network, pipeline


@pytest.mark.parametrize("method", METHODS)
def test_initial_noise_replaces_the_seeds_and_is_left_alone(method):
    run, noise = pipeline(method), draw()
    kept = noise.clone()
    first = next(run.stream(lambda x, t: x, initial_noise=noise, num_inference_steps=3, seed=0))
    assert first.state.keys == ((0, 0), (0, 1), (0, 2))
    calls = Counting()
    run.sample(calls, initial_noise=noise, num_inference_steps=3, seed=0)
    assert torch.equal(calls.calls[0][0], noise * run.plan(3).prior_scale)
    assert torch.equal(noise, kept)
    with pytest.raises(ConfigurationError, match="initial_noise"):
        run.sample(network, (1, 2, 3), 3, initial_noise=noise)


def test_the_first_state_is_the_seeds_noise_scaled_by_the_prior():
    run = pipeline()
    calls = Counting()
    run.sample(calls, SHAPE, 3, seed=11)
    noise = NoiseSource(resolve_keys(11, None, 3), SHAPE[1:]).initial()
    assert torch.equal(calls.calls[0][0], noise * run.scheduler.prior_std)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "times", [[999.0, 650.25, 300.0, 17.125, 0.0], torch.tensor([900, 400, 30, 2]), np.array([500.5, 400.1, 2, 1])]
)
def test_given_timesteps_are_used_bit_for_bit(method, times):
    run, model = pipeline(method), Counting()
    steps = list(run.stream(model, SHAPE, timesteps=times, seed=0))
    assert [step.t for step in steps] == [float(t) for t in times]
    asked = {float(t[0]) for _, t, _ in model.calls}
    assert {float(np.float32(t)) for t in map(float, times)} <= asked
    plan = run.plan(timesteps=times)
    assert [float(t) for i, t in enumerate(plan.time) if i == 0 or plan.step[i] != plan.step[i - 1]] == list(
        map(float, times)
    )
    assert plan.sigma[-1] == 0.0


@pytest.mark.parametrize(
    "times", [[], [5, 5], [5, 10], [10, 5, 7], [1000], [-1], [5, math.nan], "abc", [[5, 4]], 5, ["a"]]
)
def test_timesteps_that_cannot_be_are_refused(times):
    model = Counting()
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(model, SHAPE, timesteps=times)
    assert raised.value.where in ("timesteps", "t")
    assert model.calls == []


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_plan_runs_on_any_pipeline(method, tmp_path):
    source = pipeline(method)
    expected = source.sample(network, SHAPE, STEPS, seed=0)
    for ending in ("json", "safetensors"):
        source.plan(STEPS).save(tmp_path / f"plan.{ending}")
        plan = SamplingPlan.load(tmp_path / f"plan.{ending}")
        assert torch.equal(pipeline("euler").sample(network, SHAPE, seed=0, plan=plan), expected)


@pytest.mark.parametrize("plan", [5, "plan.json", {"a": 1}])
def test_what_is_not_a_plan_is_refused(plan):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(network, SHAPE, plan=plan)
    assert raised.value.where == "plan"


def test_a_plan_has_its_own_timesteps():
    with pytest.raises(ConfigurationError, match="its own timesteps"):
        pipeline().sample(network, SHAPE, plan=pipeline().plan(3), timesteps=[4.0])


@pytest.mark.parametrize("steps", [0, -1, 2.5, "50", True, None, 1001])
def test_a_number_of_steps_that_means_nothing_is_refused(steps):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(network, SHAPE, steps)
    assert raised.value.where == "num_inference_steps"


@pytest.mark.parametrize("shape", [None, 5, (3,), (0, 3), (3, -1), (3, 2.5), "abc", (3, None)])
def test_a_shape_that_means_nothing_is_refused(shape):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(network, shape)
    assert raised.value.where == "shape"


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, "float16", 16])
def test_a_type_that_cannot_hold_samples_is_refused(dtype):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(network, SHAPE, 2, dtype=dtype)
    assert raised.value.where == "dtype"


@pytest.mark.parametrize(
    ("keyword", "nearest"),
    [
        ("sede", "seed"),
        ("gudiance_scale", "guidance_scale"),
        ("conditions", "condition"),
        ("num_steps", "num_inference_steps"),
    ],
)
@pytest.mark.parametrize("call", ["sample", "stream"])
def test_unknown_keywords_are_errors_with_the_nearest_name(call, keyword, nearest):
    with pytest.raises(ConfigurationError, match="unknown keyword") as raised:
        getattr(pipeline(), call)(network, SHAPE, 2, **{keyword: 1})
    assert raised.value.where == keyword
    assert f"'{nearest}'" in raised.value.suggestion


@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 8), (2, 3, 4, 8, 8), (1, 1, 1, 1)])
def test_samples_of_any_dimension(shape):
    got = pipeline("pndm", thresholding=True, sample_max_value=2.0).sample(network, shape, 5, seed=0)
    assert got.shape == shape
    each = [
        pipeline("pndm", thresholding=True, sample_max_value=2.0).sample(network, shape, 5, seed=0, max_batch_size=1)
    ]
    torch.testing.assert_close(each[0], got, rtol=1e-6, atol=1e-6)
