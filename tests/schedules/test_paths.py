"""Every noise path, the built-in ones and the modified, in one loop; the presets; EDM's preconditioning."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import (
    BaseNoiseScheduler,
    ConfigurationError,
    DiffusionPipeline,
    EDMPath,
    FlowPath,
    NoisePath,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    ShiftedSNR,
    TimeGrid,
    VEPath,
    VPPath,
    ZeroTerminalSNR,
    models,
    resolution_shift,
)
from noise_scheduler_sampling_system.config.prediction import conversion
from noise_scheduler_sampling_system.config.registries import PRESETS, SAMPLERS, SCHEDULES
from noise_scheduler_sampling_system.schedules import TrigFlowPath

OWN = [name for name in SCHEDULES if SCHEDULES.get(name).__module__.startswith("noise_scheduler_sampling_system.")]
V = {"prediction_type": "v_prediction"}


def made(name: str, **fields) -> NoisePath:
    if name == "custom":
        fields = {"trained_betas": np.linspace(1e-3, 0.3, 40), **fields}
    return NoiseSchedulerFactory.create(name, **fields)


def options(**given) -> dict:
    return {"schedule_options": given}


PATHS: dict[str, NoisePath] = {name: made(name) for name in OWN} | {
    "cosine, options": made("cosine", **options(s=0.02, max_beta=0.9)),
    "laplace, diffusers": made("laplace", **options(variant="diffusers")),
    "sigmoid_gamma, tau": made("sigmoid_gamma", **options(start=0.0, end=3.0, tau=0.9)),
    "scaled_linear, SNR shift": made("scaled_linear", **options(snr_shift=3.0)),
    "scaled_linear, SNR shift, zero SNR": made(
        "scaled_linear", rescale_betas_zero_snr=True, **V, **options(snr_shift=3.0)
    ),
    "vp, 999": VPPath(time_scale=999.0),
    "flow, shift": FlowPath(shift=3.0),
    "flow, t in [0, 1]": FlowPath(time_scale=1.0, sigma_min=1e-5),
    "shifted vp": ShiftedSNR(VPPath(), 2.0),
    "shifted edm": ShiftedSNR(EDMPath(), 0.5),
    "shifted flow": ShiftedSNR(FlowPath(shift=2.0), 1.5),
    "shifted linear": ShiftedSNR(made("linear"), 4.0),
    "zero SNR vp": ZeroTerminalSNR(VPPath(**V)),
    "zero SNR linear": ZeroTerminalSNR(made("linear", **V)),
    "trigflow to arctan 160": TrigFlowPath(t_max=math.atan(160.0)),
    "zero SNR v_diffusion": ZeroTerminalSNR(made("v_diffusion")),
    "zero SNR shifted wuerstchen": ZeroTerminalSNR(ShiftedSNR(made("wuerstchen", **V), 2.0)),
    "shifted zero SNR vp": ShiftedSNR(ZeroTerminalSNR(VPPath(**V)), 2.0),
}
PATHS["vp up to 0.6"] = PATHS["vp"].up_to(0.6)
PATHS["shifted flow up to 700"] = PATHS["shifted flow"].up_to(700.0)
PATHS["zero SNR linear up to 400.5"] = PATHS["zero SNR linear"].up_to(400.5)


@pytest.fixture(params=list(PATHS))
def path(request: pytest.FixtureRequest) -> NoisePath:
    return PATHS[request.param]


def inner_times(path: NoisePath, count: int = 60) -> np.ndarray:
    """Times away from the ends and, with betas, from the kinks at whole timesteps."""
    t = path.t_min + (path.t_max - path.t_min) * np.append(np.linspace(0.003, 0.99, count - 1), 0.9996)
    return np.unique(np.clip(np.floor(t) + 0.37, None, path.t_max - 0.1)) if path.discrete else t


def identity(path: NoisePath, alpha, sigma):
    """What α and σ of the kind of path fulfil."""
    while isinstance(path, ShiftedSNR | ZeroTerminalSNR):
        path = path.path
    kind = type(path).__name__
    if kind in ("EDMPath", "VEPath"):
        return alpha
    if kind == "FlowPath":
        return alpha + sigma
    return alpha**2 + sigma if kind == "SubVPPath" else alpha**2 + sigma**2


# ------------------------------------------------------------------------------- every path


def test_alpha_and_sigma_have_the_log_snr_and_their_kinds_identity(path):
    t = inner_times(path)
    alpha, sigma, log_snr = path.alpha(t), path.sigma(t), path.log_snr(t)
    np.testing.assert_allclose(2 * (np.log(alpha) - np.log(sigma)), log_snr, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(identity(path, alpha, sigma), 1.0, rtol=1e-14)


def test_noise_grows_strictly(path):
    t = np.linspace(path.t_min, path.t_max, 4001)
    assert (np.diff(path.log_snr(t)) < 0).all()
    assert (np.diff(path.alpha(t)) <= 0).all()
    assert (np.diff(path.sigma(t)) >= 0).all()


def test_time_inverts_log_snr(path):
    t = np.concatenate([inner_times(path), [path.t_min, path.t_max]])
    np.testing.assert_allclose(path.time(path.log_snr(t)), t, rtol=1e-9, atol=1e-9 * path.t_max)
    assert path.time(math.inf) == pytest.approx(path.t_min, rel=1e-12, abs=1e-12)
    assert path.time(-math.inf) == pytest.approx(path.t_max, rel=1e-12)


def test_rates_are_the_derivatives(path):
    """By central differences in float64, and by autograd through α and σ themselves."""
    t = inner_times(path, 25)
    step = 1e-6 * np.minimum(t - path.t_min, path.t_max - t) + 1e-7 * t
    for rate, function in zip(path.rates(t), (path.alpha, path.sigma), strict=True):
        central = (function(t + step) - function(t - step)) / (2 * step)
        scale = np.abs(central).max() or 1.0
        np.testing.assert_allclose(rate, central, rtol=1e-5, atol=1e-6 * scale)
        u = torch.tensor(t, requires_grad=True)
        value = function(u)
        gradient = torch.autograd.grad(value.sum(), u)[0] if value.requires_grad else torch.zeros_like(u)
        np.testing.assert_allclose(rate, gradient.numpy(), rtol=1e-12, atol=1e-300)


def test_rates_are_finite_at_the_ends_as_well(path):
    """Also where there is no signal: there one from inside."""
    h = 1e-7 * (path.t_max - path.t_min)
    for t, inside in ((path.t_min, path.t_min + h), (path.t_max, path.t_max - h)):
        for rate, function in zip(path.rates(t), (path.alpha, path.sigma), strict=True):
            secant = (function(t) - function(inside)) / (t - inside)
            assert math.isfinite(rate)
            assert rate == pytest.approx(secant, rel=2e-2, abs=2e-4 / path.t_max)


def test_the_ends_are_levels(path):
    low, high = path.level(path.t_min), path.level(path.t_max)
    assert 0 < low.sigma < low.alpha + low.sigma
    assert high.noise_to_signal > low.noise_to_signal
    assert path.prior_std == math.hypot(high.alpha, high.sigma)
    assert path.time_at(1.0) == pytest.approx(path.t_max)
    for fraction in (0.25, 0.9):
        assert path.fraction_at(path.time_at(fraction)) == pytest.approx(fraction, rel=1e-12)
    with pytest.raises(ConfigurationError, match="outside"):
        path.alpha(path.t_max * 1.001)


def test_training_may_draw_times_from_clean_data_on(path):
    """From 0 where the path reaches clean data: no noise there, or the cleanest level; a run begins at ``t_min``."""
    low = path.t_clean
    assert low <= path.t_min
    x0, noise = torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)
    t = torch.tensor([low, path.t_min, path.t_max], dtype=torch.float64)
    noisy = path.add_noise(x0, noise, t)
    assert torch.isfinite(noisy).all()
    assert torch.isfinite(path.velocity(x0, noise, t)).all()
    assert path.alpha(low) >= path.alpha(path.t_min)
    assert path.sigma(low) <= path.sigma(path.t_min)
    assert path.log_snr(low) >= path.log_snr(path.t_min)
    torch.testing.assert_close(noisy[:1], path.add_noise(x0[:1], noise[:1], low))
    if path.t_origin == 0.0 and "ZeroTerminalSNR" not in repr(path):
        assert low == 0.0
    if low < path.t_min:
        with pytest.raises(ConfigurationError, match="outside"):
            path.level(low)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):  # whose rounding of the ends may lie outside
        ends = torch.tensor([path.t_min, path.t_max]).to(dtype)
        assert torch.isfinite(path.add_noise(x0[:2].to(dtype), noise[:2].to(dtype), ends)).all()
    with pytest.raises(ConfigurationError, match="outside"):
        path.add_noise(x0, noise, torch.full((3,), path.t_max * 1.02).half())
    with pytest.raises(ConfigurationError, match="outside"):
        path.add_noise(x0, noise, low - 0.5)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow_prediction"])
def test_the_target_is_what_a_network_of_that_kind_returns(path, kind):
    """With x it determines the data, as prediction.py converts it; on every path, in the data's type."""
    try:
        path = path.with_config(path.config.replace(prediction_type=kind))
    except ConfigurationError:
        assert kind == "epsilon"  # zero terminal SNR
        return
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    t = path.t_min + (path.t_max - path.t_min) * torch.tensor([0.3, 0.8], dtype=torch.float64)
    x, target = path.add_noise(x0, noise, t), path.target(x0, noise, t)
    for i, level in enumerate(path.levels(t)):
        of_x, of_target = conversion(kind, "sample", level.alpha, level.sigma)
        torch.testing.assert_close(of_x * x[i] + of_target * target[i], x0[i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(path.target(x0[i : i + 1], noise[i : i + 1], level.t)[0], target[i])
    rounding = 4.0 * max(1.0, float(target.abs().max()))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        got = path.target(x0.to(dtype), noise.to(dtype), t)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), target, rtol=0.0, atol=rounding * torch.finfo(dtype).eps)


