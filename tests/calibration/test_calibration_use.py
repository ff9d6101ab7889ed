"""calibrate() in other hands: what people pass, interrupt, come back to and get wrong."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import noise_scheduler_sampling_system.calibration.search.gate as gate_module
import tiny_pipelines
from calibration_problems import is_not_worse
from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    ConfigurationError,
    DiffusionPipeline,
    FileError,
    NoiseSchedulerConfig,
    SamplingPlan,
    calibrate,
    models,
)
from noise_scheduler_sampling_system.app.command_line import app
from noise_scheduler_sampling_system.calibration import Table
from noise_scheduler_sampling_system.calibration.provenance import fingerprint
from noise_scheduler_sampling_system.calibration.search.built_in import baselines
from noise_scheduler_sampling_system.calibration.search.gate import Gate
from noise_scheduler_sampling_system.calibration.trajectories import Errors, errors_of
from noise_scheduler_sampling_system.running.noise import NoiseSource, calibration_keys

calibrate_module = importlib.import_module("noise_scheduler_sampling_system.calibration.calibrate")
CHECKPOINT_1_3 = Path(__file__).parents[1] / "data" / "calibration_of_version_1_3.safetensors"
SHAPE = (4,)
SMALL = {"shape": SHAPE, "nfe": 3, "trajectories": 32, "held_out": 32, "teacher_calls": 24, "passes": 10}


@pytest.fixture
def pipeline():
    return DiffusionPipeline(NoiseSchedulerConfig(), "ddim")


def mixture(path, labels=None):
    means = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return models.GaussianMixtureModel(path, means, 0.15, labels=labels)


def test_the_noise_of_a_fit_is_that_of_no_run(pipeline):
    seen = []
    model = mixture(pipeline.scheduler)

    def spy(x, t):
        seen.append(x.clone())
        return model(x, t)

    calibrate(spy, pipeline, seed=5, **SMALL)
    taught = torch.cat([x for x in seen if len(x) == 64][:1])  # the teacher's first call: both sets
    drawn = NoiseSource(calibration_keys(5, 64), SHAPE).initial()
    assert torch.allclose(taught / taught.std(), drawn.to(taught) / drawn.std(), atol=1e-2)
    run = []
    pipeline.sample(lambda x, t: (run.append(x.clone()), model(x, t))[1], (64, *SHAPE), 3, seed=5)
    assert not torch.isclose(run[0][:, None], drawn.to(run[0])).all(-1).any()


def test_a_model_with_learned_variances(pipeline):
    learned = DiffusionPipeline(NoiseSchedulerConfig(variance_type="learned_range"), "ddpm")
    exact = models.GaussianMixtureModel(learned.scheduler, torch.randn(3, 1, 4, 4), 0.3)

    def model(x, t):
        return torch.cat([exact(x, t), torch.zeros_like(x)], dim=1)

    plan = calibrate(model, learned, **{**SMALL, "shape": (1, 4, 4)})
    assert plan.nfe == 3
    assert torch.isfinite(learned.sample(model, (2, 1, 4, 4), plan=plan, seed=0)).all()
    with pytest.raises(ConfigurationError, match="afs"):
        DiffusionPipeline(NoiseSchedulerConfig(variance_type="learned_range"), "ddpm", afs=True).plan(5)


def _around(net):
    def function(x, t):
        return net(x) * 2.0

    return function


_NET = nn.Linear(4, 4)


def _of_a_global(x, t):
    return _NET(x)


def test_the_fingerprint_of_a_function_tells_what_it_computes(monkeypatch):
    before = fingerprint(_of_a_global)
    assert fingerprint(_of_a_global) == before
    monkeypatch.setitem(globals(), "_NET", nn.Linear(4, 4))
    assert fingerprint(_of_a_global) != before  # another network under the same name
    bodies = [lambda x, t: 2.0 * x, lambda x, t: 3.0 * x, lambda x, t: x - 2.0, lambda x, t, k=1.5: 2.0 * x]
    assert len({fingerprint(body) for body in bodies}) == len(bodies)
    same = nn.Linear(4, 4)
    assert fingerprint(_around(same)) == fingerprint(_around(same)) != fingerprint(_around(nn.Linear(4, 4)))


def test_more_seconds_go_on_with_a_plan_that_had_too_few(pipeline, tmp_path):
    model, file = mixture(pipeline.scheduler), tmp_path / "state.safetensors"
    asked = {**SMALL, "passes": 100, "checkpoint": file}
    first = calibrate(model, pipeline, budget_seconds=1e-3, **asked)
    assert calibrate(model, pipeline, budget_seconds=1e-3, **asked) == first  # done
    more = calibrate(model, pipeline, budget_seconds=60, **asked)
    assert more.provenance["iterations"] > first.provenance["iterations"]
    before, after = (Errors(**plan.provenance["held_out_error"]).weighed for plan in (first, more))
    assert after <= before  # what was found before is still there
    assert calibrate(model, pipeline, budget_seconds=10, **asked) == more
    with pytest.raises(FileError, match="dtype"):
        calibrate(model, pipeline, budget_seconds=10, dtype=torch.float64, **asked)


def test_a_checkpoint_of_version_1_3_is_continued(tmp_path, monkeypatch):
    """It was interrupted in the fit of 3 calls."""
    file = tmp_path / "state.safetensors"
    file.write_bytes(CHECKPOINT_1_3.read_bytes())
    monkeypatch.setattr(calibrate_module, "teach", None)  # the teacher's samples are in the file
    asked = {"shape": (1, 8, 8), "nfe": (2, 3), "trajectories": 8, "held_out": 4, "teacher_calls": 8, "passes": 40}
    plans = calibrate(None, checkpoint=file, **asked)
    assert list(plans) == [2, 3]
    assert plans[2].provenance["iterations"] == 2  # as it was in the file
    assert plans[3].provenance["iterations"] > 2
    assert not plans[3].provenance["interrupted"]


def test_numbers_of_numpy_and_torch_are_numbers(pipeline, tmp_path):
    model = mixture(pipeline.scheduler, labels=torch.arange(6))
    asked = {**SMALL, "condition": {"class_labels": torch.arange(6)}, "passes": np.float32(10), "history": np.int64(1)}
    for scale in (np.float32(2), torch.tensor(2.0)):
        plan = calibrate(model, pipeline, guidance_scale=scale, budget_seconds=np.int64(60), **asked)
        plan.save(tmp_path / "plan.json")
        assert SamplingPlan.load(tmp_path / "plan.json").provenance["guidance_scale"] == 2.0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"seed": None}, "seed"),
        ({"seed": [1, 2]}, "seed"),
        ({"guidance_scale": 3.0}, "needs a condition"),
        ({"guidance_scale": [1.0, 2.0], "condition": {"class_labels": torch.arange(6)}}, "guidance_scale"),
        ({"passes": float("nan")}, "passes"),
        ({"budget_seconds": True}, "budget_seconds"),
        ({"checkpoint": "missing_folder/state.safetensors"}, "missing_folder"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_call(pipeline, changes, match):
    def never(x, t, **condition):
        raise AssertionError("the model was called")

    with pytest.raises((ConfigurationError, FileError), match=match):
        calibrate(never, pipeline, **{**SMALL, **changes})


def test_arguments_in_the_wrong_place(pipeline):
    model = mixture(pipeline.scheduler)
    with pytest.raises(ConfigurationError, match="the model first"):
        calibrate(pipeline, model, **SMALL)
    with pytest.raises(ConfigurationError, match="get_pipeline"):
        calibrate(model, AdvancedDiffusionSystem(), **SMALL)
    assert calibrate(model, {"beta_schedule": "cosine"}, **SMALL).nfe == 3
    assert calibrate(model, "cosine", **SMALL).nfe == 3


def test_a_pipeline_of_diffusers_says_what_it_brings_itself():
    borrowed = DiffusionPipeline.from_diffusers(tiny_pipelines.stable_diffusion(), "ddim")
    with pytest.raises(ConfigurationError, match="prompt"):
        calibrate(None, borrowed, shape=(4, 16, 16), nfe=3)
    for name, value in {"shape": (99, 7), "condition": {"a": torch.zeros(1)}, "device": "cpu"}.items():
        with pytest.raises(ConfigurationError, match=name):
            borrowed.calibrate(nfe=3, prompt="a cat", **{name: value})


def test_what_is_likely_a_mistake_is_said(pipeline, caplog):
    model = mixture(pipeline.scheduler, labels=torch.arange(6))
    labels = {"class_labels": torch.arange(600) % 6}
    with caplog.at_level(logging.WARNING):
        plan = calibrate(model, pipeline, condition=labels, guidance_scale=1.0, **SMALL)
        assert "600 rows" in caplog.text
        caplog.clear()
        few = {"class_labels": torch.arange(6)}
        pipeline.sample(model, (6, *SHAPE), plan=plan, condition=few, guidance_scale=1.0, seed=1)
        assert not caplog.text
        pipeline.sample(model, (6, *SHAPE), plan=plan, condition=few, seed=1)  # 7.5
        assert "calibrated at guidance_scale=1, this run has 7.5" in caplog.text
        caplog.clear()
        calibrate(mixture(pipeline.scheduler), pipeline, **{**SMALL, "teacher_calls": 6, "passes": 60})
        assert "teacher_calls" in caplog.text
        caplog.clear()
        training = nn.Linear(4, 4).train()

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = training

            def forward(self, x, t):
                return 0.5 * x + 0.1 * self.layer(x)

        calibrate(Network(), pipeline, **SMALL)
        assert caplog.text.count("training mode") == 1


def test_the_bar_changes_nothing_where_a_model_overflows(pipeline):
    model = mixture(pipeline.scheduler)

    def fragile(x, t):
        out = model(x, t)
        return torch.where((x.abs() > 4.2).any(-1, keepdim=True), torch.full_like(out, torch.nan), out)

    asked = {**SMALL, "seed": 1}
    assert calibrate(fragile, pipeline, progress=True, **asked) == calibrate(fragile, pipeline, **asked)


def _interrupting(model, at):
    calls = [0]

    def wrapped(x, t):
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        return model(x, t)

    return wrapped, calls


def test_an_interrupt_at_any_time_after_the_teacher_returns_a_plan(pipeline, monkeypatch):
    model = mixture(pipeline.scheduler)
    counted, calls = _interrupting(model, 0)
    begun = []
    built_in = Gate.built_in

    def noted(self, *args):
        begun.append(calls[0])
        return built_in(self, *args)

    monkeypatch.setattr(gate_module.Gate, "built_in", noted)
    whole = calibrate(counted, pipeline, **SMALL)
    total, gate = calls[0], begun[0]
    assert whole.provenance["interrupted"] is False
    for at in (60, 200, gate - 5, gate + 1, total - 4, total):
        interrupted, _ = _interrupting(model, at)
        plan = calibrate(interrupted, pipeline, **SMALL)
        assert plan.nfe == 3
        assert is_not_worse(plan.provenance)
        if at > gate:  # everything was found
            assert plan.provenance["iterations"] == whole.provenance["iterations"]
        else:
            assert plan.provenance["interrupted"] is True
        if at == total:  # its uncertainty is measured last
            assert (plan.provenance["interrupted"], plan.provenance["measured"]) == (True, {})
    with pytest.raises(KeyboardInterrupt):  # the teacher: there is nothing yet
        calibrate(_interrupting(model, 3)[0], pipeline, **SMALL)


@pytest.mark.parametrize("stages", ["design", ("design", "fit")])
def test_what_is_returned_reproduces_constants(pipeline, stages):
    model = mixture(pipeline.scheduler)
    for nfe in (3, 5):
        plan = calibrate(model, pipeline, stages=stages, **{**SMALL, "nfe": nfe})
        start = baselines(pipeline.scheduler, nfe, ("ddim, trailing",))[0].table.start
        assert plan.sampler == "calibrated"
        table = Table.of_plan(plan, start=start._replace(sigma=plan.prior_scale, alpha=0.0))
        assert np.abs(table.rows[1:, 1:].sum(1) - table.signals[1:]).max() < 0.05  # all but α_T/r_T of it


def test_the_best_built_in_sampler_is_among_those_listed(pipeline):
    model = models.DigitsModel(pipeline.scheduler, bandwidth=0.3)
    plan = calibrate(model, pipeline, shape=(1, 8, 8), nfe=6, trajectories=64, teacher_calls=64, stages="design")
    told = plan.provenance["built_in"][0]["held_out_error"]["rms"]
    x = NoiseSource(calibration_keys(0, 128), (1, 8, 8)).initial()[64:]
    fine = DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").plan(64)
    solution = pipeline.sample(model, initial_noise=x, plan=fine, seed=0)
    best = min(
        errors_of(pipeline.sample(model, initial_noise=x, plan=b.plan, seed=0), solution).rms
        for b in baselines(pipeline.scheduler, 6)
        if b.plan.nfe == 6
    )
    assert told < 1.05 * best


def test_the_command_says_what_is_missing_before_it_runs(tmp_path):
    runner = CliRunner()
    for arguments in (
        ["--out", str(tmp_path / "no" / "p.json")],
        ["--out", str(tmp_path / "p.json"), "--plot", str(tmp_path / "no" / "p.png")],
    ):
        result = runner.invoke(app, ["calibrate", "--nfe", "3", *arguments])
        assert result.exit_code != 0
        assert "folder" in result.output + result.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_finds_a_model_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_own_models.py").write_text("def network(x, t):\n    return 0.5 * x\n")
    monkeypatch.chdir(tmp_path)
    told = ["--model", "my_own_models:network", "--shape", "4", "--nfe", "3", "--passes", "3", "--trajectories", "16"]
    result = CliRunner().invoke(app, ["calibrate", *told, "--teacher-calls", "16", "--out", "plan.json"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "plan.json").exists()
