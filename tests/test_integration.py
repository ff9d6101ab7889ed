"""Whole runs: pipelines with models of every kind, stopped, split, resumed, watched and broken on purpose."""

from __future__ import annotations

import copy
import json
import logging
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    BaseSampler,
    ConfigurationError,
    DeviceError,
    DiffusionPipeline,
    FileError,
    ModelOutputError,
    NoiseSamplingError,
    NoiseSchedulerConfig,
    NumericsError,
    OutOfMemoryError,
    RunState,
    SamplerOutput,
    SamplingPlan,
    SamplingResult,
)
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

METHODS = ["ddpm", "ddim", "pndm", "ancestral", "euler", "heun"]
SHAPE = (3, 2, 4, 4)
STEPS = 6
CLIPS: dict[str, dict[str, Any]] = {
    "open": {},
    "clip": {"clip_sample": True},
    "threshold": {"thresholding": True, "sample_max_value": 3.0},
}


def network(x: Tensor, t: Tensor, **condition: Any) -> Tensor:
    """A smooth function of the state and the time, different for every sample's time."""
    time = t.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) / 1000
    return torch.tanh(x) * (0.4 + 0.5 * time) + 0.1 * x.roll(1, -1)


def pipeline(method: Any = "ddim", options: dict[str, Any] | None = None, **fields: Any) -> DiffusionPipeline:
    return DiffusionPipeline(NoiseSchedulerConfig(**fields), method, **(options or {}))


def draw(shape: tuple[int, ...] = SHAPE, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Counting:
    """A model that remembers what it was called with."""

    def __init__(self, model: Any = network) -> None:
        self.model, self.calls = model, []

    def __call__(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        self.calls.append((x.clone(), t.clone(), condition))
        return self.model(x, t, **condition)


# ------------------------------------------------------------------------------- guidance


def conditional(x: Tensor, t: Tensor, *, label: Tensor) -> Tensor:
    return network(x, t) + 0.05 * label.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


LABELS, NULL = torch.tensor([1, 2, 3]), torch.tensor([9])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [7.5, 2.0, 0.5, -1.0])
def test_guidance_is_one_batched_call_a_step_and_equals_the_formula(method, scale):
    model, run = Counting(conditional), pipeline(method)
    kinds = {"shape": SHAPE, "num_inference_steps": STEPS, "seed": 1}
    guided = run.sample(
        model, **kinds, guidance_scale=scale, condition={"label": LABELS}, null_condition={"label": NULL}
    )
    assert len(model.calls) == run.plan(STEPS).nfe
    for x, t, condition in model.calls:
        assert x.shape == (6, *SHAPE[1:])
        assert torch.equal(x[:3], x[3:])
        assert torch.equal(t[:3], t[3:])
        assert condition["label"].tolist() == [1, 2, 3, 9, 9, 9]

    def by_hand(x: Tensor, t: Tensor) -> Tensor:
        c, u = conditional(x, t, label=LABELS), conditional(x, t, label=NULL.expand(3))
        return u + scale * (c - u)

    torch.testing.assert_close(guided, run.sample(by_hand, **kinds), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "label"),
    [({"guidance_scale": 1.0}, LABELS), ({"classifier_free_guidance": False}, LABELS), ({"guidance_scale": 0.0}, NULL)],
)
def test_one_branch_alone_runs_unbatched(options, label):
    model = Counting(conditional)
    run = pipeline()
    got = run.sample(
        model, SHAPE, STEPS, seed=1, condition={"label": LABELS}, null_condition={"label": NULL}, **options
    )
    assert all(len(x) == 3 for x, _, _ in model.calls)
    only = run.sample(lambda x, t: conditional(x, t, label=label.expand(3)), SHAPE, STEPS, seed=1)
    assert torch.equal(got, only)


def test_without_a_condition_the_model_is_called_once_a_step_with_the_batch_itself():
    model = Counting()
    pipeline().sample(model, SHAPE, STEPS, guidance_scale=7.5)
    assert [len(x) for x, _, _ in model.calls] == [3] * STEPS
    assert all(condition == {} for _, _, condition in model.calls)


def test_embeddings_are_opposed_to_zeros_when_no_null_is_given():
    model = Counting(lambda x, t, text, added: network(x, t))
    text, pooled = torch.ones(3, 7, 5), torch.ones(1, 8)
    pipeline().sample(model, SHAPE, 2, seed=0, condition={"text": text, "added": {"pooled": pooled, "pair": [text]}})
    for _, _, condition in model.calls:
        assert torch.equal(condition["text"], torch.cat([text, torch.zeros_like(text)]))
        assert torch.equal(condition["added"]["pooled"], torch.cat([pooled.expand(3, 8), torch.zeros(3, 8)]))
        assert torch.equal(condition["added"]["pair"][0], torch.cat([text, torch.zeros_like(text)]))


@pytest.mark.parametrize("value", [LABELS, "a cat"])
def test_labels_without_a_null_class_are_refused_before_the_first_call(value):
    model = Counting(conditional)
    with pytest.raises(ConfigurationError, match=r"null value for 'label'") as raised:
        pipeline().sample(model, SHAPE, STEPS, condition={"label": value})
    assert "null_condition" in raised.value.suggestion
    assert model.calls == []


