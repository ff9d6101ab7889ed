"""Grids: every spacing on every kind of path, against the published formulas and other libraries' tables."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    EDMPath,
    FlowPath,
    NoisePath,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    ShiftedSNR,
    TimeGrid,
    VPPath,
    ZeroTerminalSNR,
    make_grid,
    models,
    start_at,
)
from noise_scheduler_sampling_system.config.registries import SPACINGS
from noise_scheduler_sampling_system.grids.beta_distribution import beta_quantiles
from noise_scheduler_sampling_system.grids.spacings import AYS_SIGMAS
from noise_scheduler_sampling_system.schedules import CLEAN, Level
from places import ROOT

OWN = [n for n in SPACINGS if SPACINGS.get(n).__module__.startswith("noise_scheduler_sampling_system.grids.")]
BY_TIMESTEP = ("leading", "leading_dpm", "trailing", "linspace", "sgm_uniform", "beta", "beta57")
V = {"prediction_type": "v_prediction"}
SD = NoiseSchedulerFactory.create(NoiseSchedulerConfig.preset("sd15"))
PATHS: dict[str, NoisePath] = {
    "linear": NoiseSchedulerFactory.create("linear"),
    "cosine": NoiseSchedulerFactory.create("cosine"),
    "sd": SD,
    "zero SNR": NoiseSchedulerFactory.create("scaled_linear", rescale_betas_zero_snr=True, **V),
    "short": NoiseSchedulerFactory.create("linear", num_train_timesteps=40, beta_end=0.5),
    "vp": VPPath(),
    "zero SNR vp": ZeroTerminalSNR(VPPath(**V)),
    "sub_vp": NoiseSchedulerFactory.create("sub_vp"),
    "v_diffusion": NoiseSchedulerFactory.create("v_diffusion"),
    "ve": NoiseSchedulerFactory.create("ve"),
    "edm": EDMPath(),
    "flow": FlowPath(),
    "flow, shift": FlowPath(shift=3.0),
    "shifted flow": ShiftedSNR(FlowPath(), 2.0),
    "wuerstchen": NoiseSchedulerFactory.create("wuerstchen"),
}


def on(path: NoisePath, spacing: str, **options: Any) -> NoisePath:
    changes: dict[str, Any] = {"timestep_spacing": spacing, "spacing_options": options}
    return path.with_config(path.config.replace(**changes, **({"steps_offset": 0} if path.discrete else {})))


def grid(path: NoisePath, spacing: str, steps: int, start: float | Level | None = None, **options: Any) -> TimeGrid:
    return make_grid(on(path, spacing, **options), steps, start=start)


def sigmas(path: NoisePath, made: TimeGrid) -> np.ndarray:
    return np.array([path.field_sigma(level) for level in made.levels[:-1]])


def ratios(made: TimeGrid) -> np.ndarray:
    return np.array([level.noise_to_signal for level in made.levels])


# ------------------------------------------------------------------------------- every spacing, every path


@pytest.mark.parametrize("spacing", OWN)
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 37, 400])
def test_n_steps_are_n_intervals_from_noise_to_data(name, spacing, steps):
    """Monotone, inside the path, to the clean sample; α, σ and t of a level belong together. Or refused, and why."""
    path = PATHS[name]
    try:
        made = grid(path, spacing, steps)
    except ConfigurationError as error:
        too_many = path.discrete and steps > path.num_train_timesteps and spacing in BY_TIMESTEP
        too_clean = spacing in ("leading", "leading_dpm") and "signal outweighs noise" in error.what
        if not (too_many or too_clean):
            raise
        return
    assert made.steps == steps
    assert made.levels[-1] is CLEAN
    assert (np.diff(ratios(made)) < 0).all()
    again = path.levels(made.times)
    got = np.array([level[1:] for level in made.levels[:-1]])
    np.testing.assert_allclose(got, [level[1:] for level in again], rtol=1e-8, atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(list(PATHS)), spacing=st.sampled_from(OWN), steps=st.integers(1, 30),
    fraction=st.floats(0.05, 1.0),
)  # fmt: skip
def test_a_grid_can_start_anywhere_with_n_intervals(name, spacing, steps, fraction):
    path = PATHS[name]
    first = start_at(path, strength=fraction)
    if path.discrete and spacing in BY_TIMESTEP and steps > first.t + 1:
        with pytest.raises(ConfigurationError, match="num_inference_steps"):
            grid(path, spacing, steps, start=first)
        return
    if spacing == "ays" and first.noise_to_signal <= 0.029:
        with pytest.raises(ConfigurationError, match="no step of the table is left"):
            grid(path, spacing, steps, start=first)
        return
    made = grid(path, spacing, steps, start=first)
    assert made.steps == steps
    assert made.levels[0] == first
    assert made.levels[-1] is CLEAN
    widths = np.diff([level.t for level in made.levels[:-1]])
    if spacing == "leading" and len(widths) > 1 and path.discrete:
        assert widths.max() - widths.min() <= 1.0  # no long first interval


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("spacing", OWN)
def test_the_whole_range_is_used(name, spacing):
    """Other than 'leading' (from below the top) all start at the top, those of whole curves end at the bottom."""
    path = PATHS[name]
    made = grid(path, spacing, 30)
    top, bottom = path.level(path.t_max), path.level(path.t_min)
    if (
        spacing not in ("leading", "leading_dpm")
        and not (spacing == "ays" and top.noise_to_signal > 15)
        and spacing != "vp"
    ):
        assert made.levels[0] == top
    if spacing in ("linspace", "karras", "exponential", "polyexponential", "log_snr", "kl_optimal", "laplace"):
        assert made.levels[-2] == bottom


def test_two_steps_more_do_not_move_the_ends_of_an_interval_grid():
    """steps = 1 starts at the top and ends clean, whatever the spacing."""
    for spacing in OWN:
        if spacing not in ("leading", "leading_dpm", "ays", "vp"):
            made = grid(SD, spacing, 1)
            assert made.levels == (SD.level(999.0), CLEAN), spacing


# ------------------------------------------------------------------------------- by timestep


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", [3, 5, 7, 10, 24, 50])
def test_leading_of_the_dpm_family_is_diffusers(steps, offset):
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler(timestep_spacing="leading", steps_offset=offset)
    theirs.set_timesteps(steps)
    path = NoiseSchedulerFactory.create("linear", timestep_spacing="leading_dpm", steps_offset=offset)
    assert list(make_grid(path, steps).times) == theirs.timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 3, 7, 16, 30, 48, 50, 96, 160, 999, 1000])
def test_trailing_is_lins_and_diffusers(steps):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    ours, exact = np.array(grid(PATHS["linear"], "trailing", steps).times), 1000 * np.arange(steps, 0, -1) / steps - 1
    clear = exact % 1 != 0.5  # halves are rounded to even here; there their sums of steps fall on either side
    assert (ours[clear] == theirs.timesteps.numpy()[:steps][clear]).all()
    assert (ours == np.round(exact + 1) - 1).all()


@pytest.mark.parametrize(("steps", "offset"), [(1, 999), (2, 0), (7, 1), (10, 1), (33, 3), (50, 1), (1000, 0)])
def test_leading_is_lins_and_diffusers(steps, offset):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing="leading", steps_offset=offset)
    theirs.set_timesteps(steps)
    path = NoiseSchedulerFactory.create("linear", timestep_spacing="leading", steps_offset=offset)
    assert list(make_grid(path, steps).times) == theirs.timesteps.tolist()


def test_linspace_is_that_of_euler():
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler(timestep_spacing="linspace")
    theirs.set_timesteps(13)
    np.testing.assert_allclose(grid(PATHS["linear"], "normal", 13).times, theirs.timesteps.numpy(), rtol=1e-6)


def test_sgm_uniform_leaves_out_the_last_of_one_more():
    np.testing.assert_allclose(grid(SD, "sgm_uniform", 10).times, np.linspace(999, 0, 11)[:-1], rtol=1e-13)


def test_beta_takes_quantiles_of_time_or_as_diffusers_of_sigma():
    from diffusers import EulerDiscreteScheduler
    from scipy.stats import beta

    p = 1 - np.arange(12) / 12
    np.testing.assert_allclose(grid(SD, "beta", 12).times, 999 * beta.ppf(p, 0.6, 0.6), rtol=1e-9)
    np.testing.assert_allclose(grid(SD, "beta", 12, a=2.0, b=0.3).times, 999 * beta.ppf(p, 2.0, 0.3), rtol=1e-9)
    config = NoiseSchedulerConfig.preset("sd15")
    theirs = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=config.beta_start, beta_end=config.beta_end, use_beta_sigmas=True
    )
    theirs.set_timesteps(12)
    np.testing.assert_allclose(sigmas(SD, grid(SD, "beta", 12, of="sigma")), theirs.sigmas[:-1].numpy(), rtol=2e-5)


@pytest.mark.parametrize("shape", [(0.6, 0.6), (1.0, 1.0), (0.2, 5.0), (8.0, 3.0), (0.05, 0.05), (25.0, 0.5)])
def test_quantiles_are_those_of_scipy(shape):
    from scipy.stats import beta

    p = np.linspace(0, 1, 41)
    np.testing.assert_allclose(beta_quantiles(p, *shape), beta.ppf(p, *shape), rtol=1e-8, atol=1e-15)


# ------------------------------------------------------------------------------- by σ


def test_karras_is_equation_5():
    path = EDMPath()
    i = np.arange(18)
    wanted = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    made = make_grid(path, 18)
    np.testing.assert_allclose(made.times, wanted, rtol=1e-13)
    assert made.levels[0] == pytest.approx((80.0, 1.0, 80.0), rel=1e-15)
    assert made.levels[17] == pytest.approx((0.002, 1.0, 0.002), rel=1e-15)
    assert grid(path, "karras", 18, rho=3.0).times[9] == pytest.approx(
        (80 ** (1 / 3) + 9 / 17 * (0.002 ** (1 / 3) - 80 ** (1 / 3))) ** 3
    )


@pytest.mark.parametrize("name", ["sd", "linear"])
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_karras_and_exponential_are_those_of_diffusers(name, spacing):
    from diffusers import DPMSolverMultistepScheduler

    path = PATHS[name]
    config = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02} if name == "linear" else {
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012
    }  # fmt: skip
    theirs = DPMSolverMultistepScheduler(**config, **{f"use_{spacing}_sigmas": True})
    theirs.set_timesteps(20)
    np.testing.assert_allclose(sigmas(path, grid(path, spacing, 20)), theirs.sigmas[:-1].numpy(), rtol=3e-4)
    # they are the same σ; its time is made whole there (rounded or cut off), and is not here
    assert np.abs(np.array(grid(path, spacing, 20).times) - theirs.timesteps.numpy()).max() < 1.0


def test_exponential_polyexponential_and_log_snr_are_one_family():
    """log σ/α even is log SNR even; ρ bends it (k-diffusion's get_sigmas_polyexponential)."""
    for name in ("sd", "vp", "edm", "ve", "cosine", "wuerstchen"):
        path = PATHS[name]
        even = ratios(grid(path, "exponential", 9))
        np.testing.assert_allclose(np.diff(np.log(even[:-1])), np.log(even[-2] / even[0]) / 8, rtol=1e-9)
        np.testing.assert_allclose(ratios(grid(path, "log_snr", 9)), even, rtol=1e-9)
        np.testing.assert_allclose(ratios(grid(path, "polyexponential", 9, rho=1.0)), even, rtol=1e-9)
    bent = sigmas(EDMPath(), grid(EDMPath(), "polyexponential", 9, rho=2.0))
    ramp = np.linspace(1, 0, 9) ** 2
    np.testing.assert_allclose(bent, np.exp(ramp * (math.log(80) - math.log(0.002)) + math.log(0.002)), rtol=1e-12)


def test_sigma_bounds_and_log_snr_min_say_where_the_run_begins():
    made = grid(SD, "karras", 8, sigma_max=10.0, sigma_min=0.1)
    assert sigmas(SD, made)[[0, -1]] == pytest.approx([10.0, 0.1], rel=1e-12)
    zero = PATHS["zero SNR"]
    assert grid(zero, "karras", 8, sigma_max=10.0).levels[0].noise_to_signal == pytest.approx(10.0)
    assert grid(zero, "karras", 8).levels[0].alpha == 0.0
    clipped = grid(PATHS["cosine"], "log_snr", 8, log_snr_min=-10.2)
    assert 2 * clipped.levels[0].half_log_snr == pytest.approx(-10.2)
    assert grid(SD, "log_snr", 8, log_snr_min=-1000.0) == grid(SD, "log_snr", 8)
    # a run that begins in the middle does not begin above
    assert grid(SD, "karras", 8, start=500.0, sigma_max=10.0).levels[0] == SD.level(500.0)


def test_kl_optimal_is_even_in_the_arc_tangent():
    for name in ("sd", "edm", "flow", "zero SNR"):
        angles = np.arctan(ratios(grid(PATHS[name], "kl_optimal", 11))[:-1])
        np.testing.assert_allclose(np.diff(angles), (angles[-1] - angles[0]) / 10, rtol=1e-9)


def test_vp_is_that_of_k_diffusion():
    t = np.linspace(1, 1e-3, 15)
    wanted = np.sqrt(np.exp(19.9 * t**2 / 2 + 0.1 * t) - 1)
    np.testing.assert_allclose(ratios(grid(VPPath(), "vp", 15))[:-1], wanted, rtol=1e-9)
    wide = NoiseSchedulerFactory.create("edm", schedule_options={"sigma_max": 500.0, "sigma_min": 1e-4})
    np.testing.assert_allclose(ratios(grid(wide, "vp", 15))[:-1], wanted, rtol=1e-9)
    inside = ratios(grid(SD, "vp", 15))[:-1]
    assert (inside[0], inside[-1]) == pytest.approx((SD.level(999.0).noise_to_signal, SD.level(0.0).noise_to_signal))


def test_laplace_has_equal_shares_of_the_distribution():
    from scipy.stats import laplace

    made = np.log(ratios(grid(SD, "laplace", 20, mu=0.3, beta=0.7))[:-1])
    np.testing.assert_allclose(np.diff(laplace.cdf(made, 0.3, 0.7)), np.diff(laplace.cdf(made, 0.3, 0.7)).mean())


@pytest.mark.parametrize("steps", [2, 3, 10, 31, 63])
def test_linear_quadratic_is_mochis(steps):
    from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

    path = FlowPath(sigma_min=1e-6)
    wanted = linear_quadratic_schedule(steps, 0.025)
    np.testing.assert_allclose(sigmas(path, grid(path, "linear_quadratic", steps)), wanted, rtol=1e-9)
    wanted = linear_quadratic_schedule(steps, 0.02, 1)
    got = grid(path, "linear_quadratic", steps, threshold=0.02, linear_steps=1)
    np.testing.assert_allclose(sigmas(path, got), wanted, rtol=1e-9)


def test_linear_quadratic_ends_at_the_cleanest_level_where_it_would_pass_below():
    made = sigmas(FlowPath(), grid(FlowPath(), "linear_quadratic", 6000))
    assert made[-1] == pytest.approx(1e-3)
    assert (np.diff(made) < 0).all()


@pytest.mark.parametrize(
    ("steps", "options", "published"),
    [
        (7, {}, [1.0, 0.95757091, 0.889653563, 0.766332269, 0.5, 0.20023641, 0.063372746]),
        (12, {"pivot_1": 0.5, "pivot_2": 0.7, "slope_1": 0.3, "slope_2": 0.4, "middle": 0.6},
         [1.0, 0.992345333, 0.981764078, 0.966237485, 0.941452563, 0.896723568, 0.80165118, 0.600000024, 0.368425012,
          0.136849999, 0.053561375, 0.018601863]),
    ],
)  # fmt: skip
def test_bong_tangent_has_the_numbers_of_res4lyf(steps, options, published):
    """What bong_tangent_scheduler of RES4LYF 1.1.0 returns, in its float32; the last, 0, is the clean sample here."""
    made = grid(FlowPath(), "bong_tangent", steps, **options)
    np.testing.assert_allclose(sigmas(FlowPath(), made), published, rtol=0, atol=4e-8)


def test_bong_tangent_of_one_step_begins_at_the_noise_and_ends_inside_the_path():
    assert grid(FlowPath(), "bong_tangent", 1).levels[0].sigma == 1.0
    low = grid(FlowPath(sigma_min=0.2), "bong_tangent", 10)
    assert low.levels[-2].sigma == pytest.approx(0.2)


def test_beta57_is_beta_with_its_options():
    for path in (SD, FlowPath(shift=3.0)):
        assert grid(path, "beta57", 9) == grid(path, "beta", 9, a=0.5, b=0.7)


def test_logit_normal_has_even_quantiles_of_the_normal_distribution_of_log_sigma():
    from scipy.stats import norm

    made = np.log(ratios(grid(SD, "logit_normal", 20, mu=0.3, std=0.7))[:-1])
    shares = np.diff(norm.cdf(made, 0.3, 0.7))
    np.testing.assert_allclose(shares, shares.mean(), rtol=1e-9)
    cut = grid(FlowPath(), "logit_normal", 5, log_snr_min=-6.0, log_snr_max=4.0)
    assert cut.levels[0].half_log_snr == pytest.approx(-3.0)
    assert cut.levels[-2].half_log_snr < 2.0
    assert grid(FlowPath(), "logit_normal", 5).levels[0].sigma == 1.0


def test_scm_is_even_in_the_angle_and_two_steps_meet_at_middle():
    path = NoiseSchedulerFactory.create("trigflow")
    np.testing.assert_allclose(grid(path, "scm", 5).times, math.pi / 2 * np.arange(5, 0, -1) / 5)
    np.testing.assert_allclose(grid(path, "scm", 2).times, [math.pi / 2, 1.3])
    np.testing.assert_allclose(grid(path, "scm", 2, middle=0.9).times, [math.pi / 2, 0.9])
    np.testing.assert_allclose(grid(path, "scm", 2, start=1.2).times, [1.2, 0.6])


@pytest.mark.parametrize(
    ("spacing", "options", "where"),
    [
        ("logit_normal", {"mu": -20.0}, "mu"),
        ("logit_normal", {"mu": 20.0, "std": 0.01}, "mu"),
        ("logit_normal", {"log_snr_min": 4.0, "log_snr_max": -4.0}, "mu"),
        ("flux2", {"tokens": 10**9}, "tokens"),
    ],
)
@pytest.mark.parametrize("steps", [2, 20])
def test_options_that_leave_no_levels_are_refused(spacing, options, where, steps):
    # a flow path begins without signal, so a mean of 20 is inside it
    for path in (FlowPath(), PATHS["linear"]) if options.get("mu") != 20.0 else (PATHS["linear"],):
        with pytest.raises(ConfigurationError) as caught:
            grid(path, spacing, steps, **options)
        assert caught.value.where == f"spacing_options.{where}"


@pytest.mark.parametrize("pivots", [(0.01, 0.01), (0.01, 0.99), (0.99, 0.99)])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_bong_tangent_runs_with_any_pivots(pivots, steps):
    made = grid(FlowPath(), "bong_tangent", steps, pivot_1=pivots[0], pivot_2=pivots[1])
    assert (made.steps, made.levels[0].sigma) == (steps, 1.0)


def test_log_snr_max_and_what_a_level_without_signal_counts_as():
    made = grid(FlowPath(), "log_snr", 5, log_snr_max=4.0, noisiest=-12.0)
    assert made.levels[0].sigma == 1.0
    np.testing.assert_allclose([2 * level.half_log_snr for level in made.levels[1:-1]], [-8.0, -4.0, 0.0, 4.0])


@pytest.mark.parametrize("spacing", OWN)
def test_shift_terminal_is_an_option_of_every_spacing(spacing):
    """It stretches σ/(α + σ) linearly, to end there; the first level stays as it is."""
    for path in (FlowPath(shift=3.0), PATHS["linear"], EDMPath()):
        plain, made = grid(path, spacing, 9), grid(path, spacing, 9, shift_terminal=0.3)
        before, after = (np.array([v.sigma / (v.alpha + v.sigma) for v in g.levels[:-1]]) for g in (plain, made))
        assert made.levels[0] == plain.levels[0]
        assert made.steps == 9
        assert after[-1] == pytest.approx(0.3, rel=1e-12)
        scale = (after[0] - after[-1]) / (before[0] - before[-1])
        np.testing.assert_allclose(np.diff(after), scale * np.diff(before), rtol=1e-8, atol=1e-13)


def test_shift_terminal_is_that_of_diffusers_and_goes_with_the_other_common_options():
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=2.0, shift_terminal=0.1)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / 12, 12))
    path = FlowPath(shift=2.0)
    np.testing.assert_allclose(
        sigmas(path, grid(path, "trailing", 12, shift_terminal=0.1)), theirs.sigmas[:-1], atol=1e-6
    )
    both = grid(path, "trailing", 12, shift_terminal=0.1, end="lowest", discard_penultimate=True)
    assert both.steps == 12
    assert (both.levels[-2].sigma, both.levels[-1].sigma) == pytest.approx((0.1, 1e-3))
    assert grid(path, "trailing", 1, shift_terminal=0.1) == grid(path, "trailing", 1)
    later = grid(path, "trailing", 4, start=path.level(500.0), shift_terminal=0.1)
    assert (later.levels[0], later.levels[-2].sigma) == (path.level(500.0), pytest.approx(0.1))


