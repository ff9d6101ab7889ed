"""Plans designed without model calls: Zolotarev's limit, tables as plans, and errors through the real loop."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import scipy.special
import torch

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    EDMPath,
    FlowPath,
    LinearNoiseScheduler,
    NoisePath,
    NoiseSchedulerConfig,
    SamplingPlan,
    VDiffusionPath,
    VEPath,
)
from noise_scheduler_sampling_system.calibration import LevelRange, Spectrum, Table, design_plan, design_table
from noise_scheduler_sampling_system.calibration.design import limit, optimal_levels
from noise_scheduler_sampling_system.calibration.design.zolotarev import best_root, elliptic_k, jacobi
from noise_scheduler_sampling_system.models import DigitsModel, GaussianModel
from noise_scheduler_sampling_system.models.digits import load_digits

IMAGES = Spectrum.power_law()
EDM = EDMPath()


def run(plan: SamplingPlan, path: NoisePath, variances: torch.Tensor, mean: float = 0.0) -> tuple[float, float]:
    """(worst relative error of a direction, rms error relative to the data), from x_T of ones, by the real loop."""
    model = GaussianModel(path, torch.full_like(variances, mean), variances, path.config.prediction_type)
    start = path.level(path.t_max)
    noise = torch.ones(1, len(variances), dtype=torch.float64)
    calls = 0

    def counted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return model(x, t)

    result = DiffusionPipeline(path).sample(counted, initial_noise=noise, plan=plan, dtype=torch.float64)
    assert calls == plan.nfe
    scale = math.hypot(start.alpha, start.sigma)
    if mean == 0.0:
        exact = noise * scale * (variances / (start.alpha**2 * variances + start.sigma**2)).sqrt()
    else:
        exact = model.reference_solution(noise * scale)
    errors = (result - exact)[0] / (exact[0].abs() if mean == 0.0 else variances.sqrt())
    return float(errors.abs().max()), float(((errors**2 * variances).sum() / variances.sum()).sqrt())


@functools.cache
def measured(nfe: int, criterion: str, mean_safe: bool) -> tuple[float, float]:
    plan = design_plan(IMAGES, nfe, EDM, criterion=criterion, mean_safe=mean_safe)
    return run(plan, EDM, torch.from_numpy(np.array(IMAGES.eigenvalues)))


# Zolotarev's functions


@pytest.mark.parametrize("complement", [1.0, 0.9, 0.3, 1e-3])
def test_elliptic_functions_are_scipys(complement: float) -> None:
    quarter = elliptic_k(complement)
    assert quarter == pytest.approx(scipy.special.ellipkm1(complement**2), rel=1e-14)
    u = np.linspace(-quarter, 2 * quarter, 31)
    expected = scipy.special.ellipj(u, 1.0 - complement**2)
    for mine, theirs in zip(jacobi(u, complement), expected, strict=False):
        np.testing.assert_allclose(mine, theirs, atol=1e-8)


@pytest.mark.parametrize("degree", [1, 3, 5, 8])
@pytest.mark.parametrize("low", [1e-7, 1e-5, 1e-3])
def test_the_best_root_alternates(degree: int, low: float) -> None:
    # 2N + 2 extrema of alternating signs and one size: no other rational function of this type is better
    best = best_root(low, 1.0, degree)
    z = np.geomspace(low, 1.0, 20001)
    error = best(z) / np.sqrt(z) - 1.0
    assert np.abs(error).max() == pytest.approx(best.error, rel=1e-5)
    peaks = [0, *(1 + np.flatnonzero(np.diff(np.sign(np.diff(error))))), len(z) - 1]
    assert len(peaks) == 2 * degree + 2
    signs = np.sign(error[peaks])
    assert (signs[1:] == -signs[:-1]).all()
    np.testing.assert_allclose(np.abs(error[peaks]), best.error, rtol=1e-4)


def test_no_linear_program_beats_the_best_root() -> None:
    # minimax over all tables with these levels, by scipy: r(l) = a + Σ b_j/(l + τ_j²)
    levels = np.array(optimal_levels(1e-3, 200.0, 4, EDM))
    variances = np.geomspace(1e-3, 200.0, 400)
    exact = np.sqrt(variances / (variances + 80.0**2))
    columns = np.stack([np.ones_like(variances), *(t**2 / (variances + t**2) for t in levels)], axis=1) / exact[:, None]
    columns /= np.abs(columns).max(axis=0)
    bound = -np.ones((len(variances), 1))
    solved = scipy.optimize.linprog(
        [0.0] * 5 + [1.0],
        A_ub=np.block([[columns, bound], [-columns, bound]]),
        b_ub=np.concatenate([np.ones(400), -np.ones(400)]),
        bounds=[(None, None)] * 5 + [(0.0, None)],
    )
    assert solved.fun == pytest.approx(limit([1e-3, 200.0], 4, EDM), rel=2e-3)


def test_limits_and_levels_of_the_image_spectrum() -> None:
    expected = {3: 3.93e-2, 4: 1.05e-2, 5: 2.80e-3, 6: 7.49e-4, 8: 5.34e-5, 10: 3.80e-6}
    for nfe, error in expected.items():
        assert limit([1e-3, 200.0], nfe, EDM) == pytest.approx(error, rel=3e-3)
        asymptotic = 4 * math.exp(-(2 * nfe + 1) * math.pi**2 / math.log(16 * (200 / 6600) / (1e-3 / 6400)))
        assert limit([1e-3, 200.0], nfe, EDM) == pytest.approx(asymptotic, rel=1e-3)
    np.testing.assert_allclose(optimal_levels(1e-3, 200.0, 5, EDM), [18.486, 3.686, 0.933, 0.238, 0.057], rtol=2e-2)
    assert best_root(1e-3 / 6400.001, 1.0, 5).error == pytest.approx(1.11e-2, rel=2e-3)


# designs on Gaussian data, through the real loop


@pytest.mark.parametrize("nfe", [3, 4, 5, 6, 7, 8])
def test_a_design_reaches_the_limit(nfe: int) -> None:
    least = limit(IMAGES, nfe, EDM)
    assert 0.999 * least < measured(nfe, "max", False)[0] < 1.05 * least


def test_the_mean_safe_design_is_near_it() -> None:
    assert measured(5, "max", True)[0] < 1.2e-2
    assert measured(5, "max", True)[0] < 4 * limit(IMAGES, 5, EDM)
    assert measured(8, "max", True)[0] < 4 * limit(IMAGES, 8, EDM)


@pytest.mark.parametrize(("nfe", "error"), [(5, 1e-3), (6, 2.5e-4), (8, 1.2e-5)])
def test_the_rms_design(nfe: int, error: float) -> None:
    assert measured(nfe, "rms", False)[1] < error


def test_what_is_expected_is_measured() -> None:
    made = design_table(IMAGES, 5, EDM)
    worst, _ = measured(5, "max", True)
    assert made.worst == pytest.approx(worst, rel=1e-6)
    told = made.table.plan(provenance=made.provenance).provenance
    assert told["expected_worst"] == made.worst
    assert told["limit_worst"] == limit(IMAGES, 5, EDM)
    assert 1.0 <= told["gain"] <= 20.0


def test_classic_samplers_are_far_from_the_limit() -> None:
    variances = torch.from_numpy(np.array(IMAGES.compressed().eigenvalues))
    errors = []
    for name in ("ipndm", "dpmpp_2m", "dpmpp_3m", "unipc", "deis"):
        for spacing in ("karras", "log_snr", "kl_optimal", "ays"):
            config = EDM.config.replace(timestep_spacing=spacing)
            path = EDM.with_config(config)
            errors.append(run(DiffusionPipeline(path, name).plan(5), path, variances)[0])
    assert min(errors) > 30 * limit(IMAGES, 5, EDM)


@pytest.mark.parametrize("path", [LinearNoiseScheduler(), VDiffusionPath(), FlowPath(), VEPath()], ids=repr)
@pytest.mark.parametrize("first", ["free", "noisiest"])
def test_designs_on_other_paths(path: NoisePath, first: str) -> None:
    variances = np.geomspace(2e-3, 3.0, 40)
    plan = design_plan(variances, 6, path, first=first)
    worst, rms = run(plan, path, torch.from_numpy(variances))
    assert worst < (6 if first == "free" else 8) * limit(variances, 6, path)
    assert rms < worst
    assert (plan.nfe, plan.steps) == (6, 6)
    assert plan.time[0] == path.t_max
    assert path.t_min <= plan.time.min()


@pytest.mark.parametrize("path", [EDM, LinearNoiseScheduler(), FlowPath()], ids=repr)
@pytest.mark.parametrize("nfe", [1, 2, 5, 20])
def test_one_variance_is_exact(path: NoisePath, nfe: int) -> None:
    assert (
        run(design_plan([0.3], nfe, path), path, torch.tensor([0.3], dtype=torch.float64))[0] < 1e-7
    )  # the model is told the time in float32
    assert run(design_plan(np.full(7, 2.0), nfe, path), path, torch.full((7,), 2.0, dtype=torch.float64))[0] < 1e-7


@pytest.mark.parametrize("criterion", ["max", "rms"])
def test_nothing_is_left_in_directions_without_variance(criterion: str) -> None:
    variances = torch.tensor([0.0, 0.0, 0.05, 1.0], dtype=torch.float64)
    path = LinearNoiseScheduler()
    model = GaussianModel(path, torch.zeros(4), variances)
    plan = design_plan(variances, 6, path, criterion=criterion)
    noise = torch.ones(1, 4, dtype=torch.float64)
    result = DiffusionPipeline(path).sample(model, initial_noise=noise, plan=plan, dtype=torch.float64)
    assert result[0, :2].abs().max() < 0.02
    torch.testing.assert_close(result[0, 2:], variances[2:].sqrt(), rtol=0.05, atol=0.0)


def test_twenty_calls_stay_small() -> None:
    made = design_table(IMAGES, 20, EDM)
    assert made.table.gain <= 20.0
    assert run(made.table.plan(), EDM, torch.from_numpy(np.array(IMAGES.compressed().eigenvalues)))[0] < 1e-2


def test_mean_safe_rows_reproduce_constants() -> None:
    constant = torch.tensor([[0.7, -2.0]], dtype=torch.float64)
    path = LinearNoiseScheduler()
    level = path.level(path.t_max)
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="sample"))
    for mean_safe, small in ((True, 1e-12), (False, math.inf)):
        made = design_table(IMAGES, 5, path, mean_safe=mean_safe)
        start = level.alpha * constant
        result = pipeline.sample(
            lambda x, t: constant, initial_sample=start, plan=made.table.plan(), dtype=torch.float64
        )
        assert float((result - constant).abs().max()) < small
        assert made.table.is_consistent is mean_safe
    assert float((result - constant).abs().max()) > 0.1


def test_from_the_noisiest_level_a_mean_comes_through() -> None:
    # every row carries constants then, so that the error is that of centred data times the distance to the mean
    variances = torch.tensor([0.01, 0.3, 2.0], dtype=torch.float64)
    plan = design_plan(variances, 8, EDM, first="noisiest")
    assert run(plan, EDM, variances, mean=3.0)[0] < 3 * run(plan, EDM, variances)[0]


def test_digits_in_five_calls() -> None:
    config = NoiseSchedulerConfig()
    path = LinearNoiseScheduler(config)
    model = DigitsModel(path, bandwidth=0.25)
    noise = torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    fine = DiffusionPipeline(config.replace(timestep_spacing="log_snr"), "dpmpp_3m")
    exact = fine.sample(model, initial_noise=noise, num_inference_steps=100, dtype=torch.float64)

    def error(pipeline: DiffusionPipeline, plan: SamplingPlan) -> tuple[float, float]:
        sample = pipeline.sample(model, initial_noise=noise, plan=plan, dtype=torch.float64)
        squares = (sample - exact).square().flatten(1).mean(1)
        return float(squares.mean().sqrt()), float(squares.sqrt().median())

    spectrum = Spectrum.of(load_digits()[0])
    smoothed = Spectrum(spectrum.eigenvalues + 0.25**2, spectrum.counts)
    designed = error(DiffusionPipeline(config), design_plan(smoothed, 5, path))
    classics = []
    for name, spacing in (("dpmpp_3m", "ays"), ("deis", "ays"), ("unipc", "ays"), ("adams", "kl_optimal")):
        pipeline = DiffusionPipeline(config.replace(timestep_spacing=spacing), name)
        classics.append(error(pipeline, pipeline.plan(5)))
    assert designed[0] < 0.75 * min(rms for rms, _ in classics)
    assert designed[1] < 0.25 * min(median for _, median in classics)


# tables


@pytest.mark.parametrize("path", [EDM, LinearNoiseScheduler(), FlowPath()], ids=repr)
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "ipndm", "unipc", "heun", "pndm", "adams", "exponential_rk"])
def test_any_plan_is_a_table_and_back(path: NoisePath, name: str) -> None:
    pipeline = DiffusionPipeline(path, name)
    plan = pipeline.plan(4)
    table = Table.of_plan(plan)
    assert table.is_consistent
    variances = torch.tensor([0.02, 0.5, 1.3], dtype=torch.float64)
    model = GaussianModel(path, torch.tensor([0.3, -1.0, 0.5]), variances, path.config.prediction_type)
    noise = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = pipeline.sample(model, initial_noise=noise, plan=plan, dtype=torch.float64)
    for again in (
        table.plan(),
        Table.of_plan(table.plan()).plan(start="query"),
        table.with_weights(table.weights).plan(),
    ):
        result = pipeline.sample(model, initial_noise=noise, plan=again, dtype=torch.float64)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
        assert again.nfe == plan.nfe


def test_a_plan_with_an_analytic_first_step_needs_its_start() -> None:
    pipeline = DiffusionPipeline(EDM, "dpmpp_2m", afs=True)
    plan = pipeline.plan(5)
    with pytest.raises(ConfigurationError, match="analytic first step"):
        Table.of_plan(plan)
    table = Table.of_plan(plan, start=pipeline.grid(5).levels[0])
    assert table.nfe == 4
    assert table.moves_first
    model = GaussianModel(EDM, torch.zeros(2), torch.tensor([0.1, 1.0]), EDM.config.prediction_type)
    noise = torch.ones(1, 2, dtype=torch.float64)
    torch.testing.assert_close(
        pipeline.sample(model, initial_noise=noise, plan=table.plan(), dtype=torch.float64),
        pipeline.sample(model, initial_noise=noise, plan=plan, dtype=torch.float64),
    )


def test_both_starts_run_alike_from_noise() -> None:
    made = design_table(IMAGES, 4, EDM)
    leading, folded = made.table.plan(), made.table.plan(start="query")
    assert (len(leading), len(folded)) == (5, 4)
    assert folded.prior_scale < leading.prior_scale == pytest.approx(math.hypot(1.0, 80.0))
    variances = torch.tensor([0.01, 1.0, 30.0], dtype=torch.float64)
    assert run(leading, EDM, variances) == pytest.approx(run(folded, EDM, variances), rel=1e-9)


@pytest.mark.parametrize("history", [0, 1, 2])
def test_limited_history_is_limited(history: int) -> None:
    made = design_table(IMAGES, 6, EDM, history=history)
    plan = made.table.plan()
    assert plan.b.shape[1] <= history + 1
    assert plan.history <= history
    free = design_table(IMAGES, 6, EDM)
    assert free.worst < made.worst < 1.0
    limited = free.table.limited(history)
    assert limited.plan().b.shape[1] <= history + 1
    assert limited.is_consistent


def test_weights_move_to_other_levels() -> None:
    path = LinearNoiseScheduler(timestep_spacing="leading")
    table = Table.of_plan(DiffusionPipeline(path, "dpmpp_2m").plan(5))
    span = LevelRange(path, first_fixed=True)
    shifted = span.levels(span.vector(table.levels) + 0.2)
    moved = table.with_levels(shifted)
    assert moved.is_consistent
    assert moved.levels == shifted
    assert moved.moves_first > table.moves_first  # the plan began below the noisiest level
    np.testing.assert_allclose(moved.weights, [1.0, *table.weights], atol=1e-9)
    moved.plan().checked()


@pytest.mark.parametrize("path", [EDM, LinearNoiseScheduler(), FlowPath(), VDiffusionPath()], ids=repr)
@pytest.mark.parametrize("fixed", [False, True])
def test_any_vector_is_a_falling_grid(path: NoisePath, fixed: bool) -> None:
    span = LevelRange(path, first_fixed=fixed)
    draw = np.random.default_rng(0)
    for _ in range(20):
        vector = draw.normal(size=5 - fixed) * 2.0
        levels = span.levels(vector)
        noise = [level.noise_to_signal for level in levels]
        assert len(levels) == 5
        assert all(a > b for a, b in itertools.pairwise(noise))
        assert noise[-1] >= path.level(path.t_min).noise_to_signal * (1 - 1e-9)
        np.testing.assert_allclose(span.vector(levels), vector, atol=1e-6)
        for level in levels:
            np.testing.assert_allclose(path.level(level.t)[1:], level[1:], rtol=1e-6)


def test_tables_that_make_no_sense_are_refused() -> None:
    level = EDM.level(80.0)
    good = np.tril(np.ones((2, 2)))
    for rows in (np.ones((2, 2)), np.ones((3, 3)), good * math.nan):
        with pytest.raises(ConfigurationError, match="rows"):
            Table(level, (level,), rows)
    with pytest.raises(ConfigurationError, match="history"):
        Table(level, (level,), good, history=-1)
    with pytest.raises(ConfigurationError, match="start"):
        Table(level, (level,), good).plan(start="end")
    with pytest.raises(ConfigurationError, match="noise"):
        Table.of_plan(DiffusionPipeline(EDM, "ancestral").plan(4))
    with pytest.raises(ConfigurationError, match="rise"):
        LevelRange(EDM).vector([EDM.level(1.0), EDM.level(2.0)])


# spectra


def test_the_spectrum_of_samples() -> None:
    draw = np.random.default_rng(0)
    variances = np.array([4.0, 1.0, 0.25])
    data = draw.normal(size=(4000, 3)) * np.sqrt(variances) + 5.0
    np.testing.assert_allclose(np.sort(Spectrum.of(data).eigenvalues)[::-1], variances, rtol=0.1)
    few = torch.from_numpy(draw.normal(size=(6, 1, 5, 5)))
    spectrum = Spectrum.of(few)
    assert spectrum.directions == 25
    expected = np.linalg.eigvalsh(np.cov(few.reshape(6, -1).numpy().T))
    np.testing.assert_allclose(spectrum.power, expected.sum(), rtol=1e-12)
    np.testing.assert_allclose(np.sort(spectrum.eigenvalues)[-5:], expected[-5:], rtol=1e-10)


def test_a_compressed_spectrum_keeps_its_variance() -> None:
    with_zeros = Spectrum(np.append(IMAGES.eigenvalues, np.zeros(100)))
    small = with_zeros.compressed()
    assert len(small.eigenvalues) <= 257
    assert small.power == pytest.approx(with_zeros.power, rel=1e-12)
    assert small.directions == 3172
    assert small.eigenvalues.min() == 0.0


@pytest.mark.parametrize(
    "spectrum", [[], [0.0, 0.0], [-1.0, 2.0], [math.nan], [[1.0, 2.0]], "images", [math.inf]], ids=str
)
def test_bad_spectra_are_refused(spectrum: object) -> None:
    with pytest.raises(ConfigurationError, match="spectrum"):
        design_plan(spectrum, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [np.zeros((5, 3)), np.ones(4), np.full((3, 2), math.nan), np.ones((1, 4))], ids=str)
def test_data_without_a_spectrum_is_refused(data: np.ndarray) -> None:
    with pytest.raises(ConfigurationError):
        Spectrum.of(data)


def test_bad_arguments_are_refused() -> None:
    for keywords, where in (
        ({"nfe": 0}, "nfe"),
        ({"criterion": "l1"}, "criterion"),
        ({"first": "last"}, "first"),
        ({"max_gain": 0.5}, "max_gain"),
        ({"path": "edm"}, "path"),
        ({"history": -1}, "history"),
    ):
        with pytest.raises(ConfigurationError, match=where):
            design_plan(IMAGES, **{"nfe": 3, **keywords})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="power_law"):
        Spectrum.power_law(0)
    plan = design_plan(nfe=3)
    with pytest.raises(ConfigurationError, match="another noise schedule"):
        DiffusionPipeline(FlowPath()).sample(plan=plan, shape=(1, 1, 8, 8))


def test_a_designed_plan_is_saved_and_found_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    plan = design_plan(IMAGES, 4, EDM)
    plan.save(tmp_path / "plan.json")
    assert SamplingPlan.load(tmp_path / "plan.json") == plan == design_plan(IMAGES, 4, EDM)