def test_a_model_may_say_what_its_null_condition_is():
    class Hooked(Counting):
        def null_condition(self, condition):
            return {"label": torch.full_like(condition["label"], 9)}

    model, run = Hooked(conditional), pipeline()
    got = run.sample(model, SHAPE, STEPS, seed=1, condition={"label": LABELS})
    given = run.sample(conditional, SHAPE, STEPS, seed=1, condition={"label": LABELS}, null_condition={"label": NULL})
    assert torch.equal(got, given)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"condition": {"label": torch.arange(2)}}, "condition"),
        ({"condition": torch.arange(3)}, "condition"),
        ({"condition": {"label": LABELS}, "null_condition": {"lable": NULL}}, "null_condition['lable']"),
        ({"condition": {"label": LABELS}, "null_condition": {"label": torch.ones(3, 2)}}, "condition['label']"),
        ({"null_condition": {"label": NULL}}, "null_condition"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": "7.5"}, "guidance_scale"),
        ({"guidance_scale": True}, "guidance_scale"),
    ],
)
def test_conditions_that_cannot_work_are_refused(options, where):
    model = Counting(conditional)
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(model, SHAPE, STEPS, **options)
    assert raised.value.where == where
    assert model.calls == []


def test_guidance_of_the_digits_draws_the_class_that_is_asked_for():
    from noise_scheduler_sampling_system.models import load_digits

    images, labels = load_digits()
    wanted = torch.arange(10)
    samples = pipeline(timestep_spacing="trailing").sample(
        shape=(10, 1, 8, 8), num_inference_steps=20, seed=3, guidance_scale=1.5, condition={"class_labels": wanted}
    )
    nearest = torch.cdist(samples.flatten(1).double(), images.flatten(1)).argmin(dim=1)
    assert labels[nearest].tolist() == wanted.tolist()


# ------------------------------------------------------------------------------- kinds of models


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return network(x, t) * self.weight


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
    with pytest.raises(ModelOutputError, match="in place") as raised:
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


# ------------------------------------------------------------------------------- learned variances


def with_variance(x: Tensor, t: Tensor) -> Tensor:
    return torch.cat([network(x, t), torch.sin(3 * x)], dim=1)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "ddpm"])
@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_samplers_without_a_variance_drop_the_models(method, kind):
    got = pipeline(method, variance_type=kind).sample(with_variance, SHAPE, STEPS, seed=0)
    assert torch.equal(got, pipeline(method).sample(network, SHAPE, STEPS, seed=0))


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_ddpm_takes_the_variance_that_the_model_gives(kind):
    """Against the step written out, from the state and output that the model saw."""
    run = pipeline("ddpm", variance_type=kind)
    plan, calls = run.plan(STEPS), Counting(with_variance)
    final = run.sample(calls, SHAPE, STEPS, seed=0)
    states = [x for x, _, _ in calls.calls] + [final]
    abar = run.scheduler.alphas_cumprod
    source = NoiseSource(resolve_keys(0, None, 3), SHAPE[1:])
    for i in range(STEPS):
        now, after = float(abar[int(plan.time[i])]), float(abar[int(plan.time[i + 1])]) if i + 1 < STEPS else 1.0
        epsilon, value = with_variance(states[i], torch.full((3,), plan.time[i])).double().chunk(2, dim=1)
        x = states[i].double()
        x0 = (x - math.sqrt(1 - now) * epsilon) / math.sqrt(now)
        beta = 1 - now / after
        mean = math.sqrt(after) * beta / (1 - now) * x0 + math.sqrt(now / after) * (1 - after) / (1 - now) * x
        if i + 1 == STEPS:
            expected = mean
        else:
            low, high = math.log(beta * (1 - after) / (1 - now)), math.log(beta)
            logs = value if kind == "learned" else low + (value + 1) / 2 * (high - low)
            expected = mean + torch.exp(logs / 2) * source(i, 0)
        torch.testing.assert_close(states[i + 1].double(), expected, rtol=2e-5, atol=2e-5)


