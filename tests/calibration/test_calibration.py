"""calibrate(): plans fitted to a model, judged on noise and labels that the fit has not seen."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import tiny_pipelines
from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    FileError,
    NoiseSchedulerConfig,
    PlanSet,
    SamplingPlan,
    calibrate,
    guidance,
    models,
)
from noise_scheduler_sampling_system.app.command_line import app
from noise_scheduler_sampling_system.calibration import LevelRange, Table
from noise_scheduler_sampling_system.calibration.checkpoint import Checkpoint
from noise_scheduler_sampling_system.calibration.fit.fit import Fit, derivatives, fit
from noise_scheduler_sampling_system.calibration.fit.free_numbers import FreeNumbers
from noise_scheduler_sampling_system.calibration.fit.robust_loss import CauchyLoss, informative
from noise_scheduler_sampling_system.calibration.plot import draw
from noise_scheduler_sampling_system.calibration.provenance import described, fingerprint, guidance_named
from noise_scheduler_sampling_system.calibration.search.budget import Budget, Limits
from noise_scheduler_sampling_system.calibration.search.built_in import baselines
from noise_scheduler_sampling_system.calibration.search.starts import Climb, grown, widened, with_query
from noise_scheduler_sampling_system.calibration.student import Student, end_of
from noise_scheduler_sampling_system.calibration.trajectories import Errors, Trajectories, errors_of, teach
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

SHAPE = (4,)


def mixture(path, kind="epsilon", labels=None):
    means = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return models.GaussianMixtureModel(path, means, 0.15, labels=labels, prediction_type=kind)


def noise_of(count, seed, shape=SHAPE):
    return NoiseSource(resolve_keys(seed, None, count), shape).initial().double()


CONFIGS = {
    "linear": NoiseSchedulerConfig(),
    "cosine v": NoiseSchedulerConfig(beta_schedule="cosine", prediction_type="v_prediction"),
    "edm": NoiseSchedulerConfig(beta_schedule="edm"),
    "flow": NoiseSchedulerConfig(beta_schedule="flow"),
    "zero snr v": NoiseSchedulerConfig(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_plan_beats_every_built_in_sampler_on_other_noise(name):
    pipeline = DiffusionPipeline(CONFIGS[name], "ddim")
    model = mixture(pipeline.scheduler, pipeline.config.prediction_type)
    plan = calibrate(model, pipeline, shape=SHAPE, nfe=4, trajectories=256, held_out=128, teacher_calls=64, passes=150)
    assert plan.nfe == 4
    x = noise_of(512, seed=99)
    exact = model.reference_solution(x * pipeline.scheduler.prior_std)
    ours = errors_of(pipeline.sample(model, initial_noise=x, plan=plan, dtype=torch.float64), exact)
    # the best of the built-in ones is known only after the fact
    others = [
        errors_of(pipeline.sample(model, initial_noise=x, plan=b.plan, dtype=torch.float64), exact)
        for b in baselines(pipeline.scheduler, 4)
        if b.name in {entry["name"] for entry in plan.provenance["built_in"]}
    ]
    assert len(others) >= 5
    assert ours.median < 0.5 * min(errors.median for errors in others)
    assert ours.rms < 0.8 * min(errors.rms for errors in others)
    # the teacher's own error is small beside the plan's
    assert plan.provenance["teacher_error"] < 0.1 * ours.median


def test_provenance_and_file(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x, t):
            return torch.tanh(self.layer(x)) * 0.3 + x * 0.7

    model = Network().eval()
    plan = calibrate(model, shape=SHAPE, nfe=3, trajectories=64, held_out=32, teacher_calls=32, passes=40)
    about = plan.provenance
    assert about["model"].startswith(f"{Network.__module__}.")
    assert len(about["model"].split()[-1]) == 16
    assert about["shape"] == [4]
    assert about["seed"] == 0
    assert about["trajectories"] == 64
    assert about["config"]["beta_schedule"] == "linear"
    assert set(about["versions"]) == {"noise_scheduler_sampling_system", "torch", "python"}
    assert about["held_out_error"]["rms"] <= about["built_in"][0]["held_out_error"]["rms"]
    plan.save(tmp_path / "plan.json")
    loaded = SamplingPlan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.provenance == json.loads(json.dumps(dict(about)))
    # the same seed gives the same plan, another model another fingerprint
    again = calibrate(model, shape=SHAPE, nfe=3, trajectories=64, held_out=32, teacher_calls=32, passes=40)
    assert again == plan
    with torch.no_grad():
        model.layer.bias.add_(0.1)
    other = calibrate(model, shape=SHAPE, nfe=3, trajectories=64, held_out=32, teacher_calls=32, passes=5)
    assert other.provenance["model"] != about["model"]


def test_where_nothing_better_is_found_the_best_built_in_sampler_is_returned():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    plan = calibrate(  # no table has so little gain, so that there is no design
        model, pipeline, shape=SHAPE, nfe=5, trajectories=32, held_out=32, teacher_calls=64, stages="design",
        max_gain=0.5,
    )  # fmt: skip
    best = plan.provenance["built_in"][0]
    assert plan.provenance["kind"] == best["name"]
    assert plan.nfe == 5  # samplers that cannot have exactly so many are not among them
    assert plan.provenance["held_out_error"] == best["held_out_error"]
    assert plan == replace(
        next(b.plan for b in baselines(pipeline.scheduler, 5) if b.name == best["name"]), provenance=plan.provenance
    )


def test_guidance_that_follows_the_run_is_refused():
    def never(x, t, **condition):
        raise AssertionError("asked")

    told = {"shape": SHAPE, "nfe": 3, "condition": {"class_labels": torch.arange(3)}}
    for wrong in (
        guidance.ClassifierFree(("linear", 1.0, 7.0)),
        guidance.ClassifierFree(lambda moment: 1.0 + moment.step),
        guidance.AdaptiveProjected(3.0, momentum=-0.5),
        guidance.CFGZeroStar(3.0, zero_steps=2),
    ):
        with pytest.raises(ConfigurationError, match="depends on the step"):
            calibrate(never, guidance=wrong, **told)
    for fine in (
        guidance.ClassifierFree(lambda moment: 1.0 + moment.sigma),
        [guidance.ClassifierFree(3.0), guidance.Interval(0.3, 5.0)],
        [guidance.ClassifierFree(3.0), guidance.Rescale(0.7)],
        guidance.AdaptiveProjected(3.0, momentum=0.0),
    ):
        with pytest.raises(AssertionError, match="asked"):
            calibrate(never, guidance=fine, null_condition={"class_labels": 3}, **told)


def test_the_bar_does_not_change_the_plan():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    asked = {"shape": SHAPE, "nfe": 3, "trajectories": 32, "held_out": 64, "teacher_calls": 32, "passes": 40}
    assert calibrate(model, pipeline, progress=True, **asked) == calibrate(model, pipeline, **asked)


def test_guidance_and_labels():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler, labels=[0, 0, 1, 1, 2, 2])
    told = {"condition": {"class_labels": torch.arange(3)}, "guidance_scale": 3.0}
    plan = calibrate(
        model, pipeline, shape=SHAPE, nfe=5, trajectories=256, held_out=256, teacher_calls=96, passes=150, **told
    )
    x, labels = noise_of(256, seed=7), torch.arange(256) % 3
    used = {"condition": {"class_labels": labels}, "guidance_scale": 3.0, "dtype": torch.float64}
    fine = pipeline.sample(
        model,
        initial_noise=x,
        plan=DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").plan(256),
        **used,
    )
    ours = errors_of(pipeline.sample(model, initial_noise=x, plan=plan, **used), fine)
    others = {entry["name"] for entry in plan.provenance["built_in"]}
    best = min(
        errors_of(pipeline.sample(model, initial_noise=x, plan=b.plan, **used), fine).rms
        for b in baselines(pipeline.scheduler, 5)
        if b.name in others
    )
    assert ours.rms < 0.7 * best  # the best built-in sampler is guarded, and better than the published ones
    assert plan.provenance["guidance_scale"] == 3.0
    assert plan.provenance["condition"] == {"class_labels": [0, 1, 2]}


def test_several_budgets_in_one_file(tmp_path):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    plans = pipeline.calibrate(
        model, shape=SHAPE, nfe=(5, 3), trajectories=64, held_out=32, teacher_calls=48, passes=30
    )
    assert isinstance(plans, PlanSet)
    assert list(plans) == [3, 5]
    plans.save(tmp_path / "plans.json")
    loaded = PlanSet.load(tmp_path / "plans.json")
    assert loaded == plans
    x = noise_of(8, seed=1)
    for nfe in plans:
        calls = []

        def counted(x, t, calls=calls):
            calls.append(1)
            return model(x, t)

        picked = pipeline.sample(counted, initial_noise=x, plan=loaded, num_inference_steps=nfe, dtype=torch.float64)
        assert len(calls) == nfe
        assert torch.equal(picked, pipeline.sample(model, initial_noise=x, plan=plans[nfe], dtype=torch.float64))
    with pytest.raises(ConfigurationError, match="give one of 3, 5"):
        pipeline.sample(model, initial_noise=x, plan=plans, num_inference_steps=4)
    draw(plans, pipeline.scheduler, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "bad.json").write_text('{"format": "x"}')
    with pytest.raises(FileError, match="no sampling plans"):
        PlanSet.load(tmp_path / "bad.json")
    with pytest.raises(ConfigurationError, match="so many model calls"):
        PlanSet({7: plans[3]})


def test_derivatives_of_the_end():
    """Every column of the Jacobian against central differences of whole runs."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "adams")
    model = mixture(pipeline.scheduler)
    student = Student(pipeline, model, None, None, {"dtype": torch.float64})
    sampler = DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").sampler
    for history in (None, 1):
        span = LevelRange(pipeline.scheduler)
        inside = [span.level(math.log(noise)) for noise in (20.0, 2.0, 0.7, 0.2)]
        table = Table.of_plan(sampler.plan(4), history=history).with_levels(inside)
        numbers = FreeNumbers.of(span, table)
        x = noise_of(8, seed=2)
        part = Trajectories(x, torch.zeros_like(x), torch.arange(8))

        def ended(table, part=part):
            columns = student.columns(table, part.noise, part.rows)
            return end_of(table, columns)

        base = student.columns(numbers.table, x, part.rows)
        end = end_of(numbers.table, base)
        found = derivatives(student, numbers, part, base, end, 1e-3)  # the model's time is told in float32
        for k, (stage, ours) in enumerate(zip(numbers.stages, found, strict=True)):
            up, change = numbers.nudged(stage, 3e-3)
            down, back = numbers.nudged(stage, -3e-3)
            central = (ended(up) - ended(down)) / (change - back)
            assert torch.allclose(ours, central, rtol=2e-2, atol=1e-2 * float(central.abs().max())), (history, k)