def test_the_velocity_is_the_one_that_networks_of_the_path_are_trained_on(path):
    """α·ε − σ·x₀ (Salimans & Ho); on straight paths dx/dσ = ε − x₀, as rectified flow has it."""
    x0, noise = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64) * (path.t_max - path.t_min) + path.t_min
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    wanted = noise - x0 if path.sigma_is_absolute else alpha * noise - sigma * x0
    torch.testing.assert_close(path.velocity(x0, noise, t), wanted)
    assert torch.equal(path.get_velocity(x0, noise, t), path.velocity(x0, noise, t))
    if path.sigma_is_absolute:
        torch.testing.assert_close(path.velocity(x0, noise, float(t[0])), noise - x0)


def test_float_array_and_tensor_are_one(path):
    t = inner_times(path, 9)
    for function in (path.alpha, path.sigma, path.log_snr):
        array, tensor = function(t), function(torch.from_numpy(t))
        assert (array.dtype, tensor.dtype) == (np.float64, torch.float64)
        np.testing.assert_allclose(array, tensor.numpy(), rtol=4e-16)
        np.testing.assert_allclose(array, [function(float(v)) for v in t], rtol=4e-15, atol=1e-15)


def test_a_level_is_found_by_its_sigma(path):
    for t in inner_times(path, 7):
        level = path.level(float(t))
        found = path.level_of_sigma(path.field_sigma(level))
        assert found == pytest.approx(level, rel=1e-9)
    with pytest.raises(ConfigurationError, match="outside"):
        path.level_of_sigma(path.field_sigma(path.level(path.t_min)) * 0.99)


