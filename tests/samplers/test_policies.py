"""Stochastic steps of reinforcement learning: published formulas, relations, windows, and the noise that they add."""

from __future__ import annotations

import json
import math

import numpy as np
import policy_vectors
import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig, SamplerFactory
from noise_scheduler_sampling_system.analysis import step_distribution
from noise_scheduler_sampling_system.grids import TimeGrid
from noise_scheduler_sampling_system.running.bound_plan import bind_for
from noise_scheduler_sampling_system.running.loop import RowState
from noise_scheduler_sampling_system.samplers.steps import posterior_std
from noise_scheduler_sampling_system.schedules import EDMPath, FlowPath, VPPath

POLICIES = ("flow_grpo", "dance_grpo", "cps", "precise")
FLOW = NoiseSchedulerConfig(beta_schedule="flow")


def factors(name, path, grid, **options):
    """(d, n) of each step that ends with noise: x' = α'·x₀ + d·ε + n·ξ, read off the plan."""
    plan = SamplerFactory.create(name, path, **options).plan(grid=grid)
    count = len(plan) - (plan.sigma[-1] == 0.0)
    # the plan's history is x₀: the state's factor is d/σ
    return (plan.a * plan.sigma[:-1])[:count], (plan.c[:, 0] if plan.stochastic else 0.0 * plan.a)[:count]


def test_the_vectors_are_those_of_the_formulas():
    assert json.loads(policy_vectors.OUT.read_text()) == json.loads(json.dumps(policy_vectors.document()))


@pytest.mark.parametrize("name", POLICIES)
def test_steps_are_the_published_ones(name):
    """Mean, standard deviation and log-density in float64; those of ``precise`` come from a numerical solution."""
    given = json.loads(policy_vectors.OUT.read_text())
    x, v, after = (torch.tensor([given[k]], dtype=torch.float64) for k in ("x", "v", "next"))
    entries = [entry for entry in given["steps"] if entry["sampler"] == name]
    assert len(entries) == 12
    for entry in entries:
        options = {"last_noise": True} if name.endswith("grpo") else {}
        pipeline = DiffusionPipeline(FLOW, name, eta=entry["eta"], **options)
        plan = pipeline.sampler.plan(grid=TimeGrid.from_sigmas(pipeline.scheduler, given["sigmas"]))
        drawn = step_distribution(bind_for(plan, pipeline.config), RowState(entry["step"], x, {}), v)
        assert drawn.mean[0].tolist() == pytest.approx(entry["mean"], rel=1e-10, abs=1e-12)
        assert drawn.std == pytest.approx(entry["std"], rel=1e-10)
        if entry["log_prob"] is not None:
            assert float(drawn.log_prob(after)) == pytest.approx(entry["log_prob"], rel=1e-9)


@pytest.mark.parametrize("path", [FlowPath(), VPPath(), EDMPath()], ids=["flow", "vp", "edm"])
def test_cps_and_precise_are_ddim_with_noise(path):
    """They keep the noise level, so each step is DDIM's with the η that gives the same noise."""
    grid = DiffusionPipeline(path, "ddim").grid(8)
    for name in ("cps", "precise"):
        d, n = factors(name, path, grid)
        for i, now, after in grid.intervals():
            if after.sigma:
                assert math.hypot(d[i], n[i]) == pytest.approx(after.sigma, rel=1e-12)
            if after.sigma and now.alpha:
                same = TimeGrid((now, after))
                assert factors("ddim", path, same, eta=n[i] / posterior_std(now, after)) == pytest.approx((d[i], n[i]))
    # CPS's share of the posterior's noise depends on the step alone: sin(ηπ/2)/√(1 − r²)
    now, after = grid.levels[3:5]
    ratio = after.noise_to_signal / now.noise_to_signal
    share = factors("cps", path, grid)[1][3] / posterior_std(now, after)
    assert share == pytest.approx(math.sin(0.35 * math.pi) / math.sqrt(1.0 - ratio**2))


@pytest.mark.parametrize("name", ["flow_grpo", "dance_grpo"])
def test_euler_maruyama_steps_leave_more_noise_than_the_level(name):
    """By n²·Δ/t + n⁴/(4t²), and their d is DDIM's to first order: halving the step divides the difference by four."""
    path, differences = FlowPath(), []
    for change in (0.02, 0.01):
        d, n = (
            float(each[0]) for each in factors(name, path, TimeGrid.from_sigmas(path, [0.6, 0.6 - change], end=None))
        )
        t, end = 0.6, 0.6 - change
        assert d**2 + n**2 - end**2 == pytest.approx(n**2 * change / t + n**4 / (4 * t**2), rel=1e-9)
        differences.append(abs(math.sqrt(end**2 - n**2) - d))
    assert differences[0] / differences[1] == pytest.approx(4.0, rel=0.05)