def test_levels_stay_in_order_whatever_the_step():
    span = LevelRange(DiffusionPipeline(NoiseSchedulerConfig()).scheduler)
    sampler = DiffusionPipeline(span.path.spaced("kl_optimal"), "adams").sampler
    numbers = FreeNumbers.of(span, Table.of_plan(sampler.plan(6)))
    generator = np.random.default_rng(0)
    for size in (1e-3, 0.1, 3.0, 100.0):
        for _ in range(20):
            moved = numbers.moved(size * generator.standard_normal(len(numbers.stages)))
            noise = [level.noise_to_signal for level in moved.levels]
            assert all(a > b for a, b in itertools.pairwise(noise))
            top, bottom = span.ends
            assert math.exp(bottom) * (1 - 1e-9) <= noise[-1]
            assert noise[0] <= math.exp(top) * (1 + 1e-9)
            assert moved.is_consistent


def test_history_limits_the_memory_of_the_plan():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    plan = calibrate(
        model, pipeline, shape=SHAPE, nfe=5, trajectories=128, held_out=64, teacher_calls=64, history=1, passes=80
    )
    assert plan.provenance["kind"] == "fit"
    assert plan.history <= 1


def test_first_query_at_the_noisiest_level():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="flow"), "ddim")
    model = mixture(pipeline.scheduler, "flow_prediction")
    plan = calibrate(
        model,
        pipeline,
        shape=SHAPE,
        nfe=4,
        trajectories=128,
        held_out=64,
        teacher_calls=64,
        first="noisiest",
        passes=80,
    )
    assert plan.provenance["kind"] == "fit"
    assert plan.time[0] == pipeline.scheduler.t_max
    assert plan.carries == ("data",)  # checked: every row reproduces constants