def test_cut_paths_end_there_and_are_the_same_before(path):
    middle = float(inner_times(path, 9)[4])
    cut = path.up_to(middle)
    t = np.linspace(path.t_min, middle, 20)
    np.testing.assert_array_equal(cut.log_snr(t), path.log_snr(t))
    np.testing.assert_allclose(cut.time(path.log_snr(t)), t, rtol=1e-9, atol=1e-9)
    assert cut.time_at(1.0) == pytest.approx(middle)
    assert cut.time(-math.inf) == pytest.approx(middle, rel=1e-9)
    assert cut.cut
    assert not path.with_config(path.config).cut
    with pytest.raises(ConfigurationError, match="outside"):
        cut.level(path.t_max)


def test_paths_can_be_pickled_and_made_again(path):
    t = inner_times(path, 5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(path)).log_snr(t), path.log_snr(t))
    np.testing.assert_array_equal(path.with_config(path.config).log_snr(t), path.log_snr(t))


# ------------------------------------------------------------------------------- the tables of betas


def diffusers_alpha_bars(**config) -> np.ndarray:
    from diffusers import DDPMScheduler

    return DDPMScheduler(**config).alphas_cumprod.double().numpy()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"beta_schedule": "linear"}, {"beta_schedule": "linear"}),
        ({"beta_schedule": "sigmoid"}, {"beta_schedule": "sigmoid"}),
        ({"beta_schedule": "squaredcos_cap_v2"}, {"beta_schedule": "squaredcos_cap_v2"}),
        (dict(beta_schedule="laplace", **options(variant="diffusers")), {"beta_schedule": "laplace"}),
        (
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        (
            dict(beta_schedule="scaled_linear", rescale_betas_zero_snr=True, **V),
            {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
        ),
    ],
    ids=lambda given: given["beta_schedule"],
)
@pytest.mark.parametrize("T", [100, 1000])
def test_tables_are_those_of_diffusers_where_it_has_them(ours, theirs, T):
    table = NoiseSchedulerFactory.create(NoiseSchedulerConfig(num_train_timesteps=T, **ours)).alphas_cumprod.numpy()
    np.testing.assert_allclose(
        table, diffusers_alpha_bars(num_train_timesteps=T, **theirs), rtol=3e-4 * T / 1000, atol=3e-7
    )


