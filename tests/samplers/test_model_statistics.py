"""Model statistics against closed forms, and what DPM-Solver-v3 makes of them."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from measure import final_error, grid_of, measured_order, problem, run_plan
from peers import published

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    SamplerFactory,
    SamplingPlan,
    TimeGrid,
)
from noise_scheduler_sampling_system.grids.time_grid import make_grid
from noise_scheduler_sampling_system.models import DigitsModel, GaussianMixtureModel, GaussianModel
from noise_scheduler_sampling_system.samplers.model_statistics import ModelStatistics
from noise_scheduler_sampling_system.schedules import EDMPath, FlowPath, LinearNoiseScheduler, VPPath
from noise_scheduler_sampling_system.support.curves import Curve
from noise_scheduler_sampling_system.support.errors import FileError

PATHS = {"vp": VPPath, "edm": EDMPath, "flow": FlowPath, "linear": LinearNoiseScheduler}
MEAN = torch.tensor([1.0, -0.5, 0.3, 2.0], dtype=torch.float64)


def measured(model, count, shape=None, **options):
    """Statistics of an exact model, from samples of its own data."""
    path = model.path.with_config(model.path.config.replace(prediction_type=model.prediction_type))
    data = model.sample_data(count, shape, generator=3)
    return ModelStatistics.measure(DiffusionPipeline(path, "ddim"), model, data, dtype=torch.float64, **options)


@pytest.mark.parametrize("path", PATHS)
def test_statistics_of_isotropic_gaussian_data_are_exact(path):
    """ε = r·(z − m)/(v + r²) with r = e^(−λ): so l = r²/(v + r²), f = −l·m and s = l'/l; on any path."""
    v, model = 0.3, GaussianModel(PATHS[path](), MEAN, 0.3)
    found = measured(model, 4)
    square = np.exp(-2.0 * found.half_log_snr)
    exact = square / (v + square)
    np.testing.assert_allclose(found.l, exact, rtol=1e-6)
    np.testing.assert_allclose(found.s, -2.0 * (1.0 - exact), atol=0.1)  # a spline's slope is worst at its ends
    np.testing.assert_allclose(found.s[2:-2], -2.0 * (1.0 - exact[2:-2]), rtol=5e-3, atol=2e-3)


def test_statistics_of_gaussian_data_of_several_variances():
    """Each entry: z = m + w·g with w² = v + r², x₀ = m + (v/w)·g; l is a mean, s the regression over all entries."""
    variances = torch.tensor([1.0, 0.2, 0.05, 2.0], dtype=torch.float64)
    found = measured(GaussianModel(VPPath(), MEAN, variances), 8_000)
    v, m, lam = variances.numpy(), MEAN.numpy(), found.half_log_snr

    def of_f(lam):
        """f as −l·m and, of the standard normal g, (1 − l)·w − v/w."""
        w = np.sqrt(v + np.exp(-2.0 * lam[:, None]))
        of_x = (np.exp(-2.0 * lam[:, None]) / w**2).mean(1, keepdims=True)
        return of_x[:, 0], np.concatenate([-of_x * m, (1.0 - of_x) * w - v / w], axis=1)

    of_x, f = of_f(lam)
    change = (of_f(lam + 1e-5)[1] - of_f(lam - 1e-5)[1]) / 2e-5
    np.testing.assert_allclose(found.l, of_x, rtol=0.02)
    np.testing.assert_allclose(found.s, (f * change).sum(1) / (f * f).sum(1), rtol=0.03, atol=0.02)


def test_a_seed_says_what_is_measured_and_the_path_does_not_matter():
    def found(path, seed):
        return measured(GaussianMixtureModel(path, problem("vp", "mixture").x[:5], 0.3), 50, seed=seed)

    vp, inside = found(VPPath(), 1), np.linspace(-3.0, 3.0, 20)
    assert vp == found(VPPath(), 1)
    assert vp != found(VPPath(), 2)
    for path in (EDMPath(), FlowPath()):
        other = found(path, 1)
        np.testing.assert_allclose(other.linear(inside), vp.linear(inside), atol=5e-4)
        np.testing.assert_allclose(other.growth(inside), vp.growth(inside), atol=1e-2)


def test_statistics_are_those_of_the_guided_and_clipped_prediction():
    config = NoiseSchedulerConfig(beta_schedule="vp", clip_sample=True, clip_sample_range=1e-9)
    pipeline = DiffusionPipeline(config, "ddim")
    data = torch.zeros(3, 4)
    found = ModelStatistics.measure(pipeline, GaussianModel(pipeline.scheduler, MEAN, 0.3), data, levels=6)
    np.testing.assert_allclose(found.l, 1.0, atol=1e-5)  # x₀ = 0 whatever x is