def test_a_checkpoint_is_gone_on_with(tmp_path):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    asked = {"shape": SHAPE, "nfe": (3, 4), "trajectories": 64, "held_out": 32, "teacher_calls": 48, "passes": 60}
    file, calls, stop_at = tmp_path / "state.safetensors", [0], [0]

    class StopError(Exception):
        pass

    def limited(x, t):
        calls[0] += 1
        if calls[0] == stop_at[0]:
            raise StopError
        return model(x, t)

    whole = calibrate(limited, pipeline, **asked)
    total = calls[0]
    stop_at[0] = total + int(0.8 * total)
    with pytest.raises(StopError):
        calibrate(limited, pipeline, checkpoint=file, **asked)
    before = calls[0]
    resumed = calibrate(limited, pipeline, checkpoint=file, **asked)
    assert calls[0] - before < 0.6 * total  # the teacher, the first plan, and a part of the second are not asked again
    assert list(resumed) == [3, 4]
    for nfe in (3, 4):
        assert resumed[nfe].provenance["held_out_error"]["rms"] < 1.3 * whole[nfe].provenance["held_out_error"]["rms"]
    after = calls[0]
    assert calibrate(limited, pipeline, checkpoint=file, **asked) == resumed
    assert calls[0] == after  # all is in the file
    with pytest.raises(FileError, match="trajectories"):
        calibrate(limited, pipeline, checkpoint=file, **{**asked, "trajectories": 65})
    file.write_bytes(b"nonsense")
    with pytest.raises(FileError, match=r"state\.safetensors"):
        calibrate(limited, pipeline, checkpoint=file, **asked)


