"""Plans that hold guidance and evaluate the unconditional branch in some rows: tables, starts, fit and use."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from calibration_problems import SHAPE, mixture, noise_of
from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    FileError,
    NoiseSchedulerConfig,
    PlanSet,
    SamplingPlan,
    calibrate,
)
from noise_scheduler_sampling_system.app.command_line import app
from noise_scheduler_sampling_system.calibration import LevelRange, Table
from noise_scheduler_sampling_system.calibration.branches import folded
from noise_scheduler_sampling_system.calibration.budget import Limits
from noise_scheduler_sampling_system.calibration.checkpoint import Checkpoint
from noise_scheduler_sampling_system.calibration.fit.fit import Fit
from noise_scheduler_sampling_system.calibration.fit.free_numbers import FreeNumbers
from noise_scheduler_sampling_system.calibration.fit.normal_equations import NormalEquations, derivatives
from noise_scheduler_sampling_system.calibration.goal import Goal
from noise_scheduler_sampling_system.calibration.search.built_in import baselines, cached
from noise_scheduler_sampling_system.calibration.search.starts import with_query
from noise_scheduler_sampling_system.calibration.student import Student, end_of
from noise_scheduler_sampling_system.calibration.trajectories import Errors, Trajectories, teach
from noise_scheduler_sampling_system.guidance import CachedGuidance, ClassifierFree

SCALE = 3.0
LABELS = [0, 1, 2]
CONDITION = {"class_labels": torch.tensor(LABELS).repeat(100)}


@pytest.fixture(scope="module")
def pipeline():
    return DiffusionPipeline(NoiseSchedulerConfig(), "unipc")


@pytest.fixture(scope="module")
def model(pipeline):
    return mixture(pipeline.scheduler, labels=torch.tensor([0, 0, 1, 1, 2, 2]))


@pytest.fixture(scope="module")
def student(pipeline, model):
    return Student(pipeline, model, CONDITION, None, {"guidance_scale": SCALE, "dtype": torch.float64}, branches=2)


def test_a_folded_table_runs_like_the_guided_plan(pipeline, student):
    plan, x, rows = pipeline.plan(4), noise_of(6, seed=1), torch.arange(6)
    table = folded(Table.of_plan(plan), SCALE)
    assert (table.both, table.evaluations, table.made) == ((0, 1, 2, 3), 8, (1, 3, 5, 7, 9))
    assert table.gain == pytest.approx(Table.of_plan(plan).gain)
    guided = student.run(plan, x, rows)
    before = student.calls.samples
    assert torch.allclose(end_of(table, student.columns(table, x, rows)), guided, atol=1e-10)
    assert student.calls.samples - before == 8 * 6
    made = table.plan(start="query")
    assert (made.scale, made.evaluations, made.nfe) == (SCALE, 8, 4)
    assert torch.allclose(student.run(made, x, rows), guided, atol=1e-10)
    assert folded(table, SCALE) is table


def test_a_plan_with_kept_differences_is_a_table(pipeline, student):
    plan, x, rows = (
        CachedGuidance(SCALE, calls=(0, 2)).folded_into(pipeline.plan(5)),
        noise_of(6, seed=2),
        torch.arange(6),
    )
    table = Table.of_plan(plan)
    assert (table.both, table.evaluations, table.is_consistent) == ((0, 2), 7, True)
    wanted = student.run(plan, x, rows)
    assert torch.allclose(student.run(table.plan(), x, rows), wanted, atol=1e-10)
    assert torch.allclose(end_of(table, student.columns(table, x, rows)), wanted, atol=1e-10)
    for other in (with_query(table, 2, LevelRange(pipeline.scheduler)), table.limited(9)):
        assert torch.allclose(end_of(other, student.columns(other, x, rows)), wanted, atol=1e-10)
        assert np.allclose(other.with_weights(other.weights).rows, other.rows)


def test_derivatives_with_differences(pipeline, student):
    span, x = LevelRange(pipeline.scheduler), noise_of(8, seed=3)
    plan = CachedGuidance(SCALE, calls=(0, 1)).folded_into(pipeline.plan(3))
    inside = [span.level(math.log(noise)) for noise in (9.0, 1.5, 0.4)]
    numbers = FreeNumbers.of(span, Table.of_plan(plan).with_levels(inside))
    part = Trajectories(x, torch.zeros_like(x), torch.arange(8))

    def ended(table):
        return end_of(table, student.columns(table, part.noise, part.rows))

    columns = student.columns(numbers.table, x, part.rows)
    found = derivatives(student, numbers, part, columns, ended(numbers.table), 1e-3)
    assert len(found) == len(numbers.table.weights) + 3
    for k, (stage, ours) in enumerate(zip(numbers.stages, found, strict=True)):
        (up, change), (down, back) = numbers.nudged(stage, 3e-3), numbers.nudged(stage, -3e-3)
        central = (ended(up) - ended(down)) / (change - back)
        assert torch.allclose(ours, central, rtol=2e-2, atol=1e-2 * float(central.abs().max())), k


ASKED = {"shape": SHAPE, "condition": {"class_labels": LABELS}, "guidance_scale": SCALE, "trajectories": 64,
         "held_out": 64, "teacher_calls": 32}  # fmt: skip


def test_a_budget_of_evaluations(pipeline, model, tmp_path):
    plans = calibrate(model, pipeline, evaluations=(6, 8), passes=60, checkpoint=tmp_path / "c.safetensors", **ASKED)
    assert isinstance(plans, PlanSet)
    assert (list(plans), plans.counts) == ([6, 8], "evaluations")
    x = noise_of(6, seed=9)
    for budget, plan in plans.items():
        facts = plan.provenance
        assert plan.evaluations <= budget
        assert facts["counts"] == "evaluations"
        assert facts["held_out_error"]["rms"] < 0.7 * facts["built_in"][0]["held_out_error"]["rms"]
        request = {"initial_noise": x, "plan": plan, "condition": {"class_labels": LABELS * 2}}
        result = pipeline.sample(model, return_result=True, guidance_scale=SCALE, **request)
        assert result.evaluations == plan.evaluations
        with pytest.raises(ConfigurationError, match="holds guidance of scale 3"):
            pipeline.sample(model, guidance_scale=2.0, **request)
    plans.save(tmp_path / "plans.json")
    assert PlanSet.load(tmp_path / "plans.json") == plans
    assert plans.pick(plans[8].nfe) == plans[8]
    again = calibrate(model, pipeline, evaluations=(6, 8), passes=60, checkpoint=tmp_path / "c.safetensors", **ASKED)
    assert again == plans


def test_a_sampler_that_nothing_beats_states_its_evaluations(pipeline, model):
    plan = calibrate(model, pipeline, evaluations=5, stages="design", max_gain=1e-6, passes=1, **ASKED)
    assert isinstance(plan, SamplingPlan)
    assert not plan.provenance["calibrated"]
    assert (plan.scale, plan.evaluations <= 5) == (SCALE, True)
    names = [entry["name"] for entry in plan.provenance["built_in"]]
    assert any("both branches in" in name for name in names)


def test_goals():
    assert Goal(7).levels == (7,)
    assert (Goal(7).calls, str(Goal(7))) == (7, "7 calls")
    assert (Goal(8, 2.0).calls, str(Goal(8, 2.0))) == (4, "8 evaluations")
    for budget in range(2, 30):
        levels = Goal(budget, 2.0).levels
        assert levels[0] == budget // 2
        assert all(budget / 2 <= count < budget for count in levels[1:])
        assert len(levels) <= 9


def test_refused(pipeline, model):
    clipped = DiffusionPipeline(NoiseSchedulerConfig(clip_sample=True), "ddim")
    for settings, where in (
        ({"nfe": 4}, "nfe and evaluations"), ({"evaluations": None}, "nfe and evaluations"),
        ({"evaluations": 1}, "evaluations"), ({"evaluations": ()}, "evaluations"),
        ({"evaluations": 4.5}, "evaluations"), ({"scheduler": clipped}, "clip_sample"),
        ({"condition": None, "guidance_scale": None}, "evaluations"), ({"guidance_scale": 1.0}, "guidance_scale"),
        ({"guidance": [ClassifierFree(2.0), ClassifierFree(2.0)], "guidance_scale": None}, "guidance"),
        ({"guidance": CachedGuidance(2.0), "guidance_scale": None}, "guidance"),
        ({"stages": "refine"}, "stages"), ({"scales": (1.0, 2.0)}, "scales"), ({"evaluations": 80}, "teacher_calls"),
    ):  # fmt: skip
        asked = {"evaluations": 8, "scheduler": pipeline, **ASKED, **settings}
        with pytest.raises(ConfigurationError) as caught:
            calibrate(model, **asked)
        assert caught.value.where == where, settings
    plan = CachedGuidance(2.0, calls=(0,)).folded_into(pipeline.plan(3))
    for plans, counts in (({4: pipeline.plan(4)}, "evaluations"), ({3: plan}, "evaluations"), ({4: plan}, "calls")):
        with pytest.raises(ConfigurationError):
            PlanSet(plans, counts)
    assert PlanSet({5: plan}, "evaluations").pick(3) is plan
    for both, scale in (((0, 0), 2.0), ((3,), 2.0), ((0,), None)):
        with pytest.raises(ConfigurationError, match="both"):
            Table(pipeline.scheduler.level(999.0), pipeline.grid(3).levels[:3], np.eye(4), scale=scale, both=both)


def test_command_and_checkpoint_of_a_table(pipeline, tmp_path):
    out = tmp_path / "plans.json"
    words = ["calibrate", "--evaluations", "5", "--labels", "0,1,2", "--guidance-scale", "2", "--trajectories", "16"]
    words += ["--held-out", "16", "--teacher-calls", "16", "--passes", "12", "--json", "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(result.stdout)["plans"]
    plan = PlanSet.load(out)[5]
    assert (entry["nfe"], entry["evaluations"], entry["hash"]) == (plan.nfe, plan.evaluations, plan.content_hash)
    refused = CliRunner().invoke(app, [*words, "--nfe", "3"])
    assert refused.exit_code == 3
    assert "give one of them" in refused.output

    table = Table.of_plan(CachedGuidance(2.0, calls=(0, 2)).folded_into(pipeline.plan(3)))
    fit = Fit(table, 0.5, Errors(0.4, 0.3), 16)
    state = Checkpoint.open(tmp_path / "state.safetensors", {"seed": 1})
    state.teach(torch.zeros(2, 4), 0.1)
    state.keep(5, fit)
    again = Checkpoint.open(tmp_path / "state.safetensors", {"seed": 1}).fits[5].table
    assert np.array_equal(again.rows, table.rows)
    assert (again.both, again.scale) == (table.both, table.scale)


def test_small_draws_count_together_with_those_before():
    """With few trajectories of images a draw, the equations hold the draws of earlier iterations; with many, none."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "adams")
    student = Student(pipeline, mixture(pipeline.scheduler), None, None, {"dtype": torch.float64})
    taught, _ = teach(student, noise_of(128, seed=5), 16)
    numbers = FreeNumbers.of(LevelRange(pipeline.scheduler), Table.of_plan(pipeline.plan(2)))
    ends, ones = taught.ends(student, numbers.table), torch.ones(128, dtype=torch.float64)

    def equations(*draws):
        found = NormalEquations(student, taught, 1e-3)
        for chosen in draws:
            square, slope = found.at(numbers, chosen, ones[chosen] / len(chosen), ends, ones.__getitem__)
        return np.append(square, slope)

    first, second = torch.arange(0, 20), torch.arange(20, 40)
    mixed = (equations(second) + 0.8 * equations(first)) / 1.8
    assert np.allclose(equations(first, second), mixed)
    assert np.allclose(equations(torch.arange(96), torch.arange(32, 128)), equations(torch.arange(32, 128)))