def test_guidance_leaves_the_variance_to_the_condition():
    def model(x, t, label):
        return torch.cat([conditional(x, t, label=label), torch.sin(label.reshape(-1, 1, 1, 1) + x)], dim=1)

    run = pipeline("ddpm", variance_type="learned_range")
    got = run.sample(model, SHAPE, STEPS, 3.0, seed=0, condition={"label": LABELS}, null_condition={"label": NULL})

    def by_hand(x, t):
        c, u = model(x, t, LABELS), model(x, t, NULL.expand(3))
        mean = u[:, :2] + 3.0 * (c[:, :2] - u[:, :2])
        return torch.cat([mean, c[:, 2:]], dim=1)

    torch.testing.assert_close(got, run.sample(by_hand, SHAPE, STEPS, seed=0), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------- values that are not finite


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
    plain = Tensor.__bool__
    run = pipeline("heun")
    run.plan(STEPS)
    with mock.patch.object(Tensor, "__bool__", lambda self: reads.append(1) or plain(self)):
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


# ------------------------------------------------------------------------------- stop and resume


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("method", METHODS)
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(method, clip, tmp_path):
    run = pipeline(method, **CLIPS[clip])
    whole = run.sample(network, SHAPE, STEPS, seed=4)
    steps = list(run.stream(network, SHAPE, STEPS, seed=4))
    assert [s.index for s in steps] == list(range(STEPS))
    assert torch.equal(steps[-1].x, whole)
    again = pipeline(method, **CLIPS[clip])
    for step in steps[:-1]:
        rest = list(again.stream(network, resume=step.state))
        assert [s.index for s in rest] == list(range(step.index + 1, STEPS))
        assert all(torch.equal(a.x, b.x) for a, b in zip(rest, steps[step.index + 1 :], strict=True))
        path = tmp_path / "run.safetensors"
        step.state.save(path)
        from_file = list(again.stream(network, resume=path))
        assert torch.equal(from_file[-1].x, whole)
        assert RunState.load(path).plan == step.state.plan


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_saved_state_keeps_its_type(dtype, tmp_path):
    run = pipeline("pndm")
    kinds = {"shape": SHAPE, "num_inference_steps": STEPS, "seed": 4, "dtype": dtype}
    steps = run.stream(network, **kinds)
    for _ in range(3):
        stopped = next(steps)
    stopped.state.save(tmp_path / "run")
    assert list(run.stream(network, resume=tmp_path / "run"))[-1].x.dtype == dtype
    assert torch.equal(list(run.stream(network, resume=tmp_path / "run"))[-1].x, run.sample(network, **kinds))


@pytest.mark.parametrize("method", ["ddim", "heun", "dpmpp_2m", "ancestral", "ddim_cfg_pp"])
def test_a_finished_run_yields_its_last_step_again(method, tmp_path):
    last = list(pipeline(method).stream(network, SHAPE, 3, seed=0))[-1]
    last.state.save(tmp_path / "run")
    for state in (last.state, tmp_path / "run"):
        (again,) = pipeline(method).stream(network, resume=state)
        assert again == last
        assert torch.equal(again.pred_original_sample, last.pred_original_sample)


@pytest.mark.parametrize("offers", [False, True])
def test_a_custom_step_is_resumed_as_itself(offers, tmp_path):
    class Bare(BaseSampler):
        def step(self, model_output, timestep, sample):
            return 0.5 * sample + 0.1 * model_output

    class Asking(BaseSampler):
        def step(self, model_output, timestep, sample, *, step_index, noise, next_timestep=None):
            return 0.5 * sample + 0.1 * model_output + 0.01 * step_index * noise

    run = pipeline(Asking if offers else Bare)
    steps = list(run.stream(network, SHAPE, STEPS, seed=4))
    assert torch.equal(steps[-1].x, run.sample(network, SHAPE, STEPS, seed=4))
    steps[2].state.save(tmp_path / "run")
    assert torch.equal(list(run.stream(network, resume=steps[2].state))[-1].x, steps[-1].x)
    assert torch.equal(list(run.stream(network, resume=tmp_path / "run"))[-1].x, steps[-1].x)


@pytest.mark.parametrize(
    "change", [{"prediction_type": "sample"}, {"clip_sample": True}, {"beta_end": 0.03}, {"method": "heun"}]
)
def test_a_run_goes_on_only_under_its_own_settings(change):
    method = change.pop("method", "ddim")
    stopped = next(pipeline().stream(network, SHAPE, STEPS, seed=0))
    with pytest.raises(ConfigurationError, match="other settings") as raised:
        pipeline(method, **change).stream(network, resume=stopped.state)
    assert raised.value.where == "resume"
    assert next(iter(change), "another sampler") in str(raised.value)


@pytest.mark.parametrize("name", ["seed", "generator", "initial_noise", "plan", "timesteps"])
def test_what_a_state_holds_is_not_given_again(name):
    stopped = next(pipeline().stream(network, SHAPE, STEPS, seed=0))
    values = {
        "seed": 0, "generator": torch.Generator(), "initial_noise": draw(), "plan": stopped.state.plan,
        "timesteps": [5.0],
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match="part of the state") as raised:
        pipeline().stream(network, resume=stopped.state, **{name: values[name]})
    assert raised.value.where == name


@pytest.mark.parametrize("content", [b"", b"not a run", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_file_that_is_no_saved_run_is_named(content, tmp_path):
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match="not a saved run") as raised:
        pipeline().stream(network, resume=path)
    assert raised.value.where == str(path)


def test_streams_have_their_own_state():
    """Two interleaved iterators of one pipeline do not see one another."""
    run = pipeline("pndm")
    pairs = list(zip(run.stream(network, SHAPE, STEPS, seed=1), run.stream(network, SHAPE, STEPS, seed=2), strict=True))
    assert torch.equal(pairs[-1][0].x, run.sample(network, SHAPE, STEPS, seed=1))
    assert torch.equal(pairs[-1][1].x, run.sample(network, SHAPE, STEPS, seed=2))


@pytest.mark.parametrize("method", METHODS)
def test_streamed_steps_say_where_they_are(method):
    run = pipeline(method, clip_sample=True)
    plan = run.plan(STEPS)
    counted = Counting()
    steps = []
    for step in run.stream(counted, SHAPE, STEPS, seed=0):
        assert step.nfe == len(counted.calls)
        steps.append(step)
    firsts = [int((plan.step == i).argmax()) for i in range(STEPS)]
    assert [s.t for s in steps] == [plan.time[i] for i in firsts]
    assert steps[-1].sigma == 0.0
    assert all(a.sigma > b.sigma for a, b in pairwise(steps))
    assert steps[-1].nfe == plan.nfe
    if method != "pndm":  # whose last step extrapolates
        assert torch.equal(steps[-1].pred_original_sample, steps[-1].x)
    for step in steps:  # asked for late, long after the model has moved on
        clean = step.pred_original_sample
        assert clean.abs().max() <= 1.0
        x, t, _ = counted.calls[step.nfe - 1]
        alpha, sigma = run.scheduler.alpha(float(t[0])), run.scheduler.sigma(float(t[0]))
        torch.testing.assert_close(clean, ((x - sigma * network(x, t)) / alpha).clamp(-1, 1), rtol=1e-4, atol=1e-4)


def test_a_step_keeps_its_prediction_when_the_model_reuses_its_output():
    buffer = torch.empty(SHAPE)
    run = pipeline()
    reused = list(run.stream(lambda x, t: buffer.copy_(network(x, t)), SHAPE, STEPS, seed=0))
    own = list(run.stream(network, SHAPE, STEPS, seed=0))
    for a, b in zip(reused, own, strict=True):
        assert torch.equal(a.pred_original_sample, b.pred_original_sample)


# ------------------------------------------------------------------------------- callbacks, early stopping


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


# ------------------------------------------------------------------------------- batches and memory


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_batches_of_any_size_give_the_same_samples(method, size):
    run, shape = pipeline(method), (5, 2, 4, 4)
    labels = {"condition": {"label": torch.arange(5)}, "null_condition": {"label": NULL}}
    model = Counting(conditional)
    got = run.sample(model, shape, STEPS, 2.0, seed=7, max_batch_size=size, **labels)
    assert max(len(x) for x, _, _ in model.calls) == 2 * min(size, 5)
    whole = run.sample(conditional, shape, STEPS, 2.0, seed=7, **labels)
    torch.testing.assert_close(got, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "4"])
def test_a_batch_size_that_means_nothing_is_refused(size):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(network, SHAPE, STEPS, max_batch_size=size)
    assert raised.value.where == "max_batch_size"


SHORTAGES = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda e: str(e)[:20])
@pytest.mark.parametrize("limit", [1, 2, 3, 6])
def test_when_memory_runs_out_smaller_batches_give_the_same_samples(shortage, limit, caplog):
    run, shape = pipeline("ddpm"), (7, 2, 4, 4)
    sizes = []

    def tight(x: Tensor, t: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > limit and t[0] <= 500:  # late, when other steps are done already
            raise shortage
        return network(x, t)

    got = run.sample(tight, shape, 4, seed=7)
    torch.testing.assert_close(got, run.sample(network, shape, 4, seed=7), rtol=1e-6, atol=1e-6)
    assert sizes[0] == 7
    assert sizes[-1] <= limit
    assert "batches of" in caplog.text


def test_one_sample_that_does_not_fit_is_an_error_that_says_so():
    def never(x, t):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="single sample") as raised:
        pipeline().sample(never, SHAPE, STEPS)
    assert isinstance(raised.value, MemoryError)
    assert raised.value.suggestion