def test_an_interrupt_returns_the_best_so_far():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model, calls = mixture(pipeline.scheduler), [0]

    def impatient(x, t):
        calls[0] += 1
        if calls[0] == 1900:
            raise KeyboardInterrupt
        return model(x, t)

    plan = calibrate(impatient, pipeline, shape=SHAPE, nfe=4, trajectories=64, held_out=32, teacher_calls=32)
    assert calls[0] > 1900
    assert plan.provenance["held_out_error"]["rms"] <= plan.provenance["built_in"][0]["held_out_error"]["rms"]


def test_a_budget_of_time_is_kept():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    asked = {"shape": SHAPE, "nfe": 4, "trajectories": 64, "held_out": 32, "teacher_calls": 32}
    plan = calibrate(model, pipeline, budget_seconds=1e-3, **asked)
    assert plan.provenance["iterations"] <= 1


def test_several_budgets_share_the_time(monkeypatch):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model, calls = mixture(pipeline.scheduler), [0]

    def counted(x, t):
        calls[0] += 1
        return model(x, t)

    monkeypatch.setattr(time, "monotonic", lambda: 1e-3 * calls[0])  # a call takes a millisecond
    asked = {"shape": SHAPE, "trajectories": 64, "held_out": 64, "teacher_calls": 32, "passes": 1e4}
    plans = calibrate(counted, pipeline, nfe=(3, 5, 4), budget_seconds=5.0, **asked)
    assert list(plans) == [3, 4, 5]
    assert all(plan.provenance["iterations"] > 3 for plan in plans.values())
    assert all(plan.provenance["kind"] == "fit" for plan in plans.values())
    assert 2_500 < calls[0] < 7_500
    errors = [plan.provenance["held_out_error"]["rms"] for plan in plans.values()]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"nfe": 0}, "nfe"), ({"nfe": ()}, "nfe"), ({"nfe": "x"}, "nfe"), ({"shape": (0, 3)}, "shape"),
        ({"shape": 3}, "shape"), ({"trajectories": 0}, "trajectories"), ({"stages": ("adam",)}, "stages"),
        ({"stages": ()}, "stages"), ({"budget_seconds": -1}, "budget_seconds"),
        ({"first": "last"}, "first"), ({"condition": 3}, "condition"), ({"teacher_calls": 1.5}, "teacher_calls"),
        ({"max_gain": 0}, "max_gain"), ({"passes": 0}, "passes"), ({"history": -1}, "history"),
        ({"history": 1.5}, "history"), ({"teacher_calls": 7}, "teacher_calls"),
    ],
)  # fmt: skip
def test_bad_arguments_before_the_first_call(changes, where):
    def never(x, t):
        raise AssertionError("asked")

    with pytest.raises(ConfigurationError) as caught:
        calibrate(never, **{"shape": SHAPE, "nfe": 4, **changes})
    assert caught.value.where == where


def test_the_stage_of_earlier_versions_is_left_out_with_a_warning(caplog):
    asked = {"shape": SHAPE, "nfe": 2, "trajectories": 8, "held_out": 8, "teacher_calls": 8, "passes": 10}
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    with caplog.at_level(logging.WARNING):
        plan = calibrate(mixture(pipeline.scheduler), pipeline, stages=("fit", "refine"), **asked)
    assert plan.provenance["stages"] == ["fit"]
    assert "'refine' was removed" in caplog.text


def test_fit_lowers_the_loss_every_time():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    student = Student(pipeline, model, None, None, {"dtype": torch.float64})
    taught, _ = teach(student, noise_of(64, seed=0), 64, 16)
    sampler = DiffusionPipeline(pipeline.scheduler.spaced("kl_optimal"), "adams").sampler
    span = LevelRange(pipeline.scheduler)
    states = list(fit(student, Table.of_plan(sampler.plan(3)), span, taught, max_gain=30.0))
    for before, after in itertools.pairwise(states):
        if after.robust == before.robust:
            assert after.loss <= before.loss
    assert states[-1].converged
    assert states[-1].phase == 1
    assert states[-1].errors.rms < 0.5 * states[0].errors.rms


