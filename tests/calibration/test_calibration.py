"""calibrate(): plans fitted to a model, judged on noise and labels that the fit has not seen."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import tiny_pipelines
from calibration_problems import CONFIGS, SHAPE, is_not_worse, mixture, noise_of
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
from noise_scheduler_sampling_system.calibration.fit.free_numbers import FreeNumbers
from noise_scheduler_sampling_system.calibration.plot import draw
from noise_scheduler_sampling_system.calibration.provenance import described, fingerprint, guidance_named
from noise_scheduler_sampling_system.calibration.search.built_in import baselines
from noise_scheduler_sampling_system.calibration.student import Student
from noise_scheduler_sampling_system.calibration.trajectories import errors_of
from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler


@pytest.mark.parametrize("name", CONFIGS)
def test_a_plan_beats_every_built_in_sampler_on_other_noise(name):
    pipeline = DiffusionPipeline(CONFIGS[name], "ddim")
    model = mixture(pipeline.scheduler, pipeline.config.prediction_type)
    # 150 passes have the time to rank all of the built-in samplers, 75 the first 300
    passes = 150 if name in ("linear", "flow") else 75
    plan = calibrate(
        model, pipeline, shape=SHAPE, nfe=4, trajectories=256, held_out=128, teacher_calls=64, passes=passes
    )
    assert plan.nfe == 4
    x = noise_of(512, seed=99)
    exact = model.reference_solution(x * pipeline.scheduler.prior_std)
    ours = errors_of(pipeline.sample(model, initial_noise=x, plan=plan, dtype=torch.float64), exact)
    # the best of the built-in ones is known only after the fact
    others = [
        errors_of(pipeline.sample(model, initial_noise=x, plan=b.plan, dtype=torch.float64), exact)
        for b in baselines(pipeline.scheduler, 4, [entry["name"] for entry in plan.provenance["built_in"]])
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
    assert is_not_worse(about)
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
    (found,) = baselines(pipeline.scheduler, 5, (best["name"],))
    assert plan == replace(found.plan, provenance=plan.provenance)


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
    best = min(
        errors_of(pipeline.sample(model, initial_noise=x, plan=b.plan, **used), fine).rms
        for b in baselines(pipeline.scheduler, 5, [entry["name"] for entry in plan.provenance["built_in"]])
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
    with pytest.raises(ConfigurationError, match="that number of model calls"):
        PlanSet({7: plans[3]})


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


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"nfe": 0}, "nfe"), ({"nfe": ()}, "nfe"), ({"nfe": "x"}, "nfe"), ({"shape": (0, 3)}, "shape"),
        ({"shape": 3}, "shape"), ({"trajectories": 0}, "trajectories"), ({"stages": ("adam",)}, "stages"),
        ({"stages": ()}, "stages"), ({"budget_seconds": -1}, "budget_seconds"),
        ({"history": 1, "stages": ("fit", "refine")}, "stages"),
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


def test_refine_leaves_no_gradients_in_the_model():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    network = torch.nn.Linear(4, 4)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x, t):
            return x + 0.1 * self.inner(x)

    asked = {"shape": SHAPE, "nfe": 2, "trajectories": 8, "held_out": 8, "teacher_calls": 8, "passes": 60}
    plan = calibrate(Net(), pipeline, stages=("fit", "refine"), **asked)
    assert plan.nfe == 2
    assert plan.provenance["stages"] == ["fit", "refine"]
    assert network.weight.grad is None


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
        ("--model", "nothing"): "give digits, mnist, module:attribute",
        ("--model", "no.such:thing"): "cannot be imported",
        ("--model", "math:sqrt"): "shape",
        ("--out", "plan.txt"): r".txt",
    }.items():
        bad = CliRunner().invoke(app, ["calibrate", "--out", str(out), *words])
        assert bad.exit_code == 3
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