def test_other_errors_of_a_model_come_through_as_they_are():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def fails(x, t):
        raise error

    with pytest.raises(RuntimeError) as raised:
        pipeline().sample(fails, SHAPE, STEPS)
    assert raised.value is error


def test_a_failed_batch_frees_its_tensors_before_the_next_try():
    import weakref

    alive: list[Any] = []
    held = []

    def tight(x: Tensor, t: Tensor) -> Tensor:
        if len(x) > 2:
            output = network(x, t)
            alive.append(weakref.ref(x))
            if t[0] == 0:
                raise MemoryError
            return output
        held.append([ref() is not None for ref in alive])
        return network(x, t)

    pipeline().sample(tight, (4, 2, 4, 4), 4)
    assert len(alive) == 4
    assert not any(held[0])


# ------------------------------------------------------------------------------- profile, progress, device


def test_profile_adds_up(caplog):
    def slow(x, t, label):
        threading.Event().wait(0.01)
        return conditional(x, t, label=label)

    with caplog.at_level(logging.INFO, logger="noise_scheduler_sampling_system"):
        labels = {"condition": {"label": LABELS}, "null_condition": {"label": NULL}}
        result = pipeline("ddpm").sample(slow, SHAPE, 5, **labels, profile=True, return_result=True)
    profile = result.profile
    assert 0.05 <= profile.model < profile.total
    parts = profile.model + profile.guidance + profile.noise + profile.sampler
    assert parts == pytest.approx(profile.total, rel=1e-9)
    assert min(profile.guidance, profile.noise, profile.sampler) >= 0
    assert profile.peak_memory > 2**20
    assert profile.device == "cpu"
    for part in ("model", "guidance", "noise", "sampler", "peak memory"):
        assert part in caplog.text


def test_profile_writes_a_trace(tmp_path):
    path = tmp_path / "trace.json"
    profiled = pipeline().sample(network, SHAPE, 3, seed=0, profile=path)
    events = json.loads(path.read_text())["traceEvents"]
    assert any("tanh" in str(event.get("name")) for event in events)
    assert torch.equal(profiled, pipeline().sample(network, SHAPE, 3, seed=0))


def test_a_trace_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    model = Counting()
    with pytest.raises(FileError) as raised:
        pipeline().sample(model, SHAPE, 3, profile=tmp_path / "missing" / "trace.json")
    assert "trace.json" in raised.value.where
    assert model.calls == []


def test_a_result_can_be_drawn_again_from_its_keys():
    run = pipeline("ddpm")
    for kinds in ({}, {"generator": torch.Generator()}, {"generator": [torch.Generator() for _ in range(3)]}):
        result = run.sample(network, SHAPE, 3, **kinds, return_result=True)
        seeds = [seed for seed, _ in result.keys]
        seed = seeds[0] if [i for _, i in result.keys] == [0, 1, 2] else seeds
        assert torch.equal(run.sample(network, SHAPE, 3, seed=seed), result.samples)
        assert result.plan == run.plan(3)


def test_progress_shows_every_step(capsys):
    pipeline("heun").sample(network, SHAPE, 4, progress=True)
    shown = capsys.readouterr()
    assert "12/12" in shown.err
    assert shown.out == ""
    pipeline("heun").sample(network, SHAPE, 4)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "", None, 3, torch.device("cuda")])
