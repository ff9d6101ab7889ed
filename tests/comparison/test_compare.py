"""compare(): equal model calls, errors to the solution, and what a cell that cannot run says."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import pytest
import torch

from noise_scheduler_sampling_system import (
    BaseSampler,
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    PlanSet,
    guidance,
    models,
)
from noise_scheduler_sampling_system.comparison import Comparison, compare
from noise_scheduler_sampling_system.comparison.page_data import page_data
from noise_scheduler_sampling_system.comparison.reference import root_mean_square
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

SHAPE = (16, 1, 8, 8)
LABELS = {"class_labels": torch.arange(16) % 10}


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(
        ["ddim", "heun", "dpmpp_2m", "DPM++ 2M Karras", "ancestral", "adaptive"], nfe=(5, 8, 20), shape=SHAPE, repeats=2
    )


def test_no_cell_makes_more_calls_than_its_budget(comparison):
    for (_, budget), cell in comparison.cells.items():
        if not cell.problem:
            assert cell.nfe <= budget
            assert cell.nfe == cell.plan.nfe == sum(cell.evaluations_by_row) == cell.evaluations
    assert comparison.cell("heun, leading", 8).nfe == 7
    assert comparison.cell("ddim, leading", 8).nfe == 8


def test_the_error_is_the_distance_to_the_solution_from_the_same_noise(comparison):
    pipeline = DiffusionPipeline(None, "dpmpp_2m")
    model = models.DigitsModel(pipeline.scheduler)
    errors = []
    for seed in (0, 1):
        samples = pipeline.sample(model, SHAPE, 8, seed=seed)
        noise = NoiseSource(resolve_keys(seed, None, 16), SHAPE[1:], torch.float32, torch.device("cpu")).initial()
        solution = model.reference_solution(noise.double() * pipeline.scheduler.prior_std)
        errors.append((samples.double() - solution).flatten(1).square().mean(1).sqrt())
    cell = comparison.cell("dpmpp_2m, beta57", 8)
    assert cell.rms == pytest.approx(torch.cat(errors).square().mean().sqrt().item(), rel=1e-6)
    assert cell.median == pytest.approx(torch.cat(errors).median().item(), rel=1e-6)
    assert cell.by_seed == pytest.approx([e.square().mean().sqrt().item() for e in errors], rel=1e-6)
    assert comparison.references["ddim, leading"].kind == "exact"


def test_a_sampler_that_adds_noise_has_no_error_and_an_adaptive_one_says_why(comparison):
    for budget in comparison.budgets:
        assert math.isnan(comparison.cell("ancestral, leading", budget).rms)
        assert comparison.cell("ancestral, leading", budget).samples.shape == SHAPE
        assert "tolerance" in comparison.cell("adaptive, leading", budget).problem
    assert "stochastic" in str(comparison)
    assert "cannot run" in str(comparison)


def test_the_standard_error_of_a_root_mean_square():
    """Against repeated draws: the spread of the estimate over 4,000 sets of 200 numbers."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, 200, generator=generator, dtype=torch.float64)
    spread = torch.stack([row.square().mean().sqrt() for row in draws]).std().item()
    estimates = [root_mean_square(row)[1] for row in draws[:400]]
    assert sum(estimates) / 400 == pytest.approx(spread, rel=0.1)


def test_a_fine_run_agrees_with_the_exact_solution_as_well_as_it_says():
    exact = compare(["ddim"], nfe=10, shape=SHAPE)
    fine = compare(["ddim"], nfe=10, shape=SHAPE, reference="fine")
    off = (
        (exact.references["ddim, leading"].samples[0] - fine.references["ddim, leading"].samples[0])
        .flatten(1)
        .square()
        .mean(1)
        .sqrt()
    )
    assert fine.references["ddim, leading"].nfe == 128
    assert off.median().item() < 10.0 * fine.references["ddim, leading"].error  # an estimate, of the right size
    assert fine.references["ddim, leading"].error < 0.01 * fine.cell("ddim, leading", 10).rms
    assert fine.cell("ddim, leading", 10).rms == pytest.approx(exact.cell("ddim, leading", 10).rms, rel=0.02)


def test_guidance_is_measured_against_a_guided_run():
    found = compare(["ddim"], nfe=10, shape=SHAPE, condition=LABELS, guidance_scale=3.0, reference_calls=64)
    cell = found.cell("ddim, leading", 10)
    assert found.references["ddim, leading"].kind == "fine"
    assert cell.evaluations == 20
    assert cell.evaluations_by_row == (2,) * 10
    interval = [guidance.ClassifierFree(3.0), guidance.Interval(0.3, 2.0)]
    half = compare(["ddim"], nfe=10, shape=SHAPE, condition=LABELS, guidance=interval, reference_calls=64)
    cell = half.cell("ddim, leading", 10)
    assert 10 < cell.evaluations < 20
    assert sum(cell.evaluations_by_row) == cell.evaluations
    with pytest.raises(ConfigurationError, match="guidance changes the solution"):
        compare(["ddim"], nfe=10, shape=SHAPE, condition=LABELS, guidance_scale=3.0, reference="exact")