def test_generated_data_will_do():
    path = VPPath()
    pipeline, model = DiffusionPipeline(path, "dpmpp_2m"), GaussianModel(path, 0.0, 0.3)
    found = ModelStatistics.measure(pipeline, model, shape=(500, 4), levels=8)
    square = np.exp(-2.0 * found.half_log_snr)
    np.testing.assert_allclose(found.l, square / (0.3 + square), rtol=1e-3)


def test_a_curve_is_exact_for_cubics():
    x = np.array([-2.0, -1.5, 0.0, 0.3, 2.0])
    cubic = np.polynomial.Polynomial([1.0, -2.0, 0.5, 0.7])
    curve, inside = Curve(x, cubic(x)), np.linspace(-2.0, 2.0, 31)
    np.testing.assert_allclose(curve(inside), cubic(inside), atol=1e-12)
    np.testing.assert_allclose(curve.slope(inside), cubic.deriv()(inside), atol=1e-12)
    np.testing.assert_allclose(curve.integral(inside), cubic.integ()(inside) - cubic.integ()(-2.0), atol=1e-12)
    assert curve.integral(3.0) - curve.integral(2.0) == pytest.approx(cubic(2.0))
    assert curve.integral(-3.0) == pytest.approx(-cubic(-2.0))


@functools.cache
def of_problem(path, model):
    return measured(problem(path, model).model, 64, levels=32)


@pytest.mark.parametrize(
    ("path", "order", "corrector", "wanted"),
    [("edm", 1, False, 1), ("vp", 1, True, 2), ("flow", 2, False, 2), ("edm", 2, True, 3), ("vp", 3, False, 3),
     ("vp", 3, True, 3), ("edm", 3, True, 3), ("flow", 3, True, 3)],
)  # fmt: skip
def test_order_of_convergence(path, order, corrector, wanted):
    options = {"order": order, "corrector": corrector, "statistics": of_problem(path, "mixture")}
    found, sampler = measured_order("dpm_v3", options, path, "mixture")
    assert sampler.order == wanted
    assert found > wanted - 0.2


def test_any_statistics_keep_the_order():
    """They are a choice of coordinates: a bad one costs accuracy, no order."""
    lam = np.linspace(-4.0, 4.0, 9)
    odd = ModelStatistics(lam, 0.5 + 0.4 * np.sin(lam), -1.0 + np.cos(2.0 * lam))
    found, sampler = measured_order("dpm_v3", {"statistics": odd}, "vp", "mixture")
    assert found > sampler.order - 0.2