def test_a_device_that_is_not_there_is_named(device):
    model = Counting()
    with pytest.raises(DeviceError) as raised:
        pipeline().sample(model, SHAPE, STEPS, device=device)
    assert raised.value.where == "device"
    assert "auto" in raised.value.suggestion
    assert model.calls == []


def test_torchs_default_device_and_type_play_no_part():
    run = pipeline("ddpm", clip_sample=True)
    expected = run.sample(network, SHAPE, STEPS, seed=0)
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        fresh = pipeline("ddpm", clip_sample=True).sample(network, SHAPE, STEPS, seed=0, device="cpu")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(fresh, expected)


# ------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clip", ["open", "clip"])
def test_gradients_agree_with_finite_differences(method, clip):
    """With respect to a parameter of the model and to the initial noise, through the whole run."""
    run = pipeline(method, **CLIPS[clip])
    noise, direction = draw(seed=1, dtype=torch.float64), draw(seed=2, dtype=torch.float64)
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    noise.requires_grad_()

    def loss(scale: Tensor, noise: Tensor) -> Tensor:
        samples = run.sample(
            lambda x, t: scale * network(x, t), initial_noise=noise, num_inference_steps=4, seed=0,
            dtype=torch.float64, differentiable=True,
        )  # fmt: skip
        return samples.square().mean()

    by_scale, by_noise = torch.autograd.grad(loss(scale, noise), (scale, noise))
    h = 1e-6
    with torch.no_grad():
        wanted_scale = (loss(scale + h, noise) - loss(scale - h, noise)) / (2 * h)
        wanted_noise = (loss(scale, noise + h * direction) - loss(scale, noise - h * direction)) / (2 * h)
    torch.testing.assert_close(by_scale, wanted_scale, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close((by_noise * direction).sum(), wanted_noise, rtol=1e-4, atol=1e-6)


def test_gradients_pass_through_splits_guidance_and_checkpoint_style_models():
    weight = torch.tensor(0.5, requires_grad=True)
    samples = pipeline().sample(
        lambda x, t, label: weight * conditional(x, t, label=label), SHAPE, 3, 2.0, seed=0, max_batch_size=2,
        condition={"label": LABELS}, null_condition={"label": NULL}, differentiable=True,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(samples.sum(), weight)
    assert gradient.abs() > 0


@pytest.mark.parametrize("how", ["sample", "stream"])
def test_no_graph_is_recorded_unless_asked_for(how):
    model = Plain().eval()
    if how == "sample":
        samples = pipeline().sample(model, SHAPE, 3, seed=0)
    else:
        for step in pipeline().stream(model, SHAPE, 3, seed=0):
            assert torch.is_grad_enabled(), "the caller's own setting is left alone between steps"
            samples = step.x
    assert not samples.requires_grad
    assert samples.grad_fn is None


# ------------------------------------------------------------------------------- updates and threads


def test_update_config_is_all_or_nothing():
    run = pipeline(beta_schedule="cosine")
    before, setup = run.config, run._setup
    for changes in ({"beta_end": 5.0, "clip_sample": True}, {"clip_sample": True, "clip_smaple": True}):
        with pytest.raises(ConfigurationError):
            run.update_config(**changes)
        assert run.config is before
        assert run._setup is setup
    after = run.update_config(prediction_type="sample", num_train_timesteps=500)
    assert after is run.config
    assert (after.beta_schedule, after.prediction_type, after.num_train_timesteps) == ("cosine", "sample", 500)
    assert run.plan(5).time.max() == 400


def test_an_update_that_the_sampler_would_ignore_is_refused():
    run = pipeline("euler")
    with pytest.raises(ConfigurationError, match="does not use variance_type"):
        run.update_config(variance_type="fixed_large")
    assert run.config.variance_type == "fixed_small"


def test_an_update_keeps_the_samplers_options():
    class Own(BaseSampler):
        def __init__(self, scheduler, strength=1.0):
            super().__init__(scheduler)
            self.strength = strength

        def step(self, model_output, timestep, sample):
            return self.strength * sample

    for run in (pipeline("ddim", {"eta": 0.5}), pipeline(Own, {"strength": 0.5})):
        before = run.sample(network, SHAPE, 2, seed=0)
        run.update_config(clip_sample_range=2.0)
        assert torch.equal(run.sample(network, SHAPE, 2, seed=0), before)


def test_concurrent_updates_are_all_kept():
    fields = {"beta_end": 0.03, "clip_sample_range": 2.0, "sample_max_value": 4.0, "clip_sample": True}
    for _ in range(10):
        run = pipeline()
        gate = threading.Barrier(len(fields))

        def change(item: tuple[str, Any], run: Any = run, gate: Any = gate) -> None:
            gate.wait()
            run.update_config(**dict([item]))

        with ThreadPoolExecutor(len(fields)) as pool:
            list(pool.map(change, fields.items()))
        assert {name: getattr(run.config, name) for name in fields} == fields


def test_a_run_sees_one_config_from_start_to_end():
    """Updates while threads sample: every result is that of one config or of the other, never a mixture."""
    run = pipeline("pndm")
    configs = [{"clip_sample": False, "beta_end": 0.02}, {"clip_sample": True, "beta_end": 0.05}]
    allowed = [pipeline("pndm", **fields).sample(network, SHAPE, STEPS, seed=0) for fields in configs]
    assert not torch.equal(*allowed)
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            for fields in configs:
                run.update_config(**fields)

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda _: run.sample(network, SHAPE, STEPS, seed=0), range(40)))
    finally:
        stop.set()
        flipping.join()
    assert all(any(torch.equal(result, one) for one in allowed) for result in results)