def test_precise_solves_the_sde_of_flow_grpo():
    """The same noise as steps shrink: halving the step halves the relative difference of n²."""
    path, differences = FlowPath(), []
    for change in (0.02, 0.01):
        grid = TimeGrid.from_sigmas(path, [0.6, 0.6 - change], end=None)
        (_, a), (_, b) = (factors(name, path, grid, eta=1.3) for name in ("flow_grpo", "precise"))
        differences.append(float(a[0] ** 2 / b[0] ** 2) - 1.0)
    assert differences[0] / differences[1] == pytest.approx(2.0, rel=0.05)


def test_a_policy_on_another_path_is_that_of_the_flow_path():
    """x/(α + σ) of the step on a variance-preserving path, at the same σ/α."""
    vp, flow = VPPath(), FlowPath()
    grid = TimeGrid.from_times(vp, [0.7, 0.5, 0.3], end=None)
    straight = TimeGrid.from_sigmas(flow, [v.sigma / (v.alpha + v.sigma) for v in grid.levels], end=None)
    sizes = np.array([v.alpha + v.sigma for v in grid.levels[1:]])
    for name in POLICIES:
        for on_vp, on_flow in zip(factors(name, vp, grid), factors(name, flow, straight), strict=True):
            np.testing.assert_allclose(on_vp, sizes * on_flow, rtol=1e-9)


def spread(name, steps, **options):
    """The spread of the result over that of Gaussian data of standard deviation 0.5."""
    return float(DiffusionPipeline(FLOW, name, **options).plan(steps).gaussian_moments(0.5).std) / 0.5


def test_cps_converges_only_if_eta_falls_with_the_step():
    fixed = [abs(spread("cps", steps) - 1.0) for steps in (40, 160, 640)]
    assert min(fixed) > 0.15
    falling = [abs(spread("cps", steps, eta=2.0 / steps**0.5) - 1.0) for steps in (40, 160, 640)]
    assert falling[1] < 0.3 * falling[0]
    assert falling[2] < 0.3 * falling[1]
    others = [abs(spread(name, 640) - 1.0) for name in ("flow_grpo", "dance_grpo", "precise")]
    assert max(others) < 0.01


def test_noise_of_the_last_step_stays_in_the_samples():
    """As published, a Flow-GRPO sample holds n of the last step: at ten even steps 0.7·√(0.1/0.9·0.1) = 0.074."""
    plan = DiffusionPipeline(FLOW, "flow_grpo", last_noise=True).plan(10)
    assert plan.c[-1, 0] == pytest.approx(0.7 * math.sqrt(0.1 / 0.9 * 0.1))
    assert DiffusionPipeline(FLOW, "flow_grpo").plan(10).c[-1, 0] == 0.0


@pytest.mark.parametrize("name", POLICIES)
def test_noise_in_a_window_and_euler_outside(name):
    plain, noisy = (DiffusionPipeline(FLOW, method).plan(10) for method in ("euler", name))
    mixed = DiffusionPipeline(FLOW, name, window_start=2, window_size=3).plan(10)
    assert np.flatnonzero(mixed.c[:, 0]).tolist() == [2, 3, 4]
    inside = slice(2, 5)
    assert np.array_equal(mixed.c[inside], noisy.c[inside])
    assert np.array_equal(mixed.a[inside], noisy.a[inside])
    for outside in (slice(0, 2), slice(5, 10)):
        np.testing.assert_allclose(mixed.a[outside], plain.a[outside], atol=1e-12)
    tail = DiffusionPipeline(FLOW, name, window_start=6).plan(10)
    assert np.flatnonzero(tail.c[:, 0]).tolist()[0] == 6
    for bad, where in (({"window_start": 10}, "window_start"), ({"window_start": 3, "window_size": 8}, "window_size")):
        with pytest.raises(ConfigurationError, match="of the run") as caught:
            DiffusionPipeline(FLOW, name, **bad).plan(10)
        assert caught.value.where == where


def test_names_of_trainers():
    for name, size in (("mix_grpo", 4), ("Flow-GRPO-Fast", 2), ("flow_sde", None)):
        plan = DiffusionPipeline(FLOW, name).plan(10)
        assert plan.sampler == "flow_grpo"
        assert np.count_nonzero(plan.c[:, 0]) == (size or 9)
    for name, here in (("noise_level", "'eta'"), ("sde_window_size", "'window_size'")):
        with pytest.raises(ConfigurationError, match=here):
            DiffusionPipeline(FLOW, "flow_grpo", **{name: 1})


@pytest.mark.parametrize("name", POLICIES)
def test_a_step_towards_noise_and_noise_beyond_the_bound(name):
    path = FlowPath()
    with pytest.raises(ConfigurationError, match="raise the noise level"):
        SamplerFactory.create(name, path).plan(grid=TimeGrid.from_sigmas(path, [0.3, 0.6], end=None))
    d, n = factors(
        name, path, TimeGrid.from_sigmas(path, [0.9, 0.01], end=None), **({"eta": 5.0} if name != "cps" else {})
    )
    assert d[0] >= -1e-15
    if name.endswith("grpo"):
        assert (d[0], n[0]) == pytest.approx((0.0, math.sqrt(2 * 0.9 * 0.01)), abs=1e-12)