def small(pipeline, model, **told):
    """A calibration of few trajectories."""
    asked = {"shape": SHAPE, "condition": {"class_labels": torch.tensor(LABELS)}, "guidance_scale": SCALE}
    asked |= {"trajectories": 16, "held_out": 16, "teacher_calls": 16, "passes": 8}
    return calibrate(model, pipeline, **(asked | told))


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"evaluations": 4}, {"nfe": 4, "scales": ()}, "counts"),
        ({"nfe": 4, "scales": ()}, {"evaluations": 4}, "counts"),
        ({"nfe": 2, "scales": (), "round_timesteps": True}, {"nfe": 2, "scales": ()}, "round_timesteps"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_other_settings_is_refused_in_both_directions(pipeline, model, tmp_path, first, second, told):
    file = tmp_path / "state.safetensors"
    small(pipeline, model, checkpoint=file, **first)
    with pytest.raises(FileError, match=told):
        small(pipeline, model, checkpoint=file, **second)


def test_guidance_that_contradicts_the_scale_or_guides_nothing_is_refused(pipeline, model):
    def never(x, t, **condition):
        raise AssertionError("asked")

    for wrong, where in (
        ({"guidance": ClassifierFree(3.0), "guidance_scale": 2.0}, "guidance_scale"),
        ({"guidance": [], "guidance_scale": None}, "guidance"),
    ):
        for budget in ({"evaluations": 4}, {"nfe": 2}):
            if where == "guidance" and "nfe" in budget:  # no guidance: the condition alone
                continue
            with pytest.raises(ConfigurationError) as caught:
                small(pipeline, never, **budget, **wrong)
            assert caught.value.where == where


@pytest.mark.parametrize(
    ("name", "limit"), [("adams, scm", {"history": 0}), ("dpmpp_2m afs, trailing", {"first": "noisiest"})]
)
def test_built_in_samplers_that_keep_differences_keep_the_limits(pipeline, student, name, limit):
    known = baselines(pipeline.scheduler, 3, (name,))
    limits = Limits(8.0, math.inf, (), limit.get("history"), limit.get("first", "free"), 100.0)
    free = Limits(8.0, math.inf, (), None, "free", 100.0)
    goal = Goal(8, SCALE)
    assert any(not limits.allow(each.plan, pipeline.scheduler) for each in cached(known, student, goal, free))
    assert all(limits.allow(each.plan, pipeline.scheduler) for each in cached(known, student, goal, limits))


def test_the_command_names_the_other_labels(tmp_path):
    words = ["calibrate", "--nfe", "2", "--labels", "0,1,2", "--other-labels", "3,4", "--guidance-scale", "2"]
    words += ["--trajectories", "16", "--held-out", "16", "--teacher-calls", "16", "--passes", "8"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "plans.json")])
    assert result.exit_code == 0, result.output
    assert "labels 3,4" in result.output