@pytest.mark.parametrize("method", METHODS)
def test_threads_share_a_pipeline(method):
    run = pipeline(method, clip_sample=True)
    jobs = [(seed, steps) for seed in range(4) for steps in (4, 5, 9)]

    def one(job: tuple[int, int]) -> Tensor:
        return run.sample(network, SHAPE, job[1], seed=job[0])

    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(one, jobs))
    assert all(torch.equal(a, one(job)) for a, job in zip(threaded, jobs, strict=True))


# ------------------------------------------------------------------------------- starting points and plans


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


# ------------------------------------------------------------------------------- custom samplers


def test_a_sampler_with_step_alone_runs_in_the_pipeline():
    """The seed's way to add one: here Euler's method, written by hand from the noise levels."""

    class ByHand(BaseSampler):
        def step(self, model_output, timestep, sample, next_timestep=None):
            now = self.scheduler.level(timestep)
            clean = (sample - now.sigma * model_output) / now.alpha
            if next_timestep is None:
                return SamplerOutput(clean, clean)
            after = self.scheduler.level(next_timestep)
            return SamplerOutput(after.alpha * clean + after.sigma * model_output, clean)

    got = pipeline(ByHand).sample(network, SHAPE, STEPS, seed=0)
    torch.testing.assert_close(got, pipeline("euler").sample(network, SHAPE, STEPS, seed=0), rtol=1e-4, atol=1e-5)
    streamed = list(pipeline(ByHand).stream(network, SHAPE, STEPS, seed=0))
    assert torch.equal(streamed[-1].x, got)
    assert [s.index for s in streamed] == list(range(STEPS))


def test_a_step_is_offered_what_its_signature_names():
    seen = []

    class Asking(BaseSampler):
        def step(self, model_output, timestep, sample, *, step_index, num_inference_steps, noise, next_timestep, eta=0):
            seen.append((timestep, next_timestep, step_index, num_inference_steps, eta, noise.clone()))
            return {"prev_sample": 1} if timestep == -1 else sample

    pipeline(Asking).sample(network, SHAPE, 3, seed=8)
    assert [s[:5] for s in seen] == [(666, 333, 0, 3, 0), (333, 0, 1, 3, 0), (0, None, 2, 3, 0)]
    assert all(isinstance(s[0], int) for s in seen), "tables are indexed by whole times"
    assert len({float(s[5].sum()) for s in seen}) == 3
    again = [s[5] for s in seen]
    seen.clear()
    pipeline(Asking).sample(network, SHAPE, 3, seed=8, max_batch_size=1)
    assert torch.equal(torch.cat([s[5] for s in seen if s[0] == 666]), again[0]), "noise is keyed by sample"


def test_a_step_that_demands_the_unknown_is_refused_before_the_run():
    class Greedy(BaseSampler):
        def step(self, model_output, timestep, sample, temperature):
            return sample

    with pytest.raises(ConfigurationError, match="temperature"):
        pipeline(Greedy).sample(network, SHAPE, 3)


@pytest.mark.parametrize("answer", [None, 3.0, torch.zeros(1), SimpleNamespace(prev_sample=None), (1, 2)])
def test_a_step_that_returns_no_sample_is_named(answer):
    class Wrong(BaseSampler):
        def step(self, model_output, timestep, sample):
            return answer

    with pytest.raises(ModelOutputError, match="step\\(\\) returned") as raised:
        pipeline(Wrong).sample(network, SHAPE, 3)
    assert raised.value.where == "Wrong.step, step 0"


def test_a_step_may_write_into_what_it_is_given():
    class InPlace(BaseSampler):
        def step(self, model_output, timestep, sample):
            return sample.mul_(0.5).add_(model_output, alpha=0.1)

    class Fresh(BaseSampler):
        def step(self, model_output, timestep, sample):
            return sample * 0.5 + 0.1 * model_output

    noise = draw()
    kept = noise.clone()
    got = pipeline(InPlace).sample(network, initial_noise=noise, num_inference_steps=4)
    torch.testing.assert_close(got, pipeline(Fresh).sample(network, initial_noise=kept, num_inference_steps=4))
    assert torch.equal(noise, kept)


def test_a_sampler_with_neither_step_nor_write_is_refused():
    class Empty(BaseSampler):
        pass

    with pytest.raises(ConfigurationError, match="neither write"):
        pipeline(Empty).sample(network, SHAPE, 3)


def test_a_step_only_sampler_has_no_plan_and_says_so():
    class Bare(BaseSampler):
        def step(self, model_output, timestep, sample):
            return sample

    with pytest.raises(ConfigurationError, match="cannot be compiled"):
        pipeline(Bare).plan(5)


@pytest.mark.parametrize("method", METHODS)
def test_a_hand_written_loop_over_step_equals_the_pipeline(method):
    run = pipeline(method, clip_sample=True)
    noise, generator = draw(), torch.Generator().manual_seed(3)
    state, x = run.sampler.start(STEPS, noise), noise
    draws = []
    for t in run.plan(STEPS).time:
        if method in ("ddpm", "ancestral"):
            draws.append(generator.get_state())
        out = run.sampler.step(network(x, torch.full((3,), t)), t, x, state=state, generator=generator)
        x, state = out.prev_sample, out.state
        assert out.pred_original_sample.abs().max() <= 1.0
    if method in ("ddpm", "ancestral"):
        assert not torch.equal(x, noise)
        assert len(draws) == STEPS
    else:
        torch.testing.assert_close(
            x, run.sample(network, initial_noise=noise, num_inference_steps=STEPS), rtol=1e-6, atol=1e-6
        )


