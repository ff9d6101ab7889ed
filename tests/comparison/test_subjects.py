"""What compare() takes: systems, tables of settings, named models, pipelines of diffusers; and how it may end early."""

from __future__ import annotations

import math

import pytest
import torch

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    PlanSet,
    guidance,
)
from noise_scheduler_sampling_system.comparison import Comparison, compare
from noise_scheduler_sampling_system.integrations.named_models import named_model
from tiny_pipelines import build

SHAPE = (8, 1, 8, 8)
LABELS = {"class_labels": torch.arange(8)}


def test_a_system_compares_its_pipelines_under_their_names():
    system = AdvancedDiffusionSystem()
    for name, method in (("slow", "ddim"), ("quick", "unipc"), ("other", "heun")):
        system.create_pipeline(name, NoiseSchedulerConfig(), method)
    found = system.compare(nfe=5, shape=(100, 1, 8, 8))
    assert isinstance(found, Comparison)
    assert [each.name for each in found.entries] == ["slow", "quick", "other"]
    assert found.cell("quick", 5).rms < found.cell("slow", 5).rms
    assert [each.name for each in system.compare(names=["other"], nfe=5, shape=SHAPE).entries] == ["other"]
    with pytest.raises(ConfigurationError, match="no pipeline has the name"):
        system.compare(names="none", nfe=5)
    with pytest.raises(ConfigurationError, match="no pipelines"):
        AdvancedDiffusionSystem().compare()


def test_a_table_of_settings_is_an_entry_as_in_a_file():
    table = {"method": "ddim", "timestep_spacing": "karras", "sampler_options": {"eta": 0.5}}
    found = compare({"mine": table, "euler": {}}, nfe=4, shape=SHAPE, reference=None)
    made = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="karras"), "ddim", eta=0.5)
    assert found.cell("mine", 4).plan.content_hash == made.plan(4).content_hash
    assert found.cell("euler", 4).plan.sampler == "euler"
    with pytest.raises(ConfigurationError) as raised:
        compare({"mine": {"beta_strt": 0.1}})
    assert raised.value.where == "mine.beta_strt"


def test_options_tell_entries_apart():
    pipelines = [DiffusionPipeline(None, "ddim", eta=eta) for eta in (0.0, 0.5, 1.0)]
    names = [each.name for each in compare(pipelines, nfe=3, shape=SHAPE, reference=None).entries]
    assert names == ["ddim, leading", "ddim, leading (eta=0.5)", "ddim, leading (eta=1.0)"]


@pytest.mark.parametrize("count", ["calls", "evaluations"])
@pytest.mark.parametrize(
    "acting", [guidance.ClassifierFree(2.0), [guidance.ClassifierFree(2.0), guidance.Interval(0.3, 3.0)]]
)
def test_budgets_count_calls_or_evaluations(count, acting):
    found = compare(
        ["ddim", "heun", "dpmpp_2m"], nfe=(8, 13), count=count, shape=SHAPE, condition=LABELS, guidance=acting,
        reference=None,
    )  # fmt: skip
    for (name, budget), cell in found.cells.items():
        made = {"calls": cell.nfe, "evaluations": cell.evaluations}
        assert made[count] <= budget
        assert sum(cell.evaluations_by_row) == cell.evaluations
        pipeline = next(each.pipeline for each in found.entries if each.name == name)
        further = pipeline.plan(cell.steps + 1)  # one step more would not fit
        cost = further.nfe if count == "calls" else sum(guidance.evaluations(acting, further))
        assert cost > budget


def masked(evaluations, steps=5, scale=3.0):
    cached = guidance.CachedGuidance(scale, evaluations=evaluations)
    return cached.folded_into(DiffusionPipeline(None, "unipc").plan(steps))


@pytest.mark.parametrize("told", [{}, {"guidance_scale": 3.0}, {"guidance": guidance.ClassifierFree(3.0)}])
@pytest.mark.parametrize("count", ["calls", "evaluations"])
def test_plans_that_hold_their_guidance_are_counted_and_measured_by_it(told, count):
    plans = PlanSet({8: masked(8), 9: masked(9)}, "evaluations")
    found = compare(
        {"free": "unipc", "masked": plans}, nfe=(8, 9), count=count, shape=SHAPE, condition=LABELS, reference_calls=32,
        **told,
    )  # fmt: skip
    cells = [found.cell("masked", budget) for budget in (8, 9)]
    assert [cell.problem for cell in cells] == ["", ""]
    assert [cell.evaluations for cell in cells] == ([9, 9] if count == "calls" else [8, 9])
    for cell in cells:
        assert cell.nfe == 5
        assert cell.evaluations_by_row == cell.plan.evaluations_by_row == tuple(map(len, cell.branches_by_row))
        assert sum(cell.evaluations_by_row) == cell.evaluations
    # each is measured against the solution of the guidance that acts in it
    assert (found.references["masked"] is found.references["free"]) == bool(told)
    guided = compare(["unipc"], nfe=8, shape=SHAPE, condition=LABELS, guidance_scale=3.0, reference_calls=32)
    assert torch.equal(found.references["masked"].samples[0], guided.references["unipc, beta57"].samples[0])
    assert any("count=" in remark for remark in found.remarks) == (count == "calls")
    assert math.isnan(found.order_of("masked")) == (count == "calls")