def test_exp_is_that_of_diffusers():
    from diffusers.schedulers.scheduling_heun_discrete import betas_for_alpha_bar

    betas = betas_for_alpha_bar(1000, alpha_transform_type="exp").double().numpy()
    np.testing.assert_allclose(made("exp").betas.numpy(), betas, rtol=1e-5)
    assert made("exp").alphas_cumprod[-1].item() == pytest.approx(math.exp(-12), rel=1e-11)


def test_sigmoid_gamma_is_chens_curve():
    """ᾱ at t/T by Algorithm 1 of arXiv 2301.10972, up to the cap on the last beta."""
    bars = made("sigmoid_gamma").alphas_cumprod.numpy()

    def sigmoid(v):
        return 1 / (1 + math.exp(-v))

    for i in (0, 10, 499, 900, 998):
        t = (i + 1) / 1000
        wanted = (sigmoid(3) - sigmoid(t * 6 - 3)) / (sigmoid(3) - sigmoid(-3))
        assert bars[i] == pytest.approx(wanted, rel=1e-9)
    assert made("sigmoid_gamma").betas[-1] == 0.999
    assert bars[499] == pytest.approx(0.5)


def test_laplace_is_the_papers_and_not_its_root():
    """log SNR has a Laplace distribution over t: half of t at its median, a quarter beyond ±b·log 2."""
    path = made("laplace")
    at = {i: path.log_snr(float(i)) for i in (249, 499, 749)}
    assert at[499] == pytest.approx(0.0, abs=1e-9)
    assert at[249] == pytest.approx(0.5 * math.log(2), rel=1e-9)
    assert at[749] == pytest.approx(-0.5 * math.log(2), rel=1e-9)
    shifted = made("laplace", **options(mu=-1.0, b=0.25))
    assert shifted.log_snr(249.0) == pytest.approx(-1 + 0.25 * math.log(2), rel=1e-6)