def test_command(tmp_path):
    out, picture = tmp_path / "plans.json", tmp_path / "plans.png"
    words = ["calibrate", "--nfe", "2,3", "--trajectories", "32", "--labels", "0,1,2", "--guidance-scale", "1.5"]
    words += ["--passes", "60", "--teacher-calls", "32", "--held-out", "16", "--history", "1", "--first", "noisiest"]
    words += ["--max-batch-size", "24", "--stages", "fit", "--device", "cpu", "--max-gain", "9"]
    result = CliRunner().invoke(app, [*words, "--out", str(out), "--plot", str(picture)])
    assert result.exit_code == 0, result.output
    assert "best built-in" in result.output
    plans = PlanSet.load(out)
    assert list(plans) == [2, 3]
    told = {"guidance_scale": 1.5, "passes": 60.0, "teacher_calls": 32, "held_out": 16, "history": 1}
    told |= {"first": "noisiest", "stages": ["fit"], "max_gain": 9.0}
    assert told.items() <= dict(plans[3].provenance).items()
    assert picture.exists()
    for words, message in {
        ("--model", "nothing"): "give digits, mnist, or module:attribute",
        ("--model", "no.such:thing"): "cannot be imported",
        ("--model", "math:sqrt"): "shape",
        ("--out", "plan.txt"): r".txt",
    }.items():
        bad = CliRunner().invoke(app, ["calibrate", "--out", str(out), *words])
        assert bad.exit_code == 1
        assert message in bad.output


def test_a_point_mass_and_a_single_call():
    """The exact model of one point is solved by any consistent plan; one call of a Gaussian by the right one."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    point = models.GaussianModel(pipeline.scheduler, torch.tensor([0.7, -0.2]), 0.0)
    plan = calibrate(point, pipeline, shape=(2,), nfe=2, trajectories=16, held_out=16, teacher_calls=16, passes=20)
    x = noise_of(4, 3, (2,))
    sample = pipeline.sample(point, initial_noise=x, plan=plan, dtype=torch.float64)
    assert torch.allclose(sample, torch.tensor([0.7, -0.2], dtype=torch.float64).expand(4, 2), atol=2e-2)
    spread = models.GaussianModel(pipeline.scheduler, torch.zeros(2), 0.3)
    plan = calibrate(spread, pipeline, shape=(2,), nfe=1, trajectories=32, held_out=16, teacher_calls=64, passes=60)
    exact = spread.reference_solution(x)
    assert errors_of(pipeline.sample(spread, initial_noise=x, plan=plan, dtype=torch.float64), exact).rms < 1e-3


@pytest.mark.parametrize("kind", ["sd", "flux"])
def test_a_calibrated_plan_inside_a_pipeline_of_diffusers(kind):
    pipe = tiny_pipelines.build(kind)
    pipeline = DiffusionPipeline.from_diffusers(pipe)
    told = {
        "prompt": ["a cat", "a dog"],
        "height": tiny_pipelines.SIDE,
        "width": tiny_pipelines.SIDE,
        "guidance_scale": 3.0,
    }
    plans = pipeline.calibrate(**told, nfe=(2, 3), trajectories=4, held_out=4, teacher_calls=24, passes=12)
    x = torch.randn(
        (2, 4, tiny_pipelines.SIDE // 2, tiny_pipelines.SIDE // 2), generator=torch.Generator().manual_seed(0)
    )

    def packed(x):
        return x if kind == "sd" else pipe._pack_latents(x, 2, 4, tiny_pipelines.SIDE // 2, tiny_pipelines.SIDE // 2)

    asked = {**told, "num_inference_steps": 3, "output_type": "latent"}
    images = pipeline.generate(**asked, plan=plans, initial_noise=x)
    base = pipe.scheduler
    try:
        pipe.scheduler = PlanScheduler.from_plan(plans, base)
        theirs = pipe(**asked, latents=packed(x.clone())).images
    finally:
        pipe.scheduler = base
    assert torch.allclose(packed(images), theirs, atol=1e-4 * float(theirs.abs().max()))
    with pytest.raises(ConfigurationError, match="from_diffusers"):
        DiffusionPipeline().calibrate(prompt="a cat", nfe=3)


def test_a_kept_fit_is_gone_on_with_even_if_it_had_converged(tmp_path):
    """It may have been a trial's, and what is not handed out again would be lost."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    path = pipeline.scheduler
    table = Table.of_plan(DiffusionPipeline(path.spaced("kl_optimal"), "adams").plan(3))
    table = FreeNumbers.of(LevelRange(path), table).table
    robust = CauchyLoss(3.0)
    trial = Fit(table, 0.5, Errors(0.4, 0.3), 96, 0.02, robust, phase=1, iterations=7, converged=True)
    state = Checkpoint.open(tmp_path / "state.safetensors", {"seed": 1})
    state.teach(torch.zeros(2, 4, dtype=torch.float64), 0.1)
    state.keep(3, trial)
    stored = Checkpoint.open(tmp_path / "state.safetensors", {"seed": 1})
    assert stored.solution.dtype == torch.float64
    again = stored.fits[3]
    assert np.array_equal(again.table.rows, table.rows)
    assert again.table.levels == table.levels
    assert replace(again, table=table) == trial

    student = Student(pipeline, mixture(path), None, None, {"dtype": torch.float64})
    taught, _ = teach(student, noise_of(16, seed=0), 32, 4)
    first = next(fit(student, table, LevelRange(path), taught, max_gain=30.0, resume=again))
    assert (first.iterations, first.count, first.phase) == (8, 16, 1)

    worse = replace(trial, count=512, errors=Errors(0.8, 0.6))
    state.keep(3, worse)
    assert state.fits[3] is worse  # of more trajectories
    state.keep(3, replace(worse, errors=Errors(0.9, 0.6)))
    assert state.fits[3] is worse