@pytest.mark.parametrize("terminal", [1e-4, 0.6, 0.5])
def test_a_shift_terminal_outside_the_run_is_refused(terminal):
    with pytest.raises(ConfigurationError, match=r"from 0\.5 to 0\.001") as caught:
        grid(FlowPath(), "trailing", 4, start=FlowPath().level(500.0), shift_terminal=terminal)
    assert caught.value.where == "spacing_options.shift_terminal"


@pytest.mark.parametrize(("model", "key"), [("sd15", "StableDiffusion"), ("sdxl", "StableDiffusionXL")])
def test_align_your_steps_is_the_published_table(model, key):
    from diffusers.schedulers import AysSchedules

    made = grid(SD, "ays", 10, model=model)
    assert tuple(AYS_SIGMAS[model][:-1]) == tuple(AysSchedules[f"{key}Sigmas"][:-1])
    np.testing.assert_allclose(sigmas(SD, made), AYS_SIGMAS[model][:-1], rtol=5e-5)
    # their timesteps are those of the same σ, but for the three digits that are published
    np.testing.assert_allclose(made.times, AysSchedules[f"{key}Timesteps"], atol=3.0)
    assert made.levels[0] == SD.level(999.0)


def test_align_your_steps_interpolates_log_sigma():
    table = np.log(AYS_SIGMAS["sdxl"])
    got = np.log(sigmas(SD, grid(SD, "ays", 25, model="sdxl")))
    np.testing.assert_allclose(got, np.interp(np.arange(25) / 2.5, np.arange(11), table), atol=3e-5)
    every_second = sigmas(SD, grid(SD, "ays", 20, model="sdxl"))[::2]
    np.testing.assert_allclose(every_second, sigmas(SD, grid(SD, "ays", 10, model="sdxl")), rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 28])
