"""The runner in JavaScript, in a real browser, against the library."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from browser import chromium
from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.grids.time_grid import TimeGrid
from noise_scheduler_sampling_system.playground.bundle import bundle
from noise_scheduler_sampling_system.playground.catalog import digits_data, noise_data
from noise_scheduler_sampling_system.playground.numbers import packed
from noise_scheduler_sampling_system.playground.plan_data import grid_data, kind_of, plan_data
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys
from noise_scheduler_sampling_system.schedules import CLEAN

LABELS = torch.arange(10)
PATHS = ("linear", "cosine", "flow", "edm", "subvp")
#: Deterministic and stochastic; with one and several calls a step; of every space; with noises of two stages; CFG++.
SAMPLERS = (
    "ddim", "ancestral", "heun", "pndm", "dpmpp_2m", "unipc", "deis", "adams", "dpmpp_2m_sde", "dpmpp_sde",
    "ddim_cfg_pp",
)  # fmt: skip
RUNS = """([cases, digits]) => {
  const P = playground, model = P.digits.decodeDigits(digits);
  return cases.map(each => {
    const plan = P.plan.decodePlan(each.plan, each.kind, each.grid), noise = P.source.decodeNoise(each.noise, 10);
    let last;
    for (const row of P.run.rowsOf(plan, model, noise, each.labels, each.scale)) last = row;
    return [Array.from(last.x), last.calls];
  });
}"""
SOLUTIONS = """([cases, digits]) => {
  const P = playground, model = P.digits.decodeDigits(digits);
  return cases.map(each => Array.from(P.solution.solutionOf(model, each.x, each.level, each.label, each.scale, 1e-7)));
}"""
COMPILED = """cases => cases.map(each => {
  const plan = playground.compile.compile(each.sampler, each.levels.map(level => ({ ...level, half: level.half ?? -Infinity })), each.options);
  return { space: plan.space, prior: plan.prior, a: [...plan.a], b: plan.b.map(c => [...c]), c: plan.c.map(c => [...c]), alpha: [...plan.alpha], sigma: [...plan.sigma], step: plan.step, keys: plan.keys };
})"""  # noqa: E501


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as browser:
        page = browser.new_page()
        page.add_script_tag(content=bundle())
        yield page


def exact_times(model: Any, plan: Any) -> Any:
    """The model at the times of the plan: a run tells times in float32, and the page's model knows the level itself."""

    def call(x: torch.Tensor, t: torch.Tensor, **condition: Any) -> torch.Tensor:
        nearest = plan.time[np.abs(plan.time - float(t.reshape(-1)[0])).argmin()]
        return model(x, float(nearest), **condition)

    call.null_condition = model.null_condition
    return call


def runs(page: Any, cases: list[tuple[Any, ...]]) -> None:
    """Run cases (path, spacing, sampler, options, steps, scale, seed) in both, and compare."""
    given, wanted = [], []
    for path, spacing, sampler, options, steps, scale, seed in cases:
        pipeline = DiffusionPipeline(
            NoiseSchedulerConfig(beta_schedule=path, timestep_spacing=spacing), sampler, **options
        )
        plan, grid, kind = pipeline.plan(steps), pipeline.grid(steps), kind_of(pipeline.scheduler)
        model = exact_times(models.DigitsModel(pipeline.scheduler), plan)
        condition = {"class_labels": LABELS} if scale is not None else None
        more = {} if scale is None else {"guidance_scale": scale}
        samples = pipeline.sample(
            model, (10, 1, 8, 8), steps, condition=condition, seed=seed, dtype=torch.float64, **more
        )
        wanted.append((samples.flatten().numpy(), plan.nfe))
        keys = [(int(step), int(stage)) for step, stage in plan.noise_key if step >= 0]
        shared = grid if kind != "other" and steps % 2 else None  # with and without the levels of a shared grid
        given.append({
            "plan": plan_data(plan, kind, shared), "grid": grid_data(grid), "kind": kind,
            "noise": noise_data(seed, keys),
            "labels": LABELS.tolist() if scale is not None else [10] * 10, "scale": 1.0 if scale is None else scale,
        })  # fmt: skip
    found = page.evaluate(RUNS, [given, digits_data()])
    for case, (samples, calls), (want, nfe) in zip(cases, found, wanted, strict=True):
        assert np.abs(np.array(samples) - want).max() < 1e-5, case
        assert calls == nfe


@pytest.mark.parametrize("path", PATHS)
def test_every_kind_of_sampler_ends_where_python_ends(page, path):
    spacings = ("kl_optimal", "leading", "karras") if path == "linear" else ("kl_optimal",)
    runs(page, [
        (path, spacing, sampler, {}, 7 if sampler != "heun" else 4, 1.0, 3)
        for sampler in SAMPLERS for spacing in spacings
    ])  # fmt: skip