def test_informative_trajectories_stand_for_all():
    each = torch.linspace(0.1, 1.0, 400, dtype=torch.float64) ** 8
    each[:5] = 40.0
    robust = CauchyLoss(0.5)
    quantity = robust.weights(each) * each.square()  # what they are drawn for
    sums = []
    for seed in range(300):
        numbers, weights = informative(each, robust, 50, seed)
        assert len(numbers) <= 51
        assert (numbers.diff() > 0).all()
        sums.append(float((weights * quantity[numbers]).sum()))
    assert np.mean(sums) == pytest.approx(float(quantity.mean()), rel=0.01)
    assert np.std(sums) < 0.1 * np.mean(sums)  # evenly drawn ones scatter by half of it
    numbers, weights = informative(each, robust, 400, 0)
    assert numbers.tolist() == list(range(400))
    assert float(weights.sum()) == pytest.approx(1.0)


def test_the_robust_loss_and_its_weights():
    each = torch.tensor([1e-3, 0.3, 5.0], dtype=torch.float64)
    for robust in (CauchyLoss(0.3), CauchyLoss()):
        step = 1e-6
        for k in range(3):
            up = each.clone()
            up[k] += step
            slope = 3 * (robust.loss(up) - robust.loss(each)) / step
            assert slope == pytest.approx(float((robust.weights(each) * each)[k]), rel=1e-2)
    before = CauchyLoss(0.2)
    assert CauchyLoss.at(3.0, Errors(1.0, 0.1), before).scale == 0.2
    assert CauchyLoss.at(3.0, Errors(1.0, 0.01), before).scale == pytest.approx(0.03)
    assert CauchyLoss.at(3.0, Errors(1.0, 0.0), before).scale == pytest.approx(1e-3)