# ------------------------------------------------------------------------------- the system


def filled(*names: str) -> AdvancedDiffusionSystem:
    system = AdvancedDiffusionSystem()
    for name in names or ("a", "b"):
        system.create_pipeline(name, NoiseSchedulerConfig(), "ddpm")
    return system


def test_pipelines_are_kept_by_name(caplog):
    system = filled("a", "b")
    assert system.list_pipelines() == ["a", "b"]
    first = system.get_pipeline("a")
    assert isinstance(first, DiffusionPipeline)
    assert system.remove_pipeline("a") is first
    assert system.list_pipelines() == ["b"]
    with pytest.raises(ConfigurationError, match="no pipeline 'bb'") as raised:
        system.get_pipeline("bb")
    assert "'b'" in raised.value.suggestion
    with pytest.raises(ConfigurationError):
        system.remove_pipeline("a")
    with caplog.at_level(logging.INFO, logger="noise_scheduler_sampling_system"):
        new = system.create_pipeline("b", {"beta_schedule": "cosine"})
    assert "replaced" in caplog.text
    assert system.get_pipeline("b") is new
    assert new.config.beta_schedule == "cosine"


def test_a_pipeline_that_cannot_be_made_leaves_the_old_one():
    system = filled("a")
    before = system.get_pipeline("a")
    for arguments in (({"beta_start": 7},), (None, "dimm"), (None, "ddim", {"etta": 1})):
        options = arguments[2] if len(arguments) == 3 else {}
        with pytest.raises(ConfigurationError):
            system.create_pipeline("a", *arguments[:2], **options)
    assert system.get_pipeline("a") is before
    for name in ("", None, 5):
        with pytest.raises(ConfigurationError):
            system.create_pipeline(name)


def test_update_pipeline_is_all_or_nothing():
    system = filled("a", "b")
    with pytest.raises(ConfigurationError):
        system.update_pipeline("a", beta_end=0.03, prediction_type="score")
    assert system.get_pipeline("a").config == NoiseSchedulerConfig()
    updated = system.update_pipeline("a", beta_end=0.03)
    assert updated is system.get_pipeline("a")
    assert updated.config.beta_end == 0.03
    assert system.get_pipeline("b").config.beta_end == 0.02