def test_plans_pipelines_names_and_classes_are_compared_under_names_of_their_own():
    class Wild(BaseSampler):
        """Only ``step``."""

        def step(self, model_output, timestep, sample, next_timestep=None):
            return 0.9 * sample

    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cosine"), "ddim")
    plans = PlanSet({n: DiffusionPipeline(None, "dpmpp_2m").plan(n) for n in (4, 6)})
    found = compare([pipeline, "ddim", "ddim", plans, Wild], nfe=(5, 6), shape=SHAPE)
    names = [each.name for each in found.entries]
    assert len(set(names)) == 5
    assert names[:3] == ["ddim, leading, cosine", "ddim, leading, linear", "ddim, leading, linear #2"]
    assert (found.cell(names[3], 5).nfe, found.cell(names[3], 6).nfe) == (4, 6)
    assert (found.cell(names[4], 5).nfe, found.cell(names[4], 5).plan) == (5, None)
    assert len({id(each) for each in found.references.values()}) == 2  # cosine, and linear shared by all others
    named = compare({"mine": "ddim"}, nfe=5, shape=SHAPE)
    assert [each.name for each in named.entries] == ["mine"]


def test_features_give_a_distance_to_the_data_to_stochastic_samplers_too():
    model = models.DigitsModel(DiffusionPipeline().scheduler)
    data = model.sample_data(256, SHAPE[1:], generator=0)
    found = compare(["ancestral", "ddim"], nfe=(3, 30), shape=(64, 1, 8, 8), features=lambda x: x.flatten(1), data=data)
    for name in ("ancestral, leading", "ddim, leading"):
        assert found.cell(name, 30).frechet < found.cell(name, 3).frechet
    with pytest.raises(ConfigurationError, match="features and data go together"):
        compare(["ddim"], features=lambda x: x)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"samplers": []}, "samplers"),
        ({"samplers": [3]}, "samplers"),
        ({"samplers": ["no_such_sampler"]}, "method"),
        ({"nfe": 0}, "nfe"),
        ({"nfe": ()}, "nfe"),
        ({"reference": "best"}, "reference"),
        ({"repeats": 0}, "repeats"),
        ({"model": lambda x, t: x}, "shape"),
        ({"model": lambda x, t: x, "shape": SHAPE, "reference": "exact"}, "reference"),
    ],
)
def test_what_no_cell_could_run_with_is_refused(arguments, where):
    with pytest.raises(ConfigurationError) as raised:
        compare(**{"samplers": ["ddim"], **arguments})
    assert raised.value.where == where


def test_an_error_of_the_users_own_model_comes_through():
    def broken(x, t):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        compare(["ddim"], broken, shape=(2, 4), nfe=3)


def test_files_hold_what_was_measured(comparison, tmp_path):
    for ending in ("json", "csv", "html"):
        comparison.save(tmp_path / f"a.{ending}")
    data = json.loads((tmp_path / "a.json").read_text())
    by_place = {(cell["entry"], cell["budget"]): cell for cell in data["cells"]}
    for place, cell in comparison.cells.items():
        saved = by_place[place]
        assert saved["problem"] == cell.problem
        assert (saved["rms"] is None) == math.isnan(cell.rms)
        if cell.plan is not None:
            assert data["plans"][saved["plan"]]["content_hash"] == cell.plan.content_hash
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert len(rows) == len(comparison.cells)
    assert float(rows[0]["rms"]) == comparison.cell("ddim, leading", 5).rms
    with pytest.raises(ConfigurationError, match="there is no cell"):
        comparison.cell("ddim, leading", 6)