def test_scaled_linear_is_linear_in_the_root_and_power_one_is_linear():
    roots = made("scaled_linear").betas.sqrt()
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(999), rtol=1e-9, atol=0)
    torch.testing.assert_close(made("scaled_linear", **options(power=1.0)).betas, made("linear").betas)


def test_cosine_takes_its_options():
    path = made("cosine", **options(s=0.1, max_beta=0.5))
    assert path.betas.max() == 0.5
    first, later = (math.cos((t + 0.1) / 1.1 * math.pi / 2) ** 2 for t in (0, 0.3))
    assert path.alphas_cumprod[299].item() == pytest.approx(later / first, rel=1e-10)


def test_trigflow_is_the_circle_in_radians_and_its_network_the_velocity():
    """Lu & Song 2024, §3: x_t = cos t·x₀ + sin t·ε, dx/dt = F, and x₀ = cos t·x − sin t·F."""
    path, t = TrigFlowPath(), 0.7
    x0, noise = torch.randn(2, 3, 4, dtype=torch.float64)
    assert (path.alpha(t), path.sigma(t)) == pytest.approx((math.cos(t), math.sin(t)), rel=1e-15)
    velocity = path.target(x0, noise, t)
    torch.testing.assert_close(velocity, math.cos(t) * noise - math.sin(t) * x0, rtol=1e-14, atol=1e-14)
    x = path.add_noise(x0, noise, t)
    torch.testing.assert_close(math.cos(t) * x - math.sin(t) * velocity, x0, rtol=1e-13, atol=1e-13)
    assert path.level(math.pi / 2)[1:] == (0.0, 1.0)
    assert TrigFlowPath(t_max=math.atan(160.0)).level(math.atan(160.0)).noise_to_signal == pytest.approx(160.0)


def test_the_wuerstchen_path_is_that_of_diffusers():
    from diffusers import DDPMWuerstchenScheduler

    path, theirs = made("wuerstchen"), DDPMWuerstchenScheduler()
    t = torch.linspace(path.t_min, path.t_max, 50, dtype=torch.float64)
    bars = theirs._alpha_cumprod(t, torch.device("cpu"))
    torch.testing.assert_close(path.alpha(t) ** 2, bars.double(), rtol=1e-4, atol=1e-7)
    assert path.alpha(path.t_max) ** 2 == pytest.approx(1e-4)
    assert path.alpha(path.t_min) ** 2 == pytest.approx(0.9999)


@pytest.mark.parametrize(
    ("name", "given", "where"),
    [
        ("cosine", {"s": 0.0}, "s"),
        ("cosine", {"max_beta": 1.0}, "max_beta"),
        ("laplace", {"variant": "difusers"}, "variant"),
        ("laplace", {"b": -1}, "b"),
        ("sigmoid_gamma", {"start": 3.0, "end": -3.0}, "end"),
        ("linear", {"snr_shift": 0}, "snr_shift"),
        ("scaled_linear", {"power": "2"}, "power"),
        ("wuerstchen", {"alpha_bar_min": 0.99999}, "alpha_bar_min"),
        ("linear", {"s": 0.1}, "s"),
    ],
)
def test_wrong_options_are_named(name, given, where):
    with pytest.raises(ConfigurationError) as raised:
        made(name, **options(**given))
    assert raised.value.where == f"schedule_options.{where}"


def test_options_of_a_class_are_added_to_those_it_derives_from():
    class Mine(BaseNoiseScheduler):
        option_defaults = {"height": 0.1}

        def _get_beta_schedule(self):
            return np.full(self.num_train_timesteps, self.options["height"])

    mine = Mine(num_train_timesteps=5, height=0.2, snr_shift=2.0)
    assert Mine.option_defaults == {"snr_shift": 1.0, "height": 0.1}
    assert mine.level(0.0).noise_to_signal == pytest.approx(2 * math.sqrt(0.2 / 0.8))


