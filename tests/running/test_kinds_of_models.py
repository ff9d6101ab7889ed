"""Models of every kind: what they are given, what they may return, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    ModelOutputError,
    NoiseSchedulerConfig,
)
from noise_scheduler_sampling_system.guidance import AutoGuidance
from small_runs import CLIPS, METHODS, SHAPE, STEPS, Counting, Plain, network, pipeline


def wrapped(wrap: Any) -> Any:
    return lambda x, t: wrap(network(x, t))


@pytest.mark.parametrize(
    "model",
    [
        wrapped(lambda y: (y,)),
        wrapped(lambda y: [y, "aux"]),
        wrapped(lambda y: SimpleNamespace(sample=y)),
        wrapped(lambda y: {"sample": y}),
        wrapped(lambda y: SimpleNamespace(sample=(y, None))),
        lambda x, t, **kwargs: network(x, t),
        lambda sample, hidden, timestep=None: network(sample, timestep if timestep is not None else hidden),
    ],
    ids=["tuple", "list", "sample", "dict", "sample-tuple", "kwargs", "defaults"],
)
def test_outputs_are_unwrapped(model):
    run = pipeline("heun")
    if "hidden" in model.__code__.co_varnames:
        wants_name = model

        def model(x, encoder_hidden_states=None, timestep=None):
            assert encoder_hidden_states is None
            return wants_name(x, None, timestep)

    assert torch.equal(run.sample(model, SHAPE, STEPS, seed=0), run.sample(network, SHAPE, STEPS, seed=0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_model_is_given_its_own_type_and_the_state_stays_in_full_precision(dtype):
    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            assert x.dtype == dtype
            assert t.dtype == torch.int64, "time is never rounded to half precision"
            return self.layer(x)

    torch.manual_seed(0)
    model = Typed().to(dtype)
    samples = pipeline(clip_sample=True).sample(model, SHAPE, STEPS, seed=0)
    assert samples.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    dtype_under_test, dtype = dtype, torch.float64
    reference = pipeline(clip_sample=True).sample(model.double(), SHAPE, STEPS, seed=0)
    bound = {torch.float16: 2e-2, torch.bfloat16: 2e-1, torch.float32: 2e-5, torch.float64: 1e-15}[dtype_under_test]
    assert (samples - reference).abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_that_of_the_samples_and_does_not_change_the_noise(dtype):
    seen = []
    got = pipeline("ddpm").sample(lambda x, t: seen.append(x.dtype) or network(x, t), SHAPE, STEPS, seed=0, dtype=dtype)
    assert got.dtype == dtype
    assert set(seen) == {dtype}
    tolerance = 8 * torch.finfo(dtype).eps * 10 if dtype != torch.float64 else 1e-5
    torch.testing.assert_close(
        got.float(), pipeline("ddpm").sample(network, SHAPE, STEPS, seed=0), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    ("fields", "timesteps", "kind"),
    [
        ({}, None, torch.int64),
        ({"timestep_spacing": "trailing"}, None, torch.int64),
        ({"timestep_spacing": "linspace"}, None, torch.float32),
        ({}, [900.0, 12.0], torch.int64),
        ({}, [900.5, 12.0], torch.float32),
    ],
)
def test_whole_times_are_integers_and_others_are_not_rounded(fields, timesteps, kind):
    model, run = Counting(), pipeline(**fields)
    run.sample(model, SHAPE, 7, timesteps=timesteps)
    assert {t.dtype for _, t, _ in model.calls} == {kind}
    asked = [t.tolist() for _, t, _ in model.calls]
    plan = run.plan(7, timesteps=timesteps)
    assert asked == [[np.float32(t)] * 3 for t in plan.time]


def test_a_training_model_is_warned_about(caplog):
    pipeline().sample(Plain(), SHAPE, 2)
    assert "model.eval()" in caplog.text
    caplog.clear()
    pipeline().sample(Plain().eval(), SHAPE, 2)
    assert "model.eval()" not in caplog.text


def test_a_training_model_without_a_hash_is_warned_about(caplog):
    class Unhashable:
        training, __hash__ = True, None

        def __call__(self, x, t):
            return network(x, t)

    pipeline().sample(Unhashable(), SHAPE, 2)
    assert "model.eval()" in caplog.text


@pytest.mark.parametrize("batch", [1, 2])
def test_a_network_that_changes_its_time_in_place_leaves_that_of_another_network(batch):
    def zeroing(x, t):
        out = network(x, t)
        t.zero_()
        return out

    def weaker(x, t):
        return 0.5 * network(x, t)

    shape, guided = (batch, *SHAPE[1:]), {"seed": 0, "guidance": AutoGuidance(weaker, 2.0)}
    expected = pipeline().sample(network, shape, STEPS, **guided)
    assert torch.equal(pipeline().sample(zeroing, shape, STEPS, **guided), expected)


@pytest.mark.parametrize("model", [5, "unet", Plain, torch.ones(2)])
def test_what_is_not_a_model_is_refused(model):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(model, SHAPE, STEPS)
    assert raised.value.where == "model"


@pytest.mark.parametrize("answer", [None, 3.0, {}, (), "x"])
def test_what_is_not_an_output_is_refused(answer):
    with pytest.raises(ModelOutputError, match="returned") as raised:
        pipeline().sample(lambda x, t: answer, SHAPE, STEPS)
    assert raised.value.suggestion


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("method", METHODS)
def test_a_model_may_return_its_input_or_reuse_its_output(method, clip):
    """Aliasing: x itself, a view of it, one buffer for all calls (CUDA graphs do that)."""
    run = pipeline(method, **CLIPS[clip])
    kinds = {"shape": SHAPE, "num_inference_steps": STEPS, "seed": 0}
    own = run.sample(lambda x, t: x.clone(), **kinds)
    assert torch.equal(run.sample(lambda x, t: x, **kinds), own)
    assert torch.equal(run.sample(lambda x, t: x.view(-1).view(x.shape), **kinds), own)
    buffer = torch.empty(SHAPE)
    assert torch.equal(run.sample(lambda x, t: buffer.copy_(network(x, t)), **kinds), run.sample(network, **kinds))


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("method", METHODS)
def test_states_that_a_model_keeps_are_never_written_to(method, clip):
    kept: list[tuple[Tensor, Tensor]] = []

    def hoarder(x: Tensor, t: Tensor) -> Tensor:
        output = network(x, t)
        kept.extend([(x, x.clone()), (output, output.clone())])
        return output

    pipeline(method, **CLIPS[clip]).sample(hoarder, SHAPE, STEPS, seed=0)
    assert len(kept) >= 2 * STEPS
    assert all(torch.equal(now, then) for now, then in kept)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_writes_into_its_input_is_refused(method):
    with pytest.raises(ModelOutputError, match="in-place") as raised:
        pipeline(method).sample(lambda x, t: x.mul_(0.5), SHAPE, STEPS)
    assert "step 0, t =" in raised.value.where


@pytest.mark.parametrize("method", METHODS)
def test_inference_mode_around_the_call_or_in_the_model_changes_nothing(method):
    run = pipeline(method, clip_sample=True)
    expected = run.sample(network, SHAPE, STEPS, seed=0)
    with torch.inference_mode():
        assert torch.equal(run.sample(network, SHAPE, STEPS, seed=0), expected)
    assert torch.equal(run.sample(torch.inference_mode()(network), SHAPE, STEPS, seed=0), expected)


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (3, 4, 4), (1, 2, 4, 4), (3, 1, 4, 4)])
def test_a_wrong_output_shape_is_refused_and_not_broadcast(shape):
    with pytest.raises(ModelOutputError, match=r"\(3, 2, 4, 4\)"):
        pipeline().sample(lambda x, t: torch.zeros(shape), SHAPE, STEPS)


def test_a_second_half_of_channels_is_recognised():
    with pytest.raises(ModelOutputError) as raised:
        pipeline().sample(lambda x, t: torch.cat([x, x], 1), SHAPE, STEPS)
    assert "variance" in raised.value.why
    assert "learned_range" in raised.value.suggestion


@pytest.mark.parametrize("state", [torch.float32, torch.float64])
def test_a_network_in_float64_is_told_its_time_in_float64(state):
    """A time in float32 is that of another noise level, by 3e-8 of it."""
    run, told = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="karras"), "ddim"), []

    def model(x: Tensor, t: Tensor) -> Tensor:
        told.append(t)
        return x * 0.5

    run.sample(model, (2, 3), 6, dtype=state, seed=0)
    assert all(t.dtype == state for t in told)
    expected = torch.from_numpy(run.plan(6).time.copy()).to(state)
    assert torch.equal(torch.stack([t[0] for t in told]), expected)