def test_the_page_needs_nothing_from_outside_and_holds_every_cell(comparison):
    text = comparison.to_html()
    ours = text.split("</style>")[0] + text.rsplit('<script id="data"', 1)[1]
    assert not re.search(r"(src|href)=[\"'](?!data:)", text.split("<script>")[0])
    assert "http://" not in ours
    assert "https://" not in ours
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.S)[1].replace("<\\/", "</"))
    assert [each["name"] for each in data["entries"]] == [each.name for each in comparison.entries]
    assert len(data["plans"]) == sum(cell.plan is not None for cell in comparison.cells.values())
    assert text.count("class='difference'") == 4 * 3  # deterministic entries, three budgets
    assert text.count("<summary>cannot run</summary>") == 3
    assert text.count("class='pick'") == 5 * 3  # the row of the adaptive sampler has nothing to copy
    for each in data["entries"][:4]:
        assert sorted(each["code"]) == ["20", "5", "8"]
    for place, cell in comparison.cells.items():
        if cell.plan is not None:
            assert cell.plan.fingerprint in text
            drawn = next(each for each in data["plans"] if (each["entry"], each["budget"]) == place)
            assert drawn["gains"] == pytest.approx(cell.plan.gains.tolist())
            assert max(drawn["gains"]) == cell.plan.amplification
            for i, kept in enumerate(drawn["kept"]):  # what the row reads is what has a coefficient
                assert sorted(i - j for j in kept) == [
                    k for k in range(1, i + 1) if k < cell.plan.b.shape[1] and cell.plan.b[i, k]
                ]


def test_the_page_tells_branches_apart():
    interval = [guidance.ClassifierFree(3.0), guidance.Interval(0.3, 2.0)]
    found = compare(["heun"], nfe=9, shape=SHAPE, condition=LABELS, guidance=interval, reference=None)
    branches = found.cell("heun, leading", 9).branches_by_row
    assert {("conditional",), ("conditional", "unconditional")} == set(branches)
    assert found.cell("heun, leading", 9).evaluations_by_row == tuple(map(len, branches))


def test_the_page_tells_the_guidance_that_a_plan_holds():
    cached = guidance.CachedGuidance(3.0, calls=(0, 2))
    plan = cached.folded_into(DiffusionPipeline(None, "ddim").plan(4))
    found = compare({"masked": plan}, nfe=6, shape=SHAPE, condition=LABELS, reference=None)
    (drawn,) = page_data(found)["plans"]
    assert [len(names) for names in drawn["branches"]] == [2, 1, 2, 1]
    assert (drawn["kept"], drawn["kept_differences"]) == ([[]] * 4, [[], [0], [], [2]])
    assert drawn["delta"] == plan.delta.tolist()


def test_paths_that_look_alike_have_their_own_solutions():
    """Two linear schedules print alike; each error, and each picture of a difference, is to its own solution."""
    paths = [NoiseSchedulerConfig(beta_end=end) for end in (0.02, 0.01)]
    both = compare([DiffusionPipeline(path, "ddim") for path in paths], nfe=5, shape=(4, 1, 8, 8))
    for entry, path in zip(both.entries, paths, strict=True):
        alone = compare({"one": DiffusionPipeline(path, "ddim")}, nfe=5, shape=(4, 1, 8, 8))
        assert both.cell(entry.name, 5).rms == alone.cell("one", 5).rms
        assert torch.equal(both.references[entry.name].samples[0], alone.references["one"].samples[0])
        picture = re.search(r"class='difference'.*?src='(\S+)'", alone.to_html())[1]
        assert picture in both.to_html()


def test_a_name_cannot_break_the_page():
    found = compare({"</script><img src=x onerror=alert(1)>": "ddim"}, nfe=3, shape=(2, 1, 8, 8))
    assert "<img src=x" not in found._repr_html_()
    text = found.to_html()
    assert "<img src=x" not in text.replace("<\\/script><img src=x", "")  # inside of the data it is text


def test_the_order_is_the_slope_of_the_error():
    found = compare(
        ["ddim", "dpmpp_2m"], nfe=(80, 160), shape=(8, 1, 8, 8),
        config=NoiseSchedulerConfig(timestep_spacing="kl_optimal"),
    )  # fmt: skip
    assert found.order_of("ddim, kl_optimal") == pytest.approx(1.0, abs=0.2)
    assert found.order_of("dpmpp_2m, kl_optimal") > 1.6
    assert found.best(160).entry == "dpmpp_2m, kl_optimal"


def test_an_interrupt_keeps_the_cells_that_are_done():
    model = models.DigitsModel(DiffusionPipeline().scheduler)
    calls = 0

    def interrupted(x, t):
        nonlocal calls
        calls += 1
        if calls == 3 + 5 + 2:
            raise KeyboardInterrupt
        return model(x, t)

    asked = {"nfe": (3, 5), "shape": (2, 1, 8, 8), "reference": None}
    found = compare(["ddim", "heun"], interrupted, **asked)
    assert found.about["interrupted"]
    assert [bool(cell.problem) for cell in found.cells.values()] == [False, False, True, True]
    assert found.cell("heun, leading", 3).problem == "interrupted"
    whole = compare(["ddim"], model, **asked)
    assert torch.equal(found.cell("ddim, leading", 5).samples, whole.cell("ddim, leading", 5).samples)
    assert "interrupted" not in whole.about