@pytest.mark.parametrize(
    ("alias", "name"),
    [("squaredcos_cap_v2", "cosine"), ("rectified_flow", "flow"), ("Flow-Matching", "flow"), ("vp_sde", "vp"),
     ("scaled-linear", "scaled_linear"), ("stable_cascade", "wuerstchen"), ("sub-VP", "sub_vp")],
)  # fmt: skip
def test_other_libraries_names(alias, name):
    assert NoiseSchedulerConfig(beta_schedule=alias).beta_schedule == name
    kept = NoiseSchedulerConfig(beta_schedule=name, timestep_spacing="karras", spacing_options={"rho": 5.0})
    assert kept.replace(beta_schedule=alias, timestep_spacing="use_karras_sigmas") == kept


# ------------------------------------------------------------------------------- modifiers


@pytest.mark.parametrize("inner", ["vp", "vp, 999", "wuerstchen", "linear", "cosine", "exp"])
def test_zero_terminal_snr_is_algorithm_1(inner):
    path = PATHS[inner].with_config(PATHS[inner].config.replace(**V))
    new = ZeroTerminalSNR(path)
    t = inner_times(path)
    first, last = path.alpha(path.t_min), path.alpha(path.t_max)
    wanted = (path.alpha(t) - last) * first / (first - last)
    np.testing.assert_allclose(new.alpha(t), wanted, rtol=1e-12)
    np.testing.assert_allclose(new.sigma(t), np.sqrt(1 - wanted**2), rtol=1e-9)
    assert new.level(path.t_max)[1:] == (0.0, 1.0)
    assert new.level(path.t_min) == pytest.approx(path.level(path.t_min), rel=1e-12)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine", "sigmoid_gamma", "laplace"])
@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_modifiers_and_settings_are_one_at_whole_timesteps(name, shift):
    set_ = made(name, rescale_betas_zero_snr=True, **V, **options(snr_shift=shift))
    wrapped = ZeroTerminalSNR(ShiftedSNR(made(name, **V), shift))
    t = np.arange(1000.0)
    np.testing.assert_allclose(wrapped.alpha(t), set_.alpha(t), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(wrapped.sigma(t), set_.sigma(t), rtol=1e-10)
    np.testing.assert_allclose(set_.alphas_cumprod.numpy(), set_.alpha(t) ** 2, rtol=1e-10, atol=1e-18)
    np.testing.assert_allclose(np.cumprod(1 - set_.betas.numpy()), set_.alpha(t) ** 2, rtol=1e-8, atol=1e-18)


def test_cogvideox_is_the_shift_and_then_zero_snr():
    from diffusers import CogVideoXDDIMScheduler

    theirs = CogVideoXDDIMScheduler(snr_shift_scale=3.0, rescale_betas_zero_snr=True).alphas_cumprod
    ours = NoiseSchedulerFactory.create(NoiseSchedulerConfig.preset("cogvideox-2b")).alphas_cumprod
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-4, atol=1e-7)


def test_shifting_multiplies_noise_to_signal_and_composes():
    for inner in (VPPath(), VEPath(), FlowPath(), made("sub_vp"), made("linear")):
        t = inner_times(inner)
        ratio = inner.sigma(t) / inner.alpha(t)
        new = ShiftedSNR(inner, 3.0)
        np.testing.assert_allclose(new.sigma(t) / new.alpha(t), 3 * ratio, rtol=1e-9)
        back = ShiftedSNR(new, 1 / 3.0)
        np.testing.assert_allclose(back.log_snr(t), inner.log_snr(t), rtol=1e-12, atol=1e-12)
        assert new.t_max == inner.t_max


