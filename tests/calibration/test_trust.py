"""What a calibration states about its uncertainty, and whether a second measurement finds the same."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from calibration_problems import SHAPE, mixture
from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    calibrate,
    models,
)
from noise_scheduler_sampling_system.app.command_line import app
from noise_scheduler_sampling_system.calibration import Measurement, verify_plan
from noise_scheduler_sampling_system.calibration.search.built_in import named
from noise_scheduler_sampling_system.calibration.trust.elsewhere import scales_around
from noise_scheduler_sampling_system.calibration.trust.measurement import standard_errors
from noise_scheduler_sampling_system.calibration.trust.verification import StatedFigure
from noise_scheduler_sampling_system.guidance import CachedGuidance
from noise_scheduler_sampling_system.plans import PlanSet, SamplingPlan

SCALE = 2.0
CLASSES, OTHERS = torch.arange(3), torch.arange(3, 6)
SMALL = {"shape": SHAPE, "nfe": 3, "trajectories": 64, "held_out": 64, "teacher_calls": 32, "passes": 10}
TOLD = {"condition": {"class_labels": CLASSES}, "guidance_scale": SCALE}


@pytest.fixture(scope="module")
def pipeline():
    return DiffusionPipeline(NoiseSchedulerConfig(), "ddim")


@pytest.fixture(scope="module")
def model(pipeline):
    return mixture(pipeline.scheduler, labels=torch.arange(6))


@pytest.fixture(scope="module")
def plan(pipeline, model):
    return calibrate(model, pipeline, other_condition={"class_labels": OTHERS}, **SMALL, **TOLD)


def never(x, t, **condition):
    raise AssertionError("the model was called")


def test_standard_errors_are_the_spread_over_many_sets_of_trajectories():
    draws = torch.distributions.Exponential(1.0)
    torch.manual_seed(0)
    sets = [draws.sample((300,)) for _ in range(400)]
    stated = torch.tensor([standard_errors(each) for each in sets]).mean(0)
    rms = torch.stack([each.square().mean().sqrt() for each in sets]).std()
    median = torch.stack([each.median() for each in sets]).std()
    assert float(stated[0]) == pytest.approx(float(rms), rel=0.1)
    assert float(stated[1]) == pytest.approx(float(median), rel=0.1)
    assert all(math.isnan(error) for error in standard_errors(torch.ones(3)))


def test_a_basin_is_changed_by_ends_that_are_nearer_to_the_end_of_another_trajectory():
    solution = torch.cat([torch.zeros(30, 4), torch.ones(30, 4)]) + 0.01 * torch.randn(60, 4)
    ends = solution.clone()
    ends[:6] += 1.0  # now at the other cluster
    measured = Measurement.of(ends, solution)
    assert measured.moved == pytest.approx(0.1)
    assert measured.rms == pytest.approx(math.sqrt(0.1), rel=1e-5)
    assert Measurement.of(solution, solution).moved == 0.0
    assert Measurement.of(solution, solution).moved_error > 0.0  # no change among 60 is no proof


def test_a_measurement_comes_back_from_plain_data():
    measured = Measurement.of(torch.randn(20, 4), torch.randn(20, 4))
    assert Measurement.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured
    single = Measurement.of(torch.randn(1, 4), torch.randn(1, 4)).to_dict()
    assert single["rms_standard_error"] is None
    assert math.isnan(Measurement.from_dict(single).moved)
    for wrong in (None, {}, [1], {**single, "rms": "1"}, {**single, "trajectories": None}):
        assert Measurement.from_dict(wrong) is None


def test_the_provenance_states_uncertainty_and_what_happens_elsewhere(plan, tmp_path):
    measured = plan.provenance["measured"]
    own = Measurement.from_dict(measured["held_out"])
    assert (own.rms, own.median) == pytest.approx(tuple(plan.provenance["held_out_error"].values()))
    assert 0.0 < own.rms_error < own.rms
    assert own.trajectories == 64
    scales = [entry["guidance_scale"] for entry in measured["guidance"]]
    assert scales == [SCALE, *scales_around(SCALE)] == [2.0, 1.0, 1.5, 3.0, 4.0]
    assert all(entry["rms"] > 0.0 and entry["built_in"]["rms"] > 0.0 for entry in measured["guidance"])
    assert [entry["condition"] for entry in measured["condition"]] == [{"class_labels": OTHERS.tolist()}]
    plan.save(tmp_path / "plan.json")
    assert SamplingPlan.load(tmp_path / "plan.json") == plan


def test_other_shapes_are_measured_where_the_model_takes_them(pipeline):
    class Pointwise(torch.nn.Module):
        def forward(self, x, t):
            return torch.tanh(x) * 0.7

    told = {**SMALL, "shape": (1, 4, 4), "trajectories": 16, "held_out": 16, "stages": ("design",)}
    plan = calibrate(Pointwise(), pipeline, other_shape=(1, 6, 6), **told)
    assert [entry["shape"] for entry in plan.provenance["measured"]["shape"]] == [[1, 6, 6]]
    assert "guidance" not in plan.provenance["measured"]


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"scales": "2"}, "scales"),
        ({"scales": [math.nan]}, "scales"),
        ({"other_shape": (0,)}, "other_shape"),
        ({"scales": [2.0], "condition": None, "guidance_scale": None}, "scales"),
        ({"other_condition": {"class_labels": OTHERS}, "condition": None, "guidance_scale": None}, "other_condition"),
    ],
)
def test_wrong_places_are_refused_before_the_first_call(pipeline, wrong, where):
    with pytest.raises(ConfigurationError, match=where):
        calibrate(never, pipeline, **{**SMALL, **TOLD, **wrong})


def test_a_small_time_budget_leaves_out_what_was_not_asked_for(pipeline, model):
    hasty = {**SMALL, **TOLD, "budget_seconds": 1e-3}
    assert set(calibrate(model, pipeline, **hasty).provenance["measured"]) == {"held_out"}
    asked = calibrate(model, pipeline, scales=[3.0], **hasty).provenance["measured"]
    assert [entry["guidance_scale"] for entry in asked["guidance"]] == [2.0, 3.0]


def test_a_checkpoint_keeps_what_was_measured(pipeline, model, tmp_path):
    told = {**SMALL, **TOLD, "checkpoint": tmp_path / "state.safetensors"}
    first = calibrate(model, pipeline, **told)
    assert calibrate(model, pipeline, **told) == first

    other = calibrate(model, pipeline, other_condition={"class_labels": OTHERS}, **told)
    assert set(other.provenance["measured"]) == {"held_out", "guidance", "condition"}


def test_places_that_are_asked_for_later_are_measured_beside_the_earlier_ones(pipeline, model, tmp_path):
    told = {**SMALL, **TOLD, "checkpoint": tmp_path / "state.safetensors"}

    def scales_of(*budgets, **places):
        made = calibrate(model, pipeline, **{**told, "nfe": budgets}, **places)
        return {n: [entry["guidance_scale"] for entry in p.provenance["measured"]["guidance"]] for n, p in made.items()}

    assert scales_of(3, scales=(3.0,)) == {3: [2.0, 3.0]}
    assert scales_of(3, 2, scales=(1, 8)) == {3: [2.0, 3.0, 1.0, 8.0], 2: [2.0, 1.0, 8.0]}
    assert scales_of(3, 2, scales=(3, 1)) == {3: [2.0, 3.0, 1.0, 8.0], 2: [2.0, 1.0, 8.0, 3.0]}
    # and so for conditions
    for labels in (OTHERS, OTHERS.flip(0), OTHERS):
        last = calibrate(model, pipeline, scales=(), other_condition={"class_labels": labels}, **told)
    stated = [entry["condition"]["class_labels"] for entry in last.provenance["measured"]["condition"]]
    assert stated == [OTHERS.tolist(), OTHERS.flip(0).tolist()]


def test_a_calibrated_plan_into_which_guidance_is_folded_keeps_no_figures(pipeline, model, plan):
    for calls in ((0,), (0, 1, 2)):
        folded = CachedGuidance(SCALE, calls=calls).folded_into(plan)
        assert dict(folded.provenance) == {"before_guidance": dict(plan.provenance)}
        assert SamplingPlan.from_dict(folded.to_dict()) == folded
        with pytest.raises(ConfigurationError, match="holds guidance since its calibration"):
            verify_plan(folded, never, pipeline)
    traced = replace(pipeline.plan(3), provenance={"scheduler": "DDIMScheduler"})
    assert CachedGuidance(SCALE, calls=(0,)).folded_into(traced).provenance == traced.provenance


def test_another_scale_warns_outside_the_measured_range_and_where_the_error_grows(pipeline, model, plan, caplog):
    def said(scale, plan):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            request = {"condition": {"class_labels": CLASSES}, "guidance_scale": scale, "seed": 1}
            pipeline.sample(model, (3, *SHAPE), plan=plan, **request)
        return caplog.text

    entries = [{**entry, "rms": 0.1} for entry in plan.provenance["measured"]["guidance"]]
    flat = replace(plan, provenance={**plan.provenance, "measured": {"guidance": entries}})
    assert not said(2.5, flat)
    assert "measured from 1 to 4, this run has 7" in said(7.0, flat)
    entries[-1]["rms"] = 0.4  # at 4
    steep = replace(plan, provenance={**plan.provenance, "measured": {"guidance": entries}})
    assert not said(3.2, steep)  # 1.3 times
    assert "its error is about 2.0 times as large" in said(3.5, steep)
    for broken in (None, [], {"guidance": 3}, {"guidance": [{"rms": "?"}]}):
        old = replace(plan, provenance={**plan.provenance, "measured": broken})
        assert "calibrated at guidance_scale=2, this run has 3" in said(3.0, old)


def test_the_same_model_has_the_stated_figures(pipeline, model, plan):
    found = verify_plan(plan, model, pipeline)
    assert found.holds
    assert not found.changes
    assert found.seed == plan.provenance["seed"] + 1
    assert found.measured.rms != plan.provenance["held_out_error"]["rms"]  # it is other noise
    assert found.rival is not None
    again = verify_plan(plan, model, pipeline, seed=plan.provenance["seed"])
    assert again.measured.rms == pytest.approx(plan.provenance["held_out_error"]["rms"], rel=1e-4)
    assert all(figure.holds for figure in again.figures)


def test_figures_that_are_not_true_do_not_hold(pipeline, model, plan):
    own = plan.provenance["measured"]["held_out"]
    flattered = {**own, "rms": own["rms"] / 5, "rms_standard_error": own["rms_standard_error"] / 5}
    false = replace(plan, provenance={**plan.provenance, "measured": {"held_out": flattered}})
    found = verify_plan(false, model, pipeline)
    assert not found.holds
    assert "the error is larger than stated" in found.verdict
    modest = {**own, "rms": own["rms"] * 9, "rms_standard_error": 1e-9}
    small = replace(plan, provenance={**plan.provenance, "measured": {"held_out": modest}})
    assert "the error is smaller than stated" in verify_plan(small, model, pipeline).verdict


def test_what_is_another_than_in_the_calibration_is_said(pipeline, model, plan):
    few = {"trajectories": 16}

    def changed(**told):
        return [change.name for change in verify_plan(plan, model, pipeline, **{**few, **told}).changes]

    assert changed() == []
    other = models.GaussianMixtureModel(pipeline.scheduler, torch.randn(6, 4), 0.15, labels=torch.arange(6))
    assert [c.name for c in verify_plan(plan, other, pipeline, **few).changes] == ["model"]
    assert changed(condition={"class_labels": torch.arange(2)}) == ["condition"]
    cosine = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cosine"))
    with pytest.raises(ConfigurationError, match="another noise schedule"):
        verify_plan(plan, never, cosine)
    at_six = verify_plan(plan, model, pipeline, guidance_scale=6.0, **few)
    assert "this is another guidance scale than in the calibration" in at_six.verdict
    at_four = verify_plan(plan, model, pipeline, guidance_scale=4.0, **few)  # which the provenance states
    assert at_four.stated_for == "guidance scale 4.0"
    stated = next(e for e in plan.provenance["measured"]["guidance"] if e["guidance_scale"] == 4.0)
    assert at_four.figures[0].stated == stated["rms"]
    others = verify_plan(plan, model, pipeline, condition={"class_labels": OTHERS}, **few)
    assert others.figures[0].stated == plan.provenance["measured"]["condition"][0]["rms"]


#: The fields of a config that say nothing of a run of a plan: it holds its levels, and no noise. Levels of another
#: schedule are refused.
OF_THE_LEVELS = {
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "schedule_options", "trained_betas",
    "rescale_betas_zero_snr", "timestep_spacing", "spacing_options", "steps_offset", "use_clipped_model_output",
    "variance_type",
}  # fmt: skip
LIMITED = {"thresholding": True, "sample_max_value": 5.0}
OTHER_CONFIGS = {
    "prediction_type": ({}, {"prediction_type": "v_prediction"}),
    "clip_sample": ({}, {"clip_sample": True}),
    "clip_sample_range": ({"clip_sample": True}, {"clip_sample": True, "clip_sample_range": 2.0}),
    "thresholding": ({"sample_max_value": 5.0}, LIMITED),
    **{name: (LIMITED, {**LIMITED, name: 0.9}) for name in ("dynamic_thresholding_ratio", "sample_padding_norm")},
    "sample_max_value": (LIMITED, {**LIMITED, "sample_max_value": 4.0}),
    "sample_padding_threshold": (LIMITED, {**LIMITED, "sample_padding_threshold": 0.1}),
}


@pytest.mark.parametrize("field", sorted(set(NoiseSchedulerConfig.model_fields) - OF_THE_LEVELS))
def test_another_config_is_said_field_by_field(model, plan, field):
    def network(x, t, class_labels):
        return 0.1 * x

    network.null_condition = model.null_condition
    there, here = (NoiseSchedulerConfig(**settings) for settings in OTHER_CONFIGS[field])
    made = replace(plan, provenance={**plan.provenance, "config": there.to_dict(), "guidance": None})
    words = "prediction type" if field == "prediction_type" else field
    found = verify_plan(made, network, here, trajectories=4, teacher_calls=8)
    assert [change.name for change in found.changes] == ["model", words]
    assert not found.stated_for
    assert found.verdict.startswith(f"this is another model and another {words} than in the calibration")


def test_settings_without_an_effect_on_a_plan_are_no_change(pipeline, model, plan):
    spaced = NoiseSchedulerConfig(timestep_spacing="trailing", clip_sample_range=3.0)
    assert not verify_plan(plan, model, spaced, trajectories=4).changes
    old = replace(plan, provenance={**plan.provenance, "config": {"prediction_type": "epsilon"}})
    assert not verify_plan(old, model, pipeline, trajectories=4).changes


def test_the_dtype_is_that_of_the_calibration_and_another_one_is_said(pipeline, model, plan):
    few = {"trajectories": 4}
    wide = replace(plan, provenance={**plan.provenance, "dtype": "torch.float64"})
    found = verify_plan(wide, model, pipeline, **few)
    assert not found.changes
    assert found.measured.rms != verify_plan(plan, model, pipeline, **few).measured.rms
    narrow = verify_plan(wide, model, pipeline, dtype=torch.float32, **few)
    assert [(c.name, c.stated, c.here) for c in narrow.changes] == [("dtype", "torch.float64", "torch.float32")]
    assert not verify_plan(plan, model, pipeline, dtype=torch.float32, **few).changes  # as without a dtype
    with pytest.raises(ConfigurationError, match="dtype"):
        verify_plan(plan, never, pipeline, dtype=torch.int64)


def test_figures_of_another_scale_are_not_those_of_a_further_change(pipeline, model, plan):
    clipped = verify_plan(plan, model, NoiseSchedulerConfig(clip_sample=True), guidance_scale=4.0, trajectories=4)
    assert [change.name for change in clipped.changes] == ["guidance scale", "clip_sample"]
    assert not clipped.stated_for


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_trajectories_are_no_failure(pipeline, model, plan, count):
    found = verify_plan(plan, model, pipeline, trajectories=count)
    assert found.holds
    assert [figure.holds for figure in found.figures[:2]] == [None, None]
    assert found.verdict == "too few trajectories tell of the error and the median"
    assert str(found).count(": cannot tell") == 2
    assert [figure["holds"] for figure in found.to_dict()["figures"][:2]] == [None, None]
    other = verify_plan(plan, model, pipeline, trajectories=count, guidance_scale=6.0)
    assert other.verdict.startswith("this is another guidance scale than in the calibration; too few trajectories")


def test_a_calibration_with_too_few_trajectories_is_no_failure(pipeline, model):
    told = {**SMALL, **TOLD, "held_out": 3, "trajectories": 8, "passes": 2, "scales": ()}
    found = verify_plan(calibrate(model, pipeline, **told), model, pipeline, trajectories=16)
    assert [figure.holds for figure in found.figures[:2]] == [None, None]


def test_figures_without_a_spread_are_compared_exactly():
    assert StatedFigure("rms", 0.0, 0.0, 0.0, 0.0).holds
    assert StatedFigure("rms", 1.0, 0.0, 2.0, 0.0).holds is False


def test_plans_of_earlier_versions_can_be_verified(pipeline, model, plan):
    facts = {key: value for key, value in plan.provenance.items() if key != "measured"}
    found = verify_plan(replace(plan, provenance=facts), model, pipeline)
    assert [figure.name for figure in found.figures] == ["rms", "median"]
    assert found.holds


def test_a_plan_without_a_calibration_is_refused_with_advice(pipeline, model, plan):
    for other in (pipeline.plan(4), replace(plan, provenance={**plan.provenance, "seed": None})):
        with pytest.raises(ConfigurationError, match="calibrate"):
            verify_plan(other, model, pipeline)
    with pytest.raises(ConfigurationError, match="plan"):
        verify_plan("plan.json", model, pipeline)
    hashed = replace(plan, provenance={**plan.provenance, "condition": {"prompt_embeds": "torch.float32 (2,) ab"}})
    with pytest.raises(ConfigurationError, match=r"condition\.prompt_embeds"):
        verify_plan(hashed, model, pipeline)
    guided = replace(plan, provenance={**plan.provenance, "guidance": "[ClassifierFree(scale=2.0)]"})
    with pytest.raises(ConfigurationError, match="guidance"):
        verify_plan(guided, model, pipeline)


def test_a_plan_that_holds_its_guidance_is_verified_at_its_own_scale(pipeline, model):
    told = {**{key: value for key, value in SMALL.items() if key != "nfe"}, "trajectories": 16, "held_out": 16}
    plan = calibrate(model, pipeline, evaluations=6, **told, **TOLD)
    assert plan.scale == SCALE
    found = verify_plan(plan, model, pipeline)
    assert not found.changes
    assert found.rival is not None
    stated = [each["name"] for each in plan.provenance["built_in"]]
    assert any("both branches in" in name for name in stated)
    for name in stated:  # also those that keep a branch
        rival = named(pipeline.scheduler, name, plan.evaluations // 2, plan.scale)
        assert rival is not None
        assert (rival.evaluations if rival.scale else 2 * rival.nfe) <= 6
    with pytest.raises(ConfigurationError, match="holds guidance of scale 2"):
        verify_plan(plan, never, pipeline, guidance_scale=3.0)


def test_the_command_measures_again_and_its_exit_code_says_whether_the_figures_hold(tmp_path):
    def run(command):
        return CliRunner().invoke(app, command.split())

    small = "--nfe 3 --trajectories 32 --teacher-calls 16 --passes 3 --labels 0..4 --guidance-scale 2"
    made = run(f"calibrate {small} --stages design --scales 3 --out {tmp_path}/plans.json")
    assert made.exit_code == 0, made.output
    assert "guidance 3" in made.output
    good = run(f"plan verify {tmp_path}/plans.json --json")
    assert good.exit_code == 0, good.output
    stated = json.loads(good.stdout)
    assert stated["holds"]
    assert stated["plans"][0]["changes"] == []
    assert {figure["name"] for figure in stated["plans"][0]["figures"]} == {"rms", "median", "basin_changes"}
    table = run(f"plan verify {tmp_path}/plans.json --nfe 3 --guidance-scale 4 --trajectories 8").output
    assert "another guidance scale: 2.0 in the calibration, 4.0 here" in table

    few = run(f"plan verify {tmp_path}/plans.json --trajectories 3")
    assert few.exit_code == 0, few.output
    assert "cannot tell" in few.output
    assert "nan" not in few.output

    plans = PlanSet.load(tmp_path / "plans.json")
    facts = {**plans[3].provenance, "measured": {}, "held_out_error": {"rms": 1e-6, "median": 1e-6}}
    PlanSet({3: replace(plans[3], provenance=facts)}).save(tmp_path / "false.json")
    assert run(f"plan verify {tmp_path}/false.json --trajectories 16").exit_code == 5
    assert run(f"plan export ddim --steps 4 --out {tmp_path}/ddim.json").exit_code == 0
    refused = run(f"plan verify {tmp_path}/ddim.json")
    assert refused.exit_code == 3
    assert "noise-sampling calibrate" in refused.output
    assert run(f"plan verify {tmp_path}/plans.json --prompt cat").exit_code == 3
    assert run(f"plan verify {tmp_path}/missing.json").exit_code == 4