def test_guidance_of_plans_that_do_not_fit_is_said():
    plans = {"two": masked(8, scale=2.0), "three": masked(8)}
    found = compare(plans, nfe=8, shape=SHAPE, condition=LABELS, guidance_scale=2.0, reference=None)
    assert "holds guidance of scale 3" in found.cell("three", 8).problem
    assert not found.cell("two", 8).problem
    with pytest.raises(ConfigurationError, match="several guidance scales"):
        compare(PlanSet({8: plans["two"], 9: masked(9)}, "evaluations"), nfe=8)


def test_kept_differences_are_measured_against_a_run_that_keeps_none():
    told = {"nfe": 6, "shape": SHAPE, "condition": LABELS, "reference_calls": 32}
    kept = compare({"a": "unipc"}, guidance=guidance.CachedGuidance(3.0, calls=(0,)), **told)
    full = compare({"a": "unipc"}, guidance_scale=3.0, **told)
    assert torch.equal(kept.references["a"].samples[0], full.references["a"].samples[0])
    assert kept.cell("a", 6).evaluations_by_row == (2, 1, 1, 1, 1, 1)


def test_a_budget_too_small_for_one_step_says_so():
    found = compare(
        ["ddim", "runge_kutta"], nfe=1, count="evaluations", shape=SHAPE, condition=LABELS, guidance_scale=2.0,
        config=NoiseSchedulerConfig(timestep_spacing="trailing"), reference=None,
    )  # fmt: skip
    for cell in found.cells.values():
        assert "its shortest plan makes" in cell.problem
    leading = compare(["ddim"], nfe=1, shape=SHAPE, reference=None).cell("ddim, leading", 1)
    assert "makes 2 model calls" in leading.problem
    assert "in one step: timestep_spacing: the first timestep is 0" in leading.problem


def test_the_network_of_a_pipeline_of_diffusers_is_compared_with_prompts():
    pipe = build("sd")
    pipelines = {name: DiffusionPipeline.from_diffusers(pipe, name) for name in ("ddim", "unipc")}
    found = compare(pipelines, nfe=(3, 4), prompt=["a cat", "a dog"], guidance_scale=3.0, reference_calls=16)
    images = pipelines["unipc"].generate(
        ["a cat", "a dog"], num_inference_steps=4, guidance_scale=3.0, seed=0, output_type="pt"
    )
    cell = found.cell("unipc", 4)
    assert torch.allclose(cell.pictures, images.cpu() * 2.0 - 1.0, atol=1e-5)
    assert cell.evaluations == 8
    assert cell.rms < found.cell("ddim", 3).rms
    assert found.references["ddim"].pictures.shape == cell.pictures.shape
    assert found.to_html().count("class='difference'") == 4


def test_names_are_run_on_a_pipeline_of_diffusers_and_on_a_named_model(tmp_path):
    pipe = build("sd")
    pipe.save_pretrained(tmp_path / "sd")
    for model in (pipe, str(tmp_path / "sd"), named_model(str(tmp_path / "sd"))):
        found = compare(["unipc"], model, nfe=3, prompt="a cat", reference=None)
        assert found.cell(found.entries[0].name, 3).pictures.shape == (1, 3, 16, 16)
    named = named_model("mnist")
    pipeline = named.pipeline("unipc")
    one = compare([pipeline], nfe=3, reference=None, **named.arguments(pipeline, labels=[3, 8]))
    two = compare(["unipc"], "mnist", nfe=3, reference=None, condition={"class_labels": torch.tensor([3, 8])})
    cells = [each.cell("unipc, beta57", 3) for each in (one, two)]
    assert torch.equal(cells[0].samples, cells[1].samples)
    assert cells[0].samples.shape == (2, 1, 28, 28)


def test_only_white_strokes_on_black_are_drawn_as_ink():
    grey = compare(["ddim"], lambda x, t: 0.1 * x, shape=(2, 1, 8, 8), nfe=2, reference=None)
    assert not grey.entries[0].white_on_black
    for model in (None, "mnist"):
        assert compare(["ddim"], model, nfe=2, reference=None).entries[0].white_on_black


