"""NaN and infinity never go through: the error names the step and the sample."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    BaseSampler,
    ConfigurationError,
    ModelOutputError,
    NumericsError,
)
from small_runs import CLIPS, LABELS, METHODS, NULL, SHAPE, STEPS, Counting, draw, network, pipeline


def broken(at: float, value: float, sample: int, channels: int = 1) -> Any:
    def model(x: Tensor, t: Tensor) -> Tensor:
        output = network(x, t)
        if channels == 2:
            output = torch.cat([output, torch.zeros_like(output)], dim=1)
        if float(t[0]) == at:
            output[sample].view(-1)[-1] = value
        return output

    return model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("method", METHODS)
def test_nan_and_inf_never_go_through(method, clip, value):
    """At every step, in one entry of one sample: an error that names the step, t and σ."""
    run = pipeline(method, **CLIPS[clip])
    plan = run.plan(4)
    for at in sorted(set(plan.time)):
        row = int((plan.time == at).argmax())
        with pytest.raises(ModelOutputError, match=r"NaN or Inf") as raised:
            run.sample(broken(at, value, sample=row % 3), SHAPE, 4, seed=0)
        assert f"step {plan.step[row]}, t = {at:g}, σ = {plan.sigma[row]:.4g}" in raised.value.where
        assert f"samples [{row % 3}]" in str(raised.value)
        assert raised.value.suggestion


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("method", METHODS)
def test_nan_never_goes_through_in_any_parametrisation(method, prediction):
    run = pipeline(method, prediction_type=prediction)
    for at in set(run.plan(4).time):
        with pytest.raises(ModelOutputError, match="NaN or Inf"):
            run.sample(broken(at, math.inf, 1), SHAPE, 4, seed=0)


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_learned_variance_that_is_not_finite_never_goes_through(kind, value):
    """exp(−∞) is 0: a step without noise, and finite."""
    run = pipeline("ddpm", variance_type=kind)
    for at in run.plan(4).time[:-1]:
        with pytest.raises(ModelOutputError, match="NaN or Inf"):
            run.sample(broken(at, value, 1, channels=2), SHAPE, 4, seed=0)


@pytest.mark.parametrize("how", ["stream", "callback", "early stopping", "guided", "split", "custom step"])
def test_nan_never_goes_through_whatever_way_the_run_is_made(how):
    bad = broken(500, math.nan, 0)
    run = pipeline("ddim", clip_sample=True)

    class Careless(BaseSampler):
        def step(self, model_output, timestep, sample):
            return 0.5 * sample + model_output.nan_to_num().clamp(-1, 1)

    def go() -> Any:
        if how == "stream":
            return list(run.stream(bad, SHAPE, 4))
        if how == "callback":
            return run.sample(bad, SHAPE, 4, callback=lambda step: None)
        if how == "early stopping":
            return run.sample(bad, SHAPE, 4, early_stopping=1e-9)
        if how == "guided":
            labels = {"condition": {"label": LABELS}, "null_condition": {"label": NULL}}
            return run.sample(lambda x, t, label: bad(x, t), SHAPE, 4, **labels)
        if how == "split":
            return run.sample(bad, SHAPE, 4, max_batch_size=1)
        return pipeline(Careless).sample(bad, SHAPE, 4)

    with pytest.raises(ModelOutputError, match=r"step 1, t = 500"):
        go()


def test_every_streamed_step_before_the_bad_one_is_handed_out():
    steps = pipeline().stream(broken(250, math.nan, 0), SHAPE, 4)
    assert [next(steps).index, next(steps).index] == [0, 1]
    with pytest.raises(ModelOutputError, match="step 2"):
        next(steps)


def test_a_model_that_fails_only_once_is_reported_as_such():
    calls = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return network(x, t) if len(calls) != 3 else torch.full_like(x, math.nan)

    with pytest.raises(NumericsError, match="second run") as raised:
        pipeline().sample(model, SHAPE, 4)
    assert "eval" in raised.value.suggestion


def test_a_state_that_leaves_the_range_of_its_type_is_told_from_a_bad_model():
    with pytest.raises(NumericsError, match="though the model's output is") as raised:
        pipeline().sample(lambda x, t: torch.full_like(x, 6e4), SHAPE, 4, dtype=torch.float16)
    assert "float32" in raised.value.suggestion


def test_nothing_is_checked_on_the_way_when_all_is_well():
    """One read from the device at the end, in a linear run."""
    from unittest import mock

    reads = []
    plain, item = Tensor.__bool__, Tensor.item
    run = pipeline("heun")
    run.plan(STEPS)
    with (
        mock.patch.object(Tensor, "__bool__", lambda self: reads.append(1) or plain(self)),
        mock.patch.object(Tensor, "item", lambda self: reads.append(1) or item(self)),
    ):
        run.sample(network, SHAPE, STEPS, seed=0)
    assert len(reads) == 1


def test_noise_that_is_not_finite_is_refused_before_the_first_call():
    model = Counting()
    noise = draw()
    noise[1, 0, 0, 0] = math.nan
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(model, initial_noise=noise, num_inference_steps=2)
    assert raised.value.where == "initial_noise"
    assert model.calls == []