def test_shifted_flow_is_the_shift_of_sd3_seen_at_the_networks_time():
    """σ ↦ s·σ/(1 + (s − 1)·σ): as a shift of the levels, not of which are visited."""
    t = np.linspace(5.0, 990.0, 40)
    u = t / 1000
    np.testing.assert_allclose(ShiftedSNR(FlowPath(), 3.0).sigma(t), 3 * u / (1 + 2 * u), rtol=1e-12)
    np.testing.assert_allclose(FlowPath(shift=3.0).time_at(u), 3000 * u / (1 + 2 * u), rtol=1e-12)


@pytest.mark.parametrize("inner", [VEPath, EDMPath, FlowPath, lambda **f: made("sub_vp", **f)])
def test_zero_terminal_snr_wants_a_variance_preserving_path(inner):
    with pytest.raises(ConfigurationError, match="does not preserve variance"):
        ZeroTerminalSNR(inner(**V))


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf, "2", True, None])
def test_a_shift_is_a_positive_number(wrong):
    with pytest.raises(ConfigurationError):
        ShiftedSNR(VPPath(), wrong)


def test_modifiers_refuse_what_cannot_be():
    with pytest.raises(ConfigurationError, match="got str"):
        ShiftedSNR("vp", 2.0)


@pytest.mark.parametrize("path", [ZeroTerminalSNR(VPPath()), made("linear", rescale_betas_zero_snr=True)], ids=repr)
def test_without_signal_a_model_of_noise_is_refused_where_a_run_begins_there(path):
    for spacing in ("trailing", "linspace", "karras"):
        with pytest.raises(ConfigurationError, match="'epsilon' does not determine 'sample'"):
            DiffusionPipeline(path.spaced(spacing), "ddim").sample(lambda x, t: x, (1, 4), 8)
    grid = TimeGrid.from_times(path, [0.9 * path.t_max, 0.5 * path.t_max])
    result = DiffusionPipeline(path, "ddim").sample(lambda x, t: torch.tanh(x), (1, 4), grid=grid)
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("name", ["zero SNR vp", "shifted vp", "zero SNR linear", "shifted flow"])
def test_sampling_on_a_modified_path_reaches_the_exact_solution(name):
    """Second order: a fourth of the error at twice the steps, and small."""
    path = PATHS[name].with_config(PATHS[name].config.replace(timestep_spacing="log_snr"))
    model = models.GaussianModel(path, mean=0.3, covariance=0.25, prediction_type=path.config.prediction_type)
    x = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    for steps in (20, 40):
        pipeline = DiffusionPipeline(path, "dpmpp_2m")
        plan = pipeline.plan(steps)
        got = pipeline.sample(model, initial_noise=x, num_inference_steps=steps, dtype=torch.float64)
        end = model.reference_solution(x * plan.prior_scale, float(plan.time[0]), None)
        errors.append((got - end).abs().max().item())
    assert errors[1] < min(0.6 * errors[0], 0.02)


def test_a_pipeline_keeps_the_modifier_when_settings_change():
    pipeline = DiffusionPipeline(ShiftedSNR(VPPath(), 2.0), "ddim")
    before = pipeline.plan(5).sigma
    pipeline.update_config(timestep_spacing="linspace")
    assert isinstance(pipeline.scheduler, ShiftedSNR)
    assert pipeline.scheduler.config.timestep_spacing == "linspace"
    assert pipeline.plan(5).sigma[0] == before[0]


# ------------------------------------------------------------------------------- presets


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_build_and_plan(name):
    preset, config = PRESETS.get(name), NoiseSchedulerConfig.preset(name)
    assert preset.source
    assert preset.sampler in SAMPLERS
    assert {field: getattr(config, field) for field in preset.fields} == {
        field: tuple(v) if isinstance(v, list) else v for field, v in preset.fields.items()
    }
    steps = min(preset.steps or 20, 20)  # those of MiniMax-H3 are not published
    plan = DiffusionPipeline(config, preset.sampler).plan(steps)
    assert plan.steps == steps
    assert plan.alpha[0] < plan.sigma[0]
    assert plan.sigma[-1] == 0.0