def test_features_are_those_of_decoded_images():
    pipeline = DiffusionPipeline.from_diffusers(build("sd"), "ddim")
    data = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    seen = []

    def features(images):
        seen.append(images.shape)
        return images.mean((2, 3))

    found = compare(
        {"one": pipeline}, nfe=2, prompt=["a cat", "a dog"], reference=None, repeats=2, features=features, data=data
    )
    assert seen == [(16, 3, 16, 16), (4, 3, 16, 16)]  # both seeds
    assert found.cell("one", 2).frechet > 0.0


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"prompt": "a cat"}, "prompt"),
        ({"guidance_scal": 3.0}, "guidance_scal"),
        ({"count": "steps"}, "count"),
        ({"model": 3}, "model"),
        ({"seed": "a"}, "seed"),
        ({"seed": [0, 1]}, "seed"),
        ({"seed": -1}, "seed"),
        ({"nfe": 3.5}, "nfe"),
        ({"nfe": "5,8"}, "nfe"),
        ({"nfe": (5, "x")}, "nfe"),
        ({"model": "no_such_model"}, "model"),
        ({"reference": "fine", "nfe": 20, "reference_calls": 30}, "reference_calls"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_call(arguments, where):
    with pytest.raises(ConfigurationError) as raised:
        compare(**{"samplers": ["ddim"], "shape": SHAPE, **arguments})
    assert raised.value.where == where


def test_what_a_pipeline_of_diffusers_brings_itself_is_refused():
    pipeline = DiffusionPipeline.from_diffusers(build("sd"), "ddim")
    for name, value in {"condition": LABELS, "shape": (1, 4, 8, 8), "device": "cpu"}.items():
        with pytest.raises(ConfigurationError, match="comes from the pipeline") as raised:
            compare([pipeline], nfe=3, **{name: value})
        assert raised.value.where == name


def test_ctrl_c_keeps_the_cells_that_are_finished():
    calls = 0

    def model(x, t):
        nonlocal calls
        calls += 1
        if calls > 12:
            raise KeyboardInterrupt
        return 0.1 * x

    found = compare(["ddim", "euler"], model, shape=(2, 4), nfe=(3, 6), reference=None)
    assert found.interrupted
    assert found.cell("ddim, leading", 6).nfe == 6
    assert found.cell("euler, leading", 3).nfe == 3
    assert found.cell("euler, leading", 6).problem == "interrupted"
    assert "interrupted" in str(found)
    assert "interrupted" in found.to_html()
    assert found.to_dict()["about"]["interrupted"]
    assert not compare(["ddim"], lambda x, t: x, shape=(2, 4), nfe=2, reference=None).interrupted


def test_progress_reports_every_model_call_of_cells_and_references():
    made, reports = 0, []

    def model(x, t):
        nonlocal made
        made += 1
        return 0.1 * x

    compare(
        ["ddim", "heun", "adaptive"], model, shape=(2, 4), nfe=(3, 6), repeats=2, reference_calls=16,
        progress=lambda done, total: reports.append((done, total)),
    )  # fmt: skip
    done = [each for each, _ in reports]
    assert done == sorted(done)
    assert reports[-1] == (made, made)
    assert len(set(done)) > 30  # within runs, too


def test_an_error_that_the_fine_run_does_not_resolve_is_marked(caplog):
    found = compare(
        ["unipc"], nfe=(3, 10), shape=SHAPE, reference="fine", reference_calls=20,
        config=NoiseSchedulerConfig(timestep_spacing="kl_optimal"),
    )  # fmt: skip
    name, reference = "unipc, kl_optimal", found.references["unipc, kl_optimal"]
    assert reference.error <= reference.rms
    cells = {budget: found.cell(name, budget) for budget in (3, 10)}
    assert not found.is_unsure(cells[3])
    assert found.is_unsure(cells[10]) == (cells[10].rms < 10.0 * reference.rms)
    assert found.is_unsure(cells[10])
    assert "not well resolved" in caplog.text
    assert "not well resolved" in str(found)
    assert found.to_dict()["remarks"]


def test_a_path_without_a_reference_is_compared_without_an_error():
    class Twice:
        """Fails in long runs."""

        calls = 0

        def __call__(self, x, t):
            self.calls += 1
            return torch.full_like(x, math.nan) if self.calls > 20 else 0.1 * x

    found = compare(["ddim"], Twice(), shape=(2, 4), nfe=5)
    assert not found.references
    assert "has no reference" in str(found)
    assert "NaN" in found.remarks[0]