def test_trailing_on_flow_is_the_shift_of_diffusers(steps):
    """FlowMatchEuler with the σ that its pipelines give it: static shift (SD3), and μ by resolution (FLUX)."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    given_ = np.linspace(1.0, 1 / steps, steps)
    static = FlowMatchEulerDiscreteScheduler(shift=3.0)
    static.set_timesteps(sigmas=given_)
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    dynamic.set_timesteps(sigmas=given_, mu=1.15)
    for theirs, preset in ((static, "sd3"), (dynamic, "flux-dev")):
        path = NoiseSchedulerFactory.create(NoiseSchedulerConfig.preset(preset))
        made = make_grid(path, steps)
        np.testing.assert_allclose(sigmas(path, made), theirs.sigmas[:-1].numpy(), rtol=1e-6)
        np.testing.assert_allclose(made.times, theirs.timesteps.numpy() * path.t_max / 1000, rtol=1e-6)


# ------------------------------------------------------------------------------- ends


def test_discarding_the_penultimate_takes_out_the_last_level_of_one_more():
    whole, made = grid(SD, "karras", 11), grid(SD, "karras", 10, discard_penultimate=True)
    assert made.levels == (*whole.levels[:10], CLEAN)


@pytest.mark.parametrize("spacing", OWN)
@pytest.mark.parametrize("discard", [False, True])
def test_a_run_may_end_at_the_lowest_level(spacing, discard):
    """In N intervals, without an empty one (diffusers: σ_min twice, and NaN)."""
    for name in ("sd", "flow", "edm", "zero SNR"):
        path = PATHS[name]
        made = grid(path, spacing, 9, end="lowest", discard_penultimate=discard)
        assert made.steps == 9
        assert made.levels[-1] == path.level(path.t_min)
    if not discard:
        assert grid(SD, "karras", 9, end="lowest").levels == grid(SD, "karras", 10).levels[:-1]
        assert grid(SD, "trailing", 9, end="lowest").levels[:-1] == grid(SD, "trailing", 9).levels[:-1]


# ------------------------------------------------------------------------------- user's own levels


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(list(PATHS)), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12, unique=True))
def test_user_times_are_kept_bit_for_bit(name, fractions):
    path = PATHS[name]
    times = sorted({path.t_min + (path.t_max - path.t_min) * f for f in fractions}, reverse=True)
    if len(set(path.log_snr(np.array(times)).tolist())) < len(times):
        return  # closer together than log SNR can tell
    made = TimeGrid.from_times(path, times)
    assert made.times == tuple(times)
    assert TimeGrid.from_times(path, np.array(times)) == made
    if len(times) > 1:
        open_end = TimeGrid.from_times(path, times, end=None)
        assert [level.t for level in open_end.levels] == times


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["edm", "ve", "flow", "flow, shift", "shifted flow", "sd", "vp"]),
       st.lists(st.floats(0.03, 0.97), min_size=1, max_size=12, unique=True))  # fmt: skip
def test_user_sigmas_are_kept_bit_for_bit(name, values):
    path, given_ = PATHS[name], sorted(values, reverse=True)
    if np.any(np.diff(given_) > -1e-12):
        return
    made = TimeGrid.from_sigmas(path, given_)
    got = [path.field_sigma(level) for level in made.levels[:-1]]
    if name in ("sd", "vp"):
        assert got == pytest.approx(given_, rel=4e-16)
    else:
        assert got == given_
    if name == "edm":
        assert list(made.times) == given_
    if name == "flow":
        assert list(made.times) == [1000.0 * s for s in given_]
    assert TimeGrid.from_sigmas(path, [*given_, 0.0]) == made


@pytest.mark.parametrize(
    ("times", "what"),
    [([], "got"), ([5, 5], "not in order"), ([5, 9, 2], "not in order"), ([1000], "outside"), ([[3]], "got"),
     ("abc", "got"), ([float("nan")], "outside"), ([-1], "outside")],
)  # fmt: skip
def test_impossible_timesteps_are_refused(times, what):
    with pytest.raises(ConfigurationError, match=what):
        DiffusionPipeline(PATHS["linear"], "ddim").plan(1, timesteps=times)


def test_an_end_that_is_a_time_is_refused():
    path = NoiseSchedulerFactory.create("linear")
    with pytest.raises(ConfigurationError, match="level 2 is 150"):
        TimeGrid.from_times(path, [800.0, 400.0], end=150.0)


@pytest.mark.parametrize("sigma", [0.001, 81.0, -1.0, math.nan, math.inf])
def test_sigmas_outside_are_refused(sigma):
    with pytest.raises(ConfigurationError, match="outside"):
        TimeGrid.from_sigmas(EDMPath(), [sigma])


# ------------------------------------------------------------------------------- start, split, way back


def test_starting_at_a_strength_visits_what_diffusers_visits():
    """With as many steps as are left of the full run."""
    from diffusers import DDIMScheduler

    for spacing, offset, steps, strength in (
        ("leading", 1, 50, 0.5),
        ("trailing", 0, 50, 0.8),
        ("leading", 0, 25, 0.4),
    ):
        theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
        theirs.set_timesteps(steps)
        left = int(steps * strength)
        wanted = theirs.timesteps.tolist()[steps - left :]
        path = NoiseSchedulerFactory.create("linear", timestep_spacing=spacing, steps_offset=offset)
        first = start_at(path, strength=strength) if spacing == "trailing" else start_at(path, t=wanted[0])
        assert list(make_grid(path, left, start=first).times) == wanted


def test_where_to_start():
    assert start_at(SD, t=400).t == 400.0
    assert start_at(SD, sigma=2.0).noise_to_signal == pytest.approx(2.0)
    assert start_at(FlowPath(), sigma=0.6) == (600.0, 0.4, 0.6)
    assert start_at(FlowPath(shift=3.0), strength=0.5).sigma == pytest.approx(0.75)
    assert start_at(SD, strength=1.0).t == 999.0
    assert start_at(SD, strength=0.5).t == 499.0
    assert start_at(EDMPath(), sigma=3.3) == (3.3, 1.0, 3.3)
    for wrong in ({}, {"t": 3, "sigma": 1.0}, {"strength": 0.0}, {"strength": 1.1}, {"t": 1000}, {"sigma": 99.0}):
        with pytest.raises(ConfigurationError):
            start_at(SD, **wrong)
    for wrong in ({"t": "late"}, {"sigma": "2"}, {"strength": "half"}, {"strength": 0.0}, {"strength": math.nan}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            start_at(SD, **wrong)
    made = grid(FlowPath(), "trailing", 5, start=start_at(FlowPath(), sigma=0.7))
    assert made.levels[0].sigma == 0.7
    np.testing.assert_allclose(sigmas(FlowPath(), made), 0.7 * np.arange(5, 0, -1) / 5, rtol=1e-12)


@pytest.mark.parametrize("at", [1, 7, 19])
def test_halves_joined_are_the_whole_bit_for_bit(at):
    whole = grid(SD, "karras", 20)
    first, second = whole.split(at)
    assert first.steps + second.steps == 20
    assert (*first.levels, *second.levels[1:]) == whole.levels
    level = whole.levels[at]
    assert whole.split(t=level.t) == (first, second)
    assert whole.split(sigma=level.noise_to_signal) == (first, second)
    assert whole.split(t=level.t + 1e-9) == (first, second)
    if at < 19:
        assert whole.reversed().split(t=level.t)[0].levels[-1] == level


def test_a_hand_over_changes_no_bit_of_a_run():
    """The same model on both halves: the sample of the whole, for a sampler without history."""
    import torch

    model = models.DigitsModel(SD)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = grid(SD, "karras", 12)
    pipeline = DiffusionPipeline(SD, "ddim")
    sampler = pipeline.sampler

    def run(part: TimeGrid, state: torch.Tensor) -> torch.Tensor:
        return pipeline.sample(model, initial_sample=state, plan=sampler.plan(grid=part))

    begun = x * sampler.plan(grid=whole).prior_scale
    one, two = whole.split(5)
    torch.testing.assert_close(run(two, run(one, begun)), run(whole, begun), rtol=0, atol=0)


def test_splits_that_leave_nothing_are_refused():
    whole = grid(SD, "karras", 5)
    for wrong in ({"at": 0}, {"at": 5}, {"at": 2.0}, {"at": True}, {"t": 999.0}, {"sigma": 0.001}, {},
                  {"at": 2, "t": 3.0}):  # fmt: skip
        with pytest.raises(ConfigurationError):
            whole.split(**wrong)


def test_the_way_back_is_the_levels_that_have_a_time_in_reverse():
    made = grid(SD, "karras", 6)
    back = made.reversed()
    assert back.levels == made.levels[:-1][::-1]
    assert back.reversed().levels == made.levels[:-1]
    again = pickle.loads(pickle.dumps(made))
    assert again.reversed() == back  # the clean end is known by having no time, not by which object it is
    with pytest.raises(ConfigurationError, match="one interval"):
        grid(SD, "karras", 1).reversed()


def test_inversion_and_back_is_off_by_less_with_more_steps():
    """First order: half the error at twice the steps."""
    import torch

    path = on(SD, "log_snr", end="lowest")
    model = models.GaussianModel(path, mean=0.2, covariance=0.3)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 1, 2, 2)
    pipeline = DiffusionPipeline(path, "ddim")

    def run(part: TimeGrid, state: torch.Tensor) -> torch.Tensor:
        plan = pipeline.sampler.plan(grid=part)
        return pipeline.sample(model, initial_sample=state, plan=plan, dtype=torch.float64)

    errors = []
    for steps in (50, 100, 200):
        made = make_grid(path, steps)
        errors.append((run(made, run(made.reversed(), x)) - x).abs().max().item())
    rate = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (rate > 0.9).all(), errors


# ------------------------------------------------------------------------------- extension and refusals


def test_a_registered_spacing_is_like_the_built_in_ones():
    def squares(path: NoisePath, steps: int, *, power: float = 2.0) -> np.ndarray:
        return path.t_min + (path.t_max - path.t_min) * np.linspace(1, 1 / steps, steps) ** power

    def wrong(path: NoisePath, steps: int, **anything: Any) -> list[Level]:
        return [path.level(path.t_max)] * 2

    SPACINGS.register("squares for the tests", squares)
    SPACINGS.register("wrong for the tests", wrong)
    made = grid(VPPath(), "squares for the tests", 4, power=3.0)
    np.testing.assert_allclose(made.times, 1e-3 + 0.999 * (np.arange(4, 0, -1) / 4) ** 3)
    started = grid(VPPath(), "squares for the tests", 4, start=0.5, end="lowest")
    assert (started.steps, started.levels[0].t, started.levels[-1].t) == (4, 0.5, 1e-3)
    assert DiffusionPipeline(on(VPPath(), "squares for the tests"), "ddim").plan(4).nfe == 4
    with pytest.raises(ConfigurationError, match="returned 2 levels for 3"):
        grid(VPPath(), "wrong for the tests", 3, whatever=[1, 2])
    with pytest.raises(ConfigurationError, match="no option 'pwer'") as raised:
        grid(VPPath(), "squares for the tests", 4, pwer=3.0)
    assert "power" in raised.value.suggestion


@pytest.mark.parametrize(
    ("spacing", "options"),
    [
        ("karras", {"rho": 0.0}), ("karras", {"rho": "7"}), ("karras", {"rho": True}), ("karras", {"rho": math.nan}),
        ("karras", {"sigma_max": 100.0}), ("karras", {"sigma_min": 1e-4}), ("karras", {"sigma_max": "high"}),
        ("karras", {"end": "zero"}), ("karras", {"discard_penultimate": 3}), ("trailing", {"rho": 7.0}),
        ("beta", {"of": "sigmas"}), ("beta", {"of": 3}), ("beta", {"a": -1.0}), ("ays", {"model": "sd16"}),
        ("log_snr", {"log_snr_min": 20.0}), ("log_snr", {"log_snr_min": "a"}), ("laplace", {"beta": 0.0}),
        ("linear_quadratic", {"threshold": 1.0}), ("linear_quadratic", {"linear_steps": 11}),
        ("linear_quadratic", {"linear_steps": 1, "threshold": 0.5}),
        ("vp", {"beta_min": 30.0}), ("vp", {"t_min": 2.0}),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_before_anything_runs(spacing, options):
    with pytest.raises(ConfigurationError) as raised:
        grid(SD, spacing, 10, **options)
    assert raised.value.suggestion


def test_offsets_belong_to_leading_and_to_whole_timesteps():
    with pytest.raises(ConfigurationError, match="steps_offset"):
        VPPath(timestep_spacing="leading", steps_offset=1)
    with pytest.raises(ConfigurationError, match="steps_offset"):
        NoiseSchedulerConfig(timestep_spacing="trailing", steps_offset=1)
    with pytest.raises(ConfigurationError, match="past the last one"):
        make_grid(NoiseSchedulerFactory.create("linear", steps_offset=200), 10)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("normal", "linspace"), ("simple", "trailing"), ("ddim_uniform", "leading"), ("uniform_log_snr", "log_snr"),
     ("use_lu_lambdas", "log_snr"), ("logsnr", "log_snr"), ("use_karras_sigmas", "karras"),
     ("align_your_steps", "ays"), ("KL-optimal", "kl_optimal"), ("time_uniform", "linspace")],
)  # fmt: skip
def test_other_libraries_names(alias, name):
    assert NoiseSchedulerConfig(timestep_spacing=alias).timestep_spacing == name


# ------------------------------------------------------------------------------- documentation


def test_the_documentation_lists_every_name():

    from noise_scheduler_sampling_system.config.registries import PRESETS, SCHEDULES

    text = (ROOT / "docs" / "paths-and-grids.md").read_text(encoding="utf-8")
    package = "noise_scheduler_sampling_system."
    paths = [name for name in SCHEDULES if SCHEDULES.get(name).__module__.startswith(package)]
    for kind, names in (("path", paths), ("spacing", OWN), ("preset", list(PRESETS))):
        missing = [name for name in names if f"| `{name}` |" not in text]
        assert not missing, f"{kind}s that docs/paths-and-grids.md does not list: {missing}"
    for path in paths:
        for option in SCHEDULES.get(path).option_defaults:
            assert f"`{option}`" in text, f"option {option} of {path}"