@pytest.mark.parametrize("history", [None, 1])
def test_runs_of_several_tables_in_one_batch(history):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    labels = torch.arange(6)
    model = mixture(pipeline.scheduler, labels=labels)
    student = Student(
        pipeline, model, {"class_labels": torch.arange(5) % 3}, None, {"dtype": torch.float64, "guidance_scale": 2.0}
    )
    path = pipeline.scheduler
    table = Table.of_plan(DiffusionPipeline(path.spaced("kl_optimal"), "adams").plan(4), history=history)
    x, rows = noise_of(5, seed=2), torch.arange(5)
    generator = np.random.default_rng(0)
    others = [table.with_weights(table.weights + 0.1 * generator.standard_normal(len(table.weights))) for _ in range(3)]
    together = student.ends(others, [x], rows)
    for one, ended in zip(others, together, strict=True):
        assert torch.allclose(end_of(one, student.columns(one, x, rows)), ended, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("count", [1, 4])
def test_a_grown_table_gives_the_same_samples(name, count):
    pipeline = DiffusionPipeline(CONFIGS[name], "ddim")
    path = pipeline.scheduler
    model = mixture(path, pipeline.config.prediction_type)
    student = Student(pipeline, model, None, None, {"dtype": torch.float64})
    span = LevelRange(path)
    levels = [span.level(math.log(noise)) for noise in (10.0, 3.0, 1.0, 0.3)[:count]]
    sampler = DiffusionPipeline(path.spaced("kl_optimal"), "adams").sampler
    table = FreeNumbers.of(span, Table.of_plan(sampler.plan(count))).table.with_levels(levels)
    x, rows = noise_of(5, seed=2), torch.arange(5)

    def end(each):
        return end_of(each, student.columns(each, x, rows))

    assert len(widened(table, span)) == count + 1
    for at, wide in enumerate(widened(table, span)):
        assert wide.nfe == count + 1
        assert wide.is_consistent
        noise = [level.noise_to_signal for level in wide.levels]
        assert all(a > b for a, b in itertools.pairwise(noise))
        assert [level for k, level in enumerate(wide.levels) if k != at] == list(table.levels)
        if at:
            assert torch.allclose(end(wide), end(table), rtol=1e-9, atol=1e-9)
        else:  # the old first state was x_T scaled; now it knows the mean, to the share of data that x_T has
            assert torch.allclose(end(wide), end(table), rtol=0.2, atol=0.2)
        limited = with_query(table.limited(1), at, span)
        assert limited.is_consistent
        assert limited.plan().history <= 1 + 1  # beside the newest
    wide = grown(table, count + 3, span)
    assert wide.nfe == count + 3
    assert torch.allclose(end(wide), end(table), rtol=1e-9, atol=1e-9)


def climb_of(pipeline, model, nfe, passes, first="free", few=128):
    student = Student(pipeline, model, None, None, {"dtype": torch.float64})
    x = noise_of(few, seed=0)
    exact = model.reference_solution(x * pipeline.scheduler.prior_std)
    taught = Trajectories(x, exact, torch.arange(few))
    limits = Limits(passes, math.inf, ("fit",), None, first, 30.0)
    budget = Budget.start(student, few * nfe, limits)
    told = []
    climb = Climb(student, taught, limits.levels(pipeline.scheduler), budget, lambda stage, now: told.append(now))
    return climb, told


@pytest.mark.parametrize("name", CONFIGS)
def test_starts_from_below(name):
    pipeline = DiffusionPipeline(CONFIGS[name], "ddim")
    model = mixture(pipeline.scheduler, pipeline.config.prediction_type)
    climb, told = climb_of(pipeline, model, 4, passes=1000)
    tables = climb.to(4, None)
    assert {now.table.nfe for now in told} == {1, 2, 3, 4}
    assert all(table.nfe == 4 and table.is_consistent for table in tables)
    x, rows = noise_of(512, seed=99), torch.arange(512)
    exact = model.reference_solution(x * pipeline.scheduler.prior_std)
    ends = [errors_of(end_of(table, climb.student.columns(table, x, rows)), exact) for table in tables]
    plans = [b.plan for b in baselines(pipeline.scheduler, 4) if "kl_optimal" in b.name or "ays" in b.name]
    others = [
        errors_of(pipeline.sample(model, initial_noise=x, plan=plan, dtype=torch.float64), exact).median
        for plan in plans
    ]
    assert ends[0].median < 0.5 * min(others)  # as they are, before any fit on all trajectories
    # from a smaller table only what is missing is added
    told.clear()
    wider = climb.to(5, tables[0])
    assert {now.table.nfe for now in told} == {5}
    assert wider[0].nfe == 5
    # where it would take more than its share, it does not begin
    poor, told = climb_of(pipeline, model, 4, passes=10)
    assert poor.to(4, None) == []
    assert [table.nfe for table in poor.to(6, tables[0])] == [6]
    assert not told


def test_starts_from_below_keep_the_first_query():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    climb, _ = climb_of(pipeline, mixture(pipeline.scheduler), 3, passes=1000, first="noisiest", few=64)
    top = pipeline.scheduler.level(pipeline.scheduler.t_max)
    assert all(table.levels[0] == top and not table.moves_first for table in climb.to(3, None))


@pytest.mark.parametrize(("method", "options"), [("edm", {}), ("restart", {}), ("dpmpp_2m", {"afs": True})])
def test_predictions_do_not_depend_on_the_pipelines_sampler(method, options):
    plain = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    other = DiffusionPipeline(NoiseSchedulerConfig(), method, **options)
    model, x, rows = mixture(plain.scheduler), noise_of(5, seed=2), torch.arange(5)
    for log_noise in (3.0, 0.0, -3.0):
        level = plain.scheduler.level_at(-2 * log_noise)
        ours, theirs = (
            Student(pipeline, model, None, None, {"dtype": torch.float64}).denoise(x, level, rows)
            for pipeline in (other, plain)
        )
        assert torch.equal(ours, theirs)
        assert torch.allclose(ours, model.denoise(x, level.t), atol=1e-9)


def test_an_interrupt_is_gone_on_with_from_the_checkpoint(tmp_path, monkeypatch):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model, file = mixture(pipeline.scheduler), tmp_path / "state.safetensors"
    asked = {"shape": SHAPE, "nfe": (3, 4, 5), "trajectories": 32, "held_out": 32, "teacher_calls": 32, "passes": 80}
    whole = calibrate(model, pipeline, **asked)
    keep, kept = Checkpoint.keep, []

    def impatient(self, nfe, now):
        keep(self, nfe, now)
        kept.append(nfe)
        if kept.count(4) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "keep", impatient)
    cut = calibrate(model, pipeline, checkpoint=file, **asked)
    assert list(cut) == [3, 4]  # the best so far of what was interrupted; what comes after it is left out
    assert cut[3] == whole[3]
    monkeypatch.setattr(Checkpoint, "keep", keep)
    again = calibrate(model, pipeline, checkpoint=file, **asked)
    assert list(again) == [3, 4, 5]
    assert again[3] == whole[3]
    assert again[4].provenance["iterations"] > 5  # the interrupted one was not done
    for nfe, plan in again.items():
        assert plan.provenance["held_out_error"]["rms"] < 1.3 * whole[nfe].provenance["held_out_error"]["rms"]