@pytest.mark.parametrize(
    ("alias", "sigma_max", "sigma_min"),
    [("sd15", 14.6146, 0.029167), ("SD-1.5", 14.6146, 0.029167), ("sdxl", 14.6146, 0.029167), ("edm", 80.0, 0.002),
     ("dit", 157.407, 0.010000)],
)  # fmt: skip
def test_presets_have_the_known_noise_levels(alias, sigma_max, sigma_min):
    path = NoiseSchedulerFactory.create(NoiseSchedulerConfig.preset(alias))
    assert path.level(path.t_max).noise_to_signal == pytest.approx(sigma_max, rel=1e-4)
    assert path.level(path.t_min).noise_to_signal == pytest.approx(sigma_min, rel=1e-3)


def test_presets_can_be_changed_and_unknown_ones_get_the_nearest():
    assert NoiseSchedulerConfig.preset("sdxl", timestep_spacing="trailing", steps_offset=0).beta_end == 0.012
    assert NoiseSchedulerConfig.preset("flux").schedule_options["shift"] == pytest.approx(math.exp(1.15))
    assert resolution_shift(4096) == pytest.approx(math.exp(1.15))
    with pytest.raises(ConfigurationError, match=r"did you mean .*'flux-dev'"):
        NoiseSchedulerConfig.preset("flux_dev2")
    with pytest.raises(ConfigurationError, match="cannot be changed"):
        PRESETS.get("sdxl").fields["beta_end"] = 0.5


# ------------------------------------------------------------------------------- EDM's preconditioning


def test_edm_preconditioning_is_that_of_diffusers():
    from diffusers import EDMEulerScheduler

    theirs = EDMEulerScheduler(sigma_data=0.7)
    x, seen = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)), {}

    def network(scaled, c_noise, bias):
        seen.update(scaled=scaled, c_noise=c_noise)
        return torch.tanh(scaled) + bias

    sigma = torch.tensor(2.5)
    got = models.EDMPreconditioned(network, 0.7)(x, sigma, bias=0.25)
    scaled = theirs.precondition_inputs(x, sigma)
    torch.testing.assert_close(seen["scaled"], scaled)
    torch.testing.assert_close(seen["c_noise"], theirs.precondition_noise(sigma).reshape(1))
    torch.testing.assert_close(got, theirs.precondition_outputs(x, torch.tanh(scaled) + 0.25, sigma))


def test_edm_preconditioning_of_nothing_is_exact_for_gaussian_data():
    """With F = 0 the denoiser is the posterior mean of N(0, sigma_data²): its own derivation (Appendix B.6)."""
    path = EDMPath()
    exact = models.GaussianModel(path, covariance=0.25, prediction_type="sample")
    zero = models.EDMPreconditioned(lambda x, c_noise: torch.zeros_like(x), 0.5)
    x = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.tensor([0.002, 0.4, 3.0, 80.0], dtype=torch.float64)
    torch.testing.assert_close(zero(x, sigma), exact(x, sigma), rtol=1e-12, atol=1e-14)
    outputs = [
        DiffusionPipeline(path, "heun").sample(m, initial_noise=x, num_inference_steps=18) for m in (zero, exact)
    ]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)


def test_edm_preconditioning_keeps_half_precision_and_moves_with_its_network():
    assert models.EDMPreconditioned(torch.nn.Linear(2, 2)).state_dict().keys() == {"network.weight", "network.bias"}
    for dtype in (torch.float16, torch.bfloat16):
        network = models.EDMPreconditioned(lambda x, c_noise: x, 0.5)
        x = torch.full((1, 1, 2, 2), 500.0).to(dtype)
        wide = network(x.double(), 300.0)
        assert network(x, 300.0).dtype == dtype
        torch.testing.assert_close(network(x, 300.0).double(), wide, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    for wrong in ({"network": 3}, *({"network": torch.tanh, "sigma_data": bad} for bad in (0.0, "half", math.nan))):
        with pytest.raises(ConfigurationError):
            models.EDMPreconditioned(**wrong)
