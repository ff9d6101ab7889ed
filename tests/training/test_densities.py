"""Densities of noise levels: exact on every path, against integration, histograms and the published formulas."""

from __future__ import annotations

import functools
import inspect
import math

import numpy as np
import pytest
import torch
from scipy import stats

from noise_scheduler_sampling_system import ConfigurationError, NoiseSchedulerFactory
from noise_scheduler_sampling_system.config import DENSITIES
from noise_scheduler_sampling_system.schedules import (
    CosinePath,
    EDMPath,
    FlowPath,
    ShiftedSNR,
    SubVPPath,
    VDiffusionPath,
    VEPath,
    VPPath,
)
from noise_scheduler_sampling_system.training import (
    CosMap,
    Importance,
    LogLogistic,
    LogNormal,
    LogUniform,
    Mode,
    TrainingObjective,
    Uniform,
)

_UNEVEN = Importance(base=LogNormal(), bins=4, moments=(1.0, 9.0, 4.0, 0.25))
ALL = {
    "uniform": Uniform(), "log_normal": LogNormal(mean=-0.4, std=1.2), "log_logistic": LogLogistic(mean=0.3, scale=0.5),
    "mode": Mode(scale=1.29), "mode_ends": Mode(scale=-0.8), "cosmap": CosMap(), "uneven": _UNEVEN,
    "log_uniform": LogUniform(log_snr_min=-6.0, log_snr_max=7.0), "shifted": LogNormal(shift=3.0),
    "shifted_uniform": Uniform(shift=2.0),
}  # fmt: skip
CONTINUOUS = {
    "flow": FlowPath(), "flow3": FlowPath(shift=3.0), "vp": VPPath(), "sub_vp": SubVPPath(), "edm": EDMPath(),
    "ve": VEPath(), "v": VDiffusionPath(), "cosine": CosinePath(), "shifted": ShiftedSNR(VPPath(), 2.0),
}  # fmt: skip
U = torch.from_numpy(np.random.default_rng(0).random(20_000))


@functools.cache
def on(density: str, path: str):
    return ALL[density].on(CONTINUOUS[path])


@pytest.mark.parametrize("path", CONTINUOUS)
@pytest.mark.parametrize("density", ALL)
def test_the_log_density_is_the_slope_of_the_distribution_of_the_draws(density, path):
    levels = on(density, path)
    u = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    h = 1e-6
    # the inverse of a distribution function has the slope 1/density
    slope = (levels.times(u + h) - levels.times(u - h)) / (2 * h)
    edges = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)  # of the bins of "uneven"
    at_edge = (levels.density.cdf(levels.axis.place(levels.times(u)), levels.axis) - u).abs().max()
    assert at_edge < 1e-11
    smooth = torch.ones_like(u, dtype=torch.bool)
    if density == "uneven":
        inner = levels.density._ends_of_bins
        smooth = ((u[:, None] - inner).abs() > 1e-3).all(1)
        assert len(edges) == 3
    torch.testing.assert_close(levels.log_density(levels.times(u))[smooth], -slope.log()[smooth], rtol=0, atol=2e-6)


@pytest.mark.parametrize("path", ["flow3", "vp", "edm"])
@pytest.mark.parametrize("density", ALL)
def test_the_density_integrates_to_one_and_the_draws_have_it(density, path):
    levels = on(density, path)
    times = levels.times(U)
    # Gauss-Legendre between quantiles, where the density is smooth
    ends = levels.times(torch.linspace(1e-7, 1 - 1e-7, 401, dtype=torch.float64))
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(4))
    half = ends.diff()[:, None] / 2
    inside = (ends[:-1, None] + half * (nodes + 1.0)).clamp(levels.path.t_min, levels.path.t_max)
    values = levels.log_density(inside.flatten()).exp().reshape(inside.shape)
    cumulated = torch.cat([torch.zeros(1), (values * weights * half).sum(1).cumsum(0)])
    assert cumulated[-1] == pytest.approx(1.0, abs=1e-3)

    def distribution(t):
        return np.interp(t, ends.numpy(), cumulated.numpy())

    assert stats.kstest(times.numpy(), distribution).pvalue > 1e-3