@pytest.mark.parametrize(
    ("options", "other", "quantity"),
    [
        ({}, ("unipc", {"solver_type": "exact"}), "sample"),
        ({"order": 2}, ("unipc", {"solver_type": "exact", "order": 2}), "sample"),
        ({"corrector": False}, ("dpmpp_3m", {}), "sample"),
        ({"corrector": False, "order": 2}, ("res_multistep", {}), "sample"),
        ({"corrector": False, "order": 1}, ("ddim", {}), "sample"),
        ({}, ("unipc", {"solver_type": "exact", "predict_x0": False}), "epsilon"),
        ({"corrector": False}, ("dpm_3m", {}), "epsilon"),
        ({"corrector": False, "order": 2}, ("dpm_2m", {"solver_type": "exact"}), "epsilon"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["vp", "edm", "flow"])
def test_neutral_statistics_give_the_solvers_known_before(path, options, other, quantity):
    p = problem(path, "mixture")
    grid = grid_of(p.path, p.high, p.low, 9)
    grid = TimeGrid((*grid.levels, TimeGrid.from_times(p.path, [p.low]).levels[-1]))  # and on to the clean sample
    given = {} if quantity == "sample" else {"statistics": ModelStatistics.neutral(quantity)}
    ours = SamplerFactory.create("dpm_v3", p.path, **options, **given, guarded=False).plan(grid=grid)
    known = SamplerFactory.create(other[0], p.path, **other[1], **published(other[0])).plan(grid=grid)
    torch.testing.assert_close(run_plan(ours, p.model, p.x), run_plan(known, p.model, p.x), rtol=1e-9, atol=1e-9)


def test_with_one_prediction_statistics_do_nothing():
    p = problem("vp", "mixture")
    grid = grid_of(p.path, p.high, p.low, 5)
    ours = SamplerFactory.create("dpm_v3", p.path, statistics=of_problem("vp", "mixture"), order=1, corrector=False)
    known = SamplerFactory.create("ddim", p.path)
    for a, b in zip(ours.plan(grid=grid).canonical(), known.plan(grid=grid).canonical(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_statistics_help_where_model_calls_are_few(spacing):
    """Digits on the linear schedule: against the same method without statistics, and its peers, each as published."""
    path = LinearNoiseScheduler(NoiseSchedulerConfig())
    model = DigitsModel(path, bandwidth=0.15)
    statistics = measured(model, 32, (1, 8, 8), levels=32)
    x = torch.randn(32, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = model.reference_solution(x)
    for count in (5, 10):  # model calls
        grid = make_grid(path.spaced(spacing, {}), count)

        def error(name, grid=grid, **options):
            plan = SamplerFactory.create(name, path, guarded=False, **options).plan(grid=grid)
            assert plan.nfe == grid.steps
            return final_error(run_plan(plan, model, x * plan.prior_scale), exact)

        ours = error("dpm_v3", statistics=statistics)
        assert ours < {5: 0.7, 10: 1.0}[count] * min(error("dpmpp_3m"), error("unipc")), count


def test_giant_steps_do_no_harm():
    """From σ = 80 to 0.002 in one or two steps f fades by e^(−8): a corrector would blow up the error at the end."""
    path = EDMPath()
    model = DigitsModel(path, prediction_type=path.config.prediction_type, bandwidth=0.15)
    statistics = measured(model, 16, (1, 8, 8), levels=32)
    x = 80.0 * torch.randn(8, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = model.reference_solution(x)
    for count in (2, 3):
        ours = SamplerFactory.create("dpm_v3", path, statistics=statistics).plan(count)
        known = SamplerFactory.create("ddim", path).plan(count)
        assert ours.amplification < 10.0
        assert final_error(run_plan(ours, model, x), exact) < 1.1 * final_error(run_plan(known, model, x), exact)


def test_round_trips(tmp_path):
    statistics = of_problem("vp", "mixture")
    file = tmp_path / "ems.safetensors"
    statistics.save(file)
    assert ModelStatistics.load(file) == statistics
    with pytest.raises(ValueError, match="read-only"):
        statistics.l[0] = 0.0
    pipelines = [DiffusionPipeline(VPPath(), "dpm_v3", statistics=given) for given in (statistics, str(file))]
    plans = [pipeline.plan(6) for pipeline in pipelines]
    assert np.array_equal(plans[0].b, plans[1].b)
    assert not np.array_equal(plans[0].b, DiffusionPipeline(VPPath(), "dpm_v3").plan(6).b)
    assert plans[0].options["statistics"] == statistics.fingerprint
    assert plans[1].options["statistics"] == str(file)
    for plan, name in itertools.product(plans, ("plan.json", "plan.safetensors")):
        plan.save(tmp_path / name)
        assert SamplingPlan.load(tmp_path / name) == plan


def test_what_cannot_be(tmp_path):
    pipeline = DiffusionPipeline(VPPath(), "ddim")
    for options in ({}, {"shape": (2, 4), "data": torch.zeros(2, 4)}, {"shape": (2, 4), "levels": 3}):
        with pytest.raises(ConfigurationError):
            ModelStatistics.measure(pipeline, GaussianModel(VPPath()), **options)
    for wrong in (3, b"ems.safetensors", True, {"l": [1.0]}, np.ones(3)):
        with pytest.raises(
            ConfigurationError, match="give a value of type ModelStatistics or str or PathLike, or None"
        ):
            DiffusionPipeline(VPPath(), "dpm_v3", statistics=wrong)
    with pytest.raises(ConfigurationError, match="path of a file"):
        ModelStatistics.of(3)
    with pytest.raises(ConfigurationError):
        ModelStatistics(np.array([0.0, 0.0]), np.ones(2), np.ones(2))
    with pytest.raises(ConfigurationError):
        ModelStatistics.neutral("v_prediction")
    with pytest.raises(FileError):
        DiffusionPipeline(VPPath(), "dpm_v3", statistics=str(tmp_path / "none.safetensors"))
    with pytest.raises(FileError):
        DiffusionPipeline(VPPath(), "dpm_v3", statistics=tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(FileError, match="does not hold model statistics"):
        ModelStatistics.load(tmp_path / "bad.safetensors")
    with pytest.raises(FileError, match="safetensors"):
        ModelStatistics.neutral().save(tmp_path / "ems.json")