def test_limits_hold_for_what_is_returned():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler)
    asked = {"shape": SHAPE, "nfe": 4, "trajectories": 32, "held_out": 32, "teacher_calls": 32, "passes": 20}
    small = calibrate(model, pipeline, max_gain=0.5, **asked)
    assert small.provenance["gain"] is None  # no table has so little: a built-in sampler
    short = calibrate(model, pipeline, history=0, **asked)
    assert short.history == 0
    top = LevelRange(pipeline.scheduler, first_fixed=True)
    for found in baselines(pipeline.scheduler, 4):
        if found.table is not None:
            table = replace(found.table, start=pipeline.scheduler.level(pipeline.scheduler.t_max))
            assert FreeNumbers.of(top, table).table.levels[0].t == pipeline.scheduler.t_max


def test_a_single_trajectory():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    plan = calibrate(
        mixture(pipeline.scheduler), pipeline, shape=SHAPE, nfe=2, trajectories=1, teacher_calls=16, passes=20
    )
    assert plan.nfe == 2


def test_conditions_as_lists_and_arrays():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = mixture(pipeline.scheduler, labels=torch.arange(6) % 3)
    asked = {"shape": SHAPE, "nfe": 2, "trajectories": 8, "held_out": 8, "teacher_calls": 8, "passes": 10}
    plans = [
        calibrate(model, pipeline, condition={"class_labels": labels}, **asked)
        for labels in (torch.arange(3), [0, 1, 2], np.arange(3))
    ]
    assert plans[0] == plans[1] == plans[2]
    assert plans[0].provenance["guidance_scale"] == 7.5  # what sample() does with a condition and no scale


def test_fingerprints_tell_wrapped_models_apart():
    one, other = (torch.nn.Linear(3, 3) for _ in range(2))

    class Wrapper:
        def __init__(self, net):
            self.net = net

        def ask(self, x, t):
            return self.net(x)

    def closing_over(net):
        return lambda x, t: net(x)

    for wrap in (Wrapper, functools.partial, closing_over, lambda net: net.forward, lambda net: Wrapper(net).ask):
        assert fingerprint(wrap(one)) == fingerprint(wrap(one))
        assert fingerprint(wrap(one)) != fingerprint(wrap(other)), wrap
    a, b = torch.randn(2, 77), torch.randn(2, 77)
    assert described({"prompt": a}) == described({"prompt": a.clone()})
    assert described({"prompt": a}) != described({"prompt": b})
    assert described({"class_labels": [0, 1]}) == described({"class_labels": np.array([0, 1])})
    scale = guidance.ClassifierFree(lambda moment: 1.0 + moment.sigma)
    assert "0x" not in guidance_named([scale])
    assert guidance_named(None) is None


def test_a_plan_that_scales_its_noise_is_no_plan_for_flow_pipelines():
    """They hand the noise to the network as it is, whatever init_noise_sigma says."""
    pipe = tiny_pipelines.build("flux")
    path = DiffusionPipeline.from_diffusers(pipe).scheduler
    table = Table.of_plan(DiffusionPipeline(path.spaced("log_snr"), "adams").plan(3))
    lower = (path.level(0.9 * path.t_max), *table.levels[1:])
    plan = table.with_levels(lower).plan(start="query")
    assert plan.prior_scale != 1.0
    scheduler = PlanScheduler.from_plan(plan, pipe.scheduler)
    with pytest.raises(ConfigurationError, match="noisiest"):
        scheduler.set_timesteps(3)
