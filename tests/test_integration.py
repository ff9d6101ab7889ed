"""Whole runs: stopped, saved and resumed; systems of pipelines from their files; errors."""

from __future__ import annotations

import copy
import logging
import pickle
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    BaseSampler,
    ConfigurationError,
    DiffusionPipeline,
    FileError,
    NoiseSamplingError,
    NoiseSchedulerConfig,
    RunState,
)
from small_runs import CLIPS, METHODS, SHAPE, STEPS, Counting, draw, network, pipeline

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
    with pytest.raises(ConfigurationError, match="no pipeline has the name 'bb'") as raised:
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


def test_a_pipeline_can_be_copied_and_pickled():
    run = pipeline("ddim", {"eta": 0.5}, beta_schedule="cosine", clip_sample=True)
    expected = run.sample(network, SHAPE, STEPS, seed=0)
    for again in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert torch.equal(again.sample(network, SHAPE, STEPS, seed=0), expected)
        again.update_config(beta_schedule="linear")
        assert run.config.beta_schedule == "cosine"