def test_the_same_law_under_the_names_of_two_communities():
    """Logit-normal σ on the straight path is lognormal σ/α; a uniform σ is log-logistic; CosMap is the cosine path."""
    u = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    flow, angle = FlowPath(sigma_min=1e-8, time_scale=1.0), VDiffusionPath(t_min=1e-8)
    drawn = torch.sigmoid(torch.distributions.Normal(0.5, 0.8).icdf(u))
    torch.testing.assert_close(LogNormal(mean=0.5, std=0.8).on(flow).times(u), drawn, rtol=1e-7, atol=0)
    torch.testing.assert_close(LogLogistic().on(flow).times(u), u, rtol=2e-6, atol=0)
    torch.testing.assert_close(CosMap().on(angle).times(u), u, rtol=2e-6, atol=0)
    torch.testing.assert_close(Mode(scale=0.0).on(flow).times(u), u, rtol=2e-6, atol=0)


def test_the_published_densities_of_sd3():
    """The formulas of arXiv 2403.03206, on the straight path."""
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    path = FlowPath(sigma_min=1e-8, time_scale=1.0)
    logit_normal = torch.exp(-(torch.logit(t) ** 2) / 2) / (math.sqrt(2 * math.pi) * t * (1 - t))
    torch.testing.assert_close(LogNormal().on(path).log_density(t).exp(), logit_normal, rtol=1e-9, atol=0)
    cosmap = 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2)
    torch.testing.assert_close(CosMap().on(path).log_density(t).exp(), cosmap, rtol=1e-6, atol=0)
    u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    mode = 1 - u - 1.29 * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    torch.testing.assert_close(Mode().on(path).times(1 - u), mode, rtol=2e-6, atol=0)


def test_the_shift_of_the_path_is_the_default_and_is_not_applied_twice():
    u = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    plain, shifted = FlowPath(), FlowPath(shift=3.0)
    for density in (Uniform, LogNormal, Mode, CosMap):
        default, given = density().on(shifted).times(u), density(shift=3.0).on(plain).times(u)
        torch.testing.assert_close(default, given)
        torch.testing.assert_close(density(shift=3.0).on(shifted).times(u), given)
        torch.testing.assert_close(density(shift=1.0).on(shifted).times(u), density().on(plain).times(u))
    sigma = Uniform().on(plain).times((u - 0.001) / 0.999) / 1000
    expected = 3.0 * sigma / (1 + 2.0 * sigma)
    ends = Uniform(shift=3.0).on(plain)
    torch.testing.assert_close(ends.times((u - 0.001) / 0.999) / 1000, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("zero", [False, True])
def test_whole_timesteps_have_the_probability_of_their_bin(zero):
    path = NoiseSchedulerFactory.create(
        "scaled_linear", num_train_timesteps=50, rescale_betas_zero_snr=zero, prediction_type="v_prediction"
    )
    even = Uniform().on(path)
    torch.testing.assert_close(even.probabilities, torch.full((50,), 0.02, dtype=torch.float64), rtol=1e-12, atol=0)
    for density in ALL.values():
        levels = density.on(path)
        times = levels.times(U)
        assert set(times.tolist()) <= set(map(float, range(50)))
        p = levels.probabilities
        assert float(p.sum()) == pytest.approx(1.0, abs=1e-12)
        counts, expected = np.bincount(times.long().numpy(), minlength=50), p.numpy() * len(U)
        often = expected > 5
        assert stats.chisquare(
            [*counts[often], counts[~often].sum() + 1e-9], [*expected[often], expected[~often].sum() + 1e-9],
            sum_check=False,
        ).pvalue > 1e-3  # fmt: skip
        log = levels.log_density(times)
        torch.testing.assert_close(log.exp(), p[times.long()])


def test_a_density_per_log_snr_is_that_of_the_time_times_its_slope():
    levels = on("log_normal", "vp")
    t = levels.times(torch.linspace(0.1, 0.9, 9, dtype=torch.float64))
    log_snr = levels.path.log_snr(t)
    # dt/dλ by a central difference
    slope = (levels.path.time(log_snr - 1e-5) - levels.path.time(log_snr + 1e-5)) / 2e-5
    torch.testing.assert_close(
        levels.log_density_of_log_snr(log_snr), levels.log_density(t) + slope.log(), rtol=0, atol=1e-6
    )


def test_importance_learns_the_optimal_density_of_a_loss():
    """For a loss c_k in bin k the shares become proportional to c_k, apart from the floor."""
    path, losses = VPPath(), torch.tensor([1.0, 4.0, 2.0, 3.0])
    objective = TrainingObjective(path, density=Importance(bins=4, floor=0.2))
    density = objective.density
    for step in range(3):
        y = objective.levels.axis.place(objective.draw(64, seed=0, step=step))
        bins = (Uniform().cdf(y, objective.levels.axis) * 4).long().clamp(0, 3)
        density = density.observed(y, losses[bins], objective.levels.axis)
    torch.testing.assert_close(density.shares, (0.05 + 0.8 * losses / 10).double())
    ratio = density.on(path).log_ratio(Uniform().on(path), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64))
    torch.testing.assert_close(ratio.exp(), density.shares * 4)