def test_compare_schedulers_gives_every_pipeline_the_same_noise():
    system = AdvancedDiffusionSystem()
    for method in METHODS:  # in two steps the guard leaves nothing of Heun's correction
        system.create_pipeline(method, None, method, **({"guarded": False} if method == "heun" else {}))
    starts: dict[int, Tensor] = {}

    def model(x: Tensor, t: Tensor) -> Tensor:
        if float(t[0]) == 500:
            starts[len(starts)] = x.clone()
        return network(x, t)

    results = system.compare_schedulers(SHAPE, 2, model=model)
    assert list(results) == METHODS
    assert all(torch.equal(x, starts[0]) for i, x in starts.items() if i < 5), "unseeded: one seed is drawn for all"
    assert torch.equal(results["ddim"], results["euler"])
    torch.testing.assert_close(results["ddpm"], results["ancestral"], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(results["ddim"], results["heun"])
    assert not torch.equal(results["ddim"], system.compare_schedulers(SHAPE, 2, model=model)["ddim"])


@pytest.mark.parametrize("many", [False, True])
def test_compare_schedulers_with_generators_or_seeds(many):
    system = filled("a", "b")

    def seeds(start: int) -> Any:
        made = [torch.Generator().manual_seed(start + i) for i in range(3)]
        return made if many else made[0]

    first = system.compare_schedulers(SHAPE, 3, model=network, generator=seeds(0))
    assert torch.equal(first["a"], first["b"])
    assert torch.equal(first["a"], system.compare_schedulers(SHAPE, 3, model=network, generator=seeds(0))["a"])
    assert not torch.equal(first["a"], system.compare_schedulers(SHAPE, 3, model=network, generator=seeds(9))["a"])
    assert torch.equal(
        system.compare_schedulers(SHAPE, 3, model=network, seed=4)["b"],
        system.get_pipeline("b").sample(network, SHAPE, 3, seed=4),
    )
    with pytest.raises(ConfigurationError, match="both given"):
        system.compare_schedulers(SHAPE, 3, model=network, seed=4, generator=seeds(0))


@pytest.mark.parametrize(
    ("add", "call", "where"),
    [
        ({"num_train_timesteps": 10}, {"num_inference_steps": 20}, "late.num_inference_steps"),
        ({"num_train_timesteps": 10}, {"timesteps": [20.0, 3.0]}, "late."),
        ({}, {"num_inference_steps": 20, "sede": 3}, "sede"),
        ({}, {"num_inference_steps": 20, "guidance_scale": "high"}, "guidance_scale"),
    ],
)
def test_compare_schedulers_refuses_before_anything_runs(add, call, where):
    system = filled("early")
    system.create_pipeline("late", add)
    model = Counting()
    with pytest.raises(ConfigurationError) as raised:
        system.compare_schedulers(SHAPE, model=model, **call)
    assert raised.value.where.startswith(where)
    assert model.calls == []


def test_an_empty_system_has_nothing_to_compare():
    with pytest.raises(ConfigurationError, match="no pipelines"):
        AdvancedDiffusionSystem().compare_schedulers(SHAPE)


# ------------------------------------------------------------------------------- diffusers' networks


@pytest.fixture(scope="module")
def unets() -> dict[str, Any]:
    from diffusers import UNet2DConditionModel, UNet2DModel

    torch.manual_seed(0)
    common = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    return {
        "plain": UNet2DModel(
            **common, in_channels=2, out_channels=2, attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ).eval(),
        "text": UNet2DConditionModel(
            **common, in_channels=2, out_channels=2, cross_attention_dim=32, attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ).eval(),
    }  # fmt: skip


def test_a_diffusers_unet_is_called_as_it_is(unets, caplog):
    unet = unets["plain"]
    got = pipeline().sample(unet, (2, 2, 8, 8), 3, seed=0)
    by_hand = pipeline().sample(lambda x, t: unet(x, t, return_dict=False)[0], (2, 2, 8, 8), 3, seed=0)
    torch.testing.assert_close(got, by_hand, rtol=1e-6, atol=1e-6)
    said = [record for record in caplog.records if "does not look like" not in record.message]  # it is not trained
    assert not said


def test_a_text_conditioned_unet_without_text_is_given_zeros_and_a_warning(unets, caplog):
    unet = unets["text"]
    zeros = torch.zeros(2, 77, 32)
    got = pipeline().sample(unet, (2, 2, 8, 8), 3, seed=0)
    assert caplog.text.count("encoder_hidden_states") == 1
    given = pipeline().sample(
        unet, (2, 2, 8, 8), 3, seed=0, condition={"encoder_hidden_states": zeros}, classifier_free_guidance=False
    )
    assert torch.equal(got, given)
    assert caplog.text.count("encoder_hidden_states") == 1


def test_text_guidance_of_a_unet(unets):
    unet, text = unets["text"], draw((2, 77, 32), seed=3)
    shape = (2, 2, 8, 8)
    got = pipeline().sample(unet, shape, 3, 4.0, seed=0, condition={"encoder_hidden_states": text})

    def by_hand(x, t):
        c = unet(x, t, encoder_hidden_states=text).sample
        u = unet(x, t, encoder_hidden_states=torch.zeros_like(text)).sample
        return u + 4.0 * (c - u)

    with torch.no_grad():
        torch.testing.assert_close(got, pipeline().sample(by_hand, shape, 3, seed=0), rtol=1e-4, atol=1e-4)


def test_a_compiled_unet_is_recognised(unets, caplog):
    compiled = torch.compile(unets["text"], backend="eager")
    got = pipeline().sample(compiled, (2, 2, 8, 8), 2, seed=0)
    assert "encoder_hidden_states" in caplog.text
    torch.testing.assert_close(got, pipeline().sample(unets["text"], (2, 2, 8, 8), 2, seed=0), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------- errors


def test_every_error_says_what_where_why_and_survives_a_process_boundary():
    with pytest.raises(NoiseSamplingError) as raised:
        pipeline().sample(network, SHAPE, 5, sede=3)
    error = raised.value
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert (copy.what, copy.where, copy.why, copy.suggestion) == (error.what, error.where, error.why, error.suggestion)
    assert all((error.what, error.where, error.why, error.suggestion))


def test_nothing_is_printed(capsys):
    pipeline("heun").sample(network, SHAPE, 3, profile=True, early_stopping=1e-3)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("wrong", [5.0, "5", [5], True])
def test_what_ran_before_does_not_change_what_is_refused(wrong):
    run = pipeline(timestep_spacing="trailing")
    for steps in (1, 5):
        run.sample(network, SHAPE, steps)
    with pytest.raises(ConfigurationError) as raised:
        run.sample(network, SHAPE, wrong)
    assert raised.value.where == "num_inference_steps"


@pytest.mark.parametrize("scale", [np.float32(3), np.int64(3), 3])
def test_numbers_of_any_kind_are_numbers(scale):
    labels = {"condition": {"label": LABELS}, "null_condition": {"label": NULL}}
    expected = pipeline().sample(conditional, SHAPE, STEPS, 3.0, seed=0, **labels)
    assert torch.equal(pipeline().sample(conditional, SHAPE, np.int64(STEPS), scale, seed=0, **labels), expected)


def test_a_pipeline_can_be_copied_and_pickled():
    run = pipeline("ddim", {"eta": 0.5}, beta_schedule="cosine", clip_sample=True)
    expected = run.sample(network, SHAPE, STEPS, seed=0)
    for again in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert torch.equal(again.sample(network, SHAPE, STEPS, seed=0), expected)
        again.update_config(beta_schedule="linear")
        assert run.config.beta_schedule == "cosine"


def test_a_large_run_in_inference_mode_leaves_gradients_possible():
    """Nothing that is kept between runs is bound to the mode of the first one."""
    run, shape = pipeline(beta_schedule="sigmoid"), (2, 4, 64, 128)
    weight = torch.tensor(0.5, requires_grad=True)
    with torch.inference_mode():
        run.sample(network, shape, 3, seed=0)
    samples = run.sample(lambda x, t: weight * network(x, t), shape, 3, seed=0, differentiable=True)
    (gradient,) = torch.autograd.grad(samples.sum(), weight)
    assert gradient.isfinite()
    assert gradient != 0


def test_a_result_of_a_custom_step_is_replayed_by_its_plan():
    class Bare(BaseSampler):
        def step(self, model_output, timestep, sample):
            return 0.5 * sample + 0.1 * model_output

    result = pipeline(Bare).sample(network, SHAPE, STEPS, seed=0, return_result=True)
    assert torch.equal(pipeline(Bare).sample(network, SHAPE, seed=0, plan=result.plan), result.samples)