def test_guidance_no_class_other_seeds_and_every_number_of_steps_agree(page):
    runs(page, [
        ("linear", "kl_optimal", "dpmpp_2m", {}, 10, 3.0, 0),
        ("linear", "kl_optimal", "dpmpp_2m", {}, 10, 0.0, 0),
        ("flow", "log_snr", "ancestral", {"eta": 0.5}, 9, 2.0, 1),
        ("edm", "karras", "heun", {}, 6, 7.5, 2**31 - 1),
        ("linear", "leading", "dpmpp_2m_sde", {}, 12, None, 5),
        ("cosine", "kl_optimal", "ddim_cfg_pp", {}, 8, 0.6, 4),
        *(("linear", "kl_optimal", name, {}, steps, 1.0, 0) for steps in (1, 2, 3, 50) for name in ("ddim", "unipc")),
    ])  # fmt: skip


def test_the_solution_in_the_page_is_the_exact_solution(page):
    given, wanted = [], []
    for path in ("linear", "flow", "edm"):
        scheduler = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=path)).scheduler
        model, level = models.DigitsModel(scheduler), scheduler.level(scheduler.t_max)
        x = NoiseSource(resolve_keys(0, None, 4), (1, 8, 8)).initial().double() * scheduler.prior_std
        labels = torch.tensor([0, 5, 10, 9])
        wanted += list(model.reference_solution(x, class_labels=labels).flatten(1))
        given += [
            {
                "x": row.flatten().tolist(),
                "level": {"alpha": level.alpha, "sigma": level.sigma},
                "label": label,
                "scale": 1,
            }
            for row, label in zip(x, labels.tolist(), strict=True)
        ]
    found = page.evaluate(SOLUTIONS, [given, digits_data()])
    for samples, want in zip(found, wanted, strict=True):
        assert np.abs(np.array(samples) - want.numpy()).max() < 1e-5


def test_the_guided_solution_is_where_many_steps_lead(page):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="kl_optimal"), "adams")
    model, level = models.DigitsModel(pipeline.scheduler), pipeline.scheduler.level(pipeline.scheduler.t_max)
    x = NoiseSource(resolve_keys(0, None, 2), (1, 8, 8)).initial().double()
    samples = pipeline.sample(
        model, (2, 1, 8, 8), 400, condition={"class_labels": torch.tensor([3, 8])}, guidance_scale=2.0,
        dtype=torch.float64, seed=0,
    )  # fmt: skip
    given = [
        {
            "x": row.flatten().tolist(),
            "level": {"alpha": level.alpha, "sigma": level.sigma},
            "label": label,
            "scale": 2.0,
        }
        for row, label in zip(x, (3, 8), strict=True)
    ]
    found = torch.tensor(page.evaluate(SOLUTIONS, [given, digits_data()])).reshape(2, 1, 8, 8)
    assert (found - samples).abs().max() < 2e-2  # the steps' own error


def test_plans_for_moved_levels_are_those_of_the_library(page):
    given, wanted, random = [], [], np.random.default_rng(0)
    for path in ("linear", "cosine", "flow", "edm"):
        scheduler = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=path)).scheduler
        low, high = (2.0 * scheduler.level(t).half_log_snr for t in (scheduler.t_max, scheduler.t_min))
        for sampler, options in (
            ("ddim", {}), ("ddim", {"eta": 0.6}), ("ancestral", {}), ("ancestral", {"eta": 2.0}), ("euler", {}),
            ("heun", {}), ("dpmpp_2m", {}),
        ):  # fmt: skip
            for steps in (1, 2, 7, 15):
                places = np.sort(random.uniform(max(low, -9.0), high, steps - 1))
                levels = (scheduler.level(scheduler.t_max), *(scheduler.level_at(float(place)) for place in places))
                guard = {"guarded": False} if sampler in ("heun", "dpmpp_2m") else {}
                made = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=path), sampler, **options, **guard)
                wanted.append(made.plan(grid=TimeGrid((*levels, CLEAN))))
                halves = [level.half_log_snr if math.isfinite(level.half_log_snr) else None for level in levels]
                each = [{"alpha": v.alpha, "sigma": v.sigma, "half": h} for v, h in zip(levels, halves, strict=True)]
                given.append({"sampler": sampler, "options": options, "levels": each})
    for plan, found in zip(wanted, page.evaluate(COMPILED, given), strict=True):
        assert (found["space"], found["step"]) == (plan.space, plan.step.tolist())
        for name, want in (("a", plan.a), ("prior", plan.prior_scale), ("alpha", plan.alpha), ("sigma", plan.sigma)):
            np.testing.assert_allclose(found[name], want, rtol=1e-10, atol=1e-10)
        width = len(found["b"])
        np.testing.assert_allclose(np.array(found["b"]).T, plan.b[:, :width], rtol=1e-10, atol=1e-10)
        assert not plan.b[:, width:].any()
        if plan.stochastic:
            np.testing.assert_allclose(found["c"][0], plan.c[:, 0], rtol=1e-10, atol=1e-10)
            assert found["keys"] == plan.noise_key.tolist()


def test_numbers_keep_twelve_digits_and_infinity(page):
    values = [0.0, 1.0, -1.0, math.pi, 1e-300, 6.02e23, -math.inf, math.inf, 999.0]
    found = page.evaluate("text => Array.from(playground.decode.decodeNumbers(text), String)", packed(values))
    np.testing.assert_allclose([float(text) for text in found], values, rtol=8e-12)