def test_importance_is_its_base_until_every_bin_has_a_loss():
    path = FlowPath()
    density = Importance(bins=2).observed(torch.tensor([-3.0]), torch.tensor([5.0]), Uniform().on(path).axis)
    assert density.moments == (25.0, -1.0)
    torch.testing.assert_close(density.on(path).times(U[:50]), Uniform().on(path).times(U[:50]))


def test_losses_that_are_not_finite_do_not_count_for_importance():
    """A step that overflows, as with scaled losses in half precision, must not spoil the density for good."""
    axis = Uniform().on(FlowPath()).axis
    y, losses = torch.tensor([-3.0, -3.0, 3.0]), torch.tensor([5.0, torch.inf, torch.nan])
    density = Importance(bins=2).observed(y, losses, axis)
    assert density.moments == (25.0, -1.0)
    assert density.observed(y[2:], torch.tensor([2.0]), axis).shares.tolist() == pytest.approx(
        [0.05 + 0.9 * 5 / 7, 0.05 + 0.9 * 2 / 7]
    )


@pytest.mark.parametrize(("make", "where"), [
    (lambda: LogNormal(std=0.0), "LogNormal.std"),
    (lambda: Mode(scale=1.8), "Mode.scale"),
    (lambda: Uniform(shift=-1.0), "Uniform.shift"),
    (lambda: Importance(bins=3, moments=(1.0,)), "density"),
    (lambda: LogUniform().on(FlowPath()), "density.log_snr_min"),
    (lambda: LogNormal(mean=90.0, std=0.01).on(VPPath()), "density"),
    (lambda: Uniform().on("flow"), "path"),
    (lambda: TrainingObjective(FlowPath(), density="logitnormal"), ""),
    (lambda: TrainingObjective(FlowPath(), density="logit_normall"), "density"),
    (lambda: TrainingObjective(FlowPath(), density={"name": "mode", "scal": 1.0}), "density.scal"),
    (lambda: TrainingObjective(FlowPath(), density=3), "density"),
])  # fmt: skip
def test_what_cannot_be_is_refused(make, where):
    if not where:  # another spelling of a name
        assert make().density == LogNormal()
        return
    with pytest.raises(ConfigurationError) as error:
        make()
    assert error.value.where == where


def test_each_density_is_short_and_has_a_name():
    assert {"uniform", "log_normal", "mode", "cosmap", "log_logistic", "log_uniform", "importance"} <= set(DENSITIES)
    for entry in set(DENSITIES.entries.values()) - {Importance}:
        source = inspect.getsource(entry).replace(inspect.getdoc(entry) or "", "")
        lines = [line for line in source.split('"""')[-1].splitlines() if line.strip()]
        assert len(lines) <= 25, entry
