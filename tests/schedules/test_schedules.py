"""The noise schedules: the request's formulas, continuity in time, the inverse, and accuracy at both ends."""

from __future__ import annotations

import decimal
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noise_scheduler_sampling_system import (
    BaseNoiseScheduler,
    ConfigurationError,
    CosineNoiseScheduler,
    ExponentialNoiseScheduler,
    LinearNoiseScheduler,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    QuadraticNoiseScheduler,
    SigmoidNoiseScheduler,
)

BUILT_IN = {
    "linear": LinearNoiseScheduler, "cosine": CosineNoiseScheduler, "quadratic": QuadraticNoiseScheduler,
    "sigmoid": SigmoidNoiseScheduler, "exponential": ExponentialNoiseScheduler,
}  # fmt: skip
COUNTS = [2, 10, 1000, 4000]
START, END = 0.0001, 0.02


def zero_snr(name: str = "linear", T: int = 1000) -> BaseNoiseScheduler:
    return BUILT_IN[name](num_train_timesteps=T, rescale_betas_zero_snr=True, prediction_type="v_prediction")


ALL = {name: kind() for name, kind in BUILT_IN.items()}
ALL["short"] = LinearNoiseScheduler(num_train_timesteps=2)
ALL["steep"] = ExponentialNoiseScheduler(beta_start=1e-10, beta_end=0.9, num_train_timesteps=50)
for _name in BUILT_IN:
    ALL[f"{_name} zero SNR"] = zero_snr(_name)


@pytest.fixture(params=list(ALL))
def schedule(request: pytest.FixtureRequest) -> BaseNoiseScheduler:
    return ALL[request.param]


# ------------------------------------------------------------------------------- the request's formulas


def betas_by_formula(name: str, T: int) -> list[float]:
    """Written from the request, one timestep at a time, with t/T read as i/(T − 1)."""
    betas = []
    for i in range(T):
        u = i / (T - 1)
        if name == "cosine":
            bar = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (i, i + 1)]
            betas.append(min(1 - bar[1] / bar[0], 0.999))
        else:
            betas.append(
                {
                    "linear": START + (END - START) * u,
                    "quadratic": START + (END - START) * u**2,
                    "sigmoid": START + (END - START) / (1 + math.exp(-(12 * u - 6))),
                    "exponential": START * (END / START) ** u,
                }[name]
            )
    return betas


@pytest.mark.parametrize("T", COUNTS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_betas_are_the_requests_formulas(name, T):
    made = BUILT_IN[name](num_train_timesteps=T)
    assert made.betas.dtype == torch.float64
    assert made.betas.shape == (T,)
    np.testing.assert_allclose(made.betas.numpy(), betas_by_formula(name, T), rtol=1e-12)


@pytest.mark.parametrize("T", COUNTS)
@pytest.mark.parametrize("name", ["linear", "quadratic", "exponential"])
def test_both_ends_are_hit(name, T):
    betas = BUILT_IN[name](num_train_timesteps=T, beta_start=0.003, beta_end=0.4).betas
    assert betas[0].item() == pytest.approx(0.003, rel=1e-14)
    assert betas[-1].item() == pytest.approx(0.4, rel=1e-14)


def test_the_sigmoid_stays_inside_its_ends():
    betas = SigmoidNoiseScheduler().betas
    assert START < float(betas[0]) < float(betas[-1]) < END
    assert betas[0].item() == pytest.approx(START + (END - START) / (1 + math.exp(6)), rel=1e-14)
    middle = (betas[499] + betas[500]) / 2
    assert middle.item() == pytest.approx((START + END) / 2, rel=1e-12)


def test_the_cosine_is_capped_and_otherwise_has_its_own_alpha_bar():
    made = CosineNoiseScheduler()
    assert made.betas[-1].item() == 0.999
    assert (made.betas[:-1] < 0.999).all()
    first = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for i in (0, 100, 500, 998):
        bar = math.cos(((i + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / first
        assert made.alphas_cumprod[i].item() == pytest.approx(bar, rel=1e-10)
    assert torch.equal(made.betas, CosineNoiseScheduler(beta_start=0.1, beta_end=0.2).betas)


def test_equal_ends_give_a_constant():
    for name in ("linear", "quadratic", "sigmoid", "exponential"):
        betas = BUILT_IN[name](beta_start=0.01, beta_end=0.01, num_train_timesteps=7).betas
        np.testing.assert_allclose(betas.numpy(), 0.01, rtol=1e-14)


def test_tables_are_consistent(schedule):
    assert torch.equal(schedule.alphas, 1 - schedule.betas)
    np.testing.assert_allclose(
        schedule.alphas_cumprod.numpy(), np.cumprod(schedule.alphas.numpy()), rtol=1e-9, atol=1e-300
    )
    assert ((schedule.betas > 0) & (schedule.betas <= 1)).all()


@pytest.mark.parametrize(("name", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_agrees_with_diffusers_where_both_mean_the_same_schedule(name, theirs):
    from diffusers import DDPMScheduler

    table = DDPMScheduler(beta_schedule=theirs).alphas_cumprod.double()
    torch.testing.assert_close(BUILT_IN[name]().alphas_cumprod, table, rtol=2e-4, atol=1e-7)


# ------------------------------------------------------------------------------- α, σ and log-SNR


def times_of(schedule: BaseNoiseScheduler, count: int = 400) -> np.ndarray:
    T = schedule.t_max
    inner = np.random.default_rng(0).uniform(0, T, count)
    return np.unique(np.concatenate([inner, np.arange(0, T + 1, max(1, T // 50)), [T]]))


def test_the_path_preserves_variance(schedule):
    t = times_of(schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-15 * 4)
    assert ((alpha >= 0) & (sigma > 0)).all()
    assert schedule.prior_std == 1.0


def test_whole_timesteps_are_the_levels_of_the_table(schedule):
    t = np.arange(schedule.num_train_timesteps)
    bar = schedule.alphas_cumprod.numpy()
    np.testing.assert_allclose(schedule.alpha(t), np.sqrt(bar), rtol=1e-13)
    np.testing.assert_allclose(schedule.sigma(t), np.sqrt(1 - bar), rtol=1e-5)


def test_noise_grows_strictly_with_time(schedule):
    t = times_of(schedule)
    assert (np.diff(schedule.log_snr(t)) < 0).all()
    assert (np.diff(schedule.sigma(t)) >= 0).all()
    assert (np.diff(schedule.alpha(t)) <= 0).all()


def test_log_snr_is_that_of_alpha_and_sigma(schedule):
    t = times_of(schedule)
    inside = schedule.alpha(t) > 0
    wanted = 2 * np.log(schedule.alpha(t)[inside] / schedule.sigma(t)[inside])
    np.testing.assert_allclose(schedule.log_snr(t)[inside], wanted, rtol=1e-9, atol=1e-12)
    assert (schedule.log_snr(t)[~inside] == -np.inf).all()


def test_between_whole_timesteps_log_sigma_over_alpha_is_linear_as_in_k_diffusion(schedule):
    whole = np.arange(schedule.num_train_timesteps)
    bar = schedule.alphas_cumprod.numpy()
    noisy = bar[-1] == 0.0
    last = len(whole) - (2 if noisy else 1)
    logs = 0.5 * np.log((1 - bar[: last + 1]) / bar[: last + 1])
    t = np.random.default_rng(1).uniform(0, max(last, 1e-9), 300)
    got = np.log(schedule.sigma(t) / schedule.alpha(t))
    np.testing.assert_allclose(got, np.interp(t, whole[: last + 1], logs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", BUILT_IN)
def test_in_the_last_interval_of_zero_snr_alpha_over_sigma_is_linear(name):
    schedule = zero_snr(name)
    ratio = schedule.alpha(998.0) / schedule.sigma(998.0)
    for fraction in (0.0, 0.25, 0.5, 0.999, 1.0):
        t = 998 + fraction
        got = schedule.alpha(t) / schedule.sigma(t)
        assert got == pytest.approx(ratio * (1 - fraction), rel=1e-9, abs=1e-18)


def test_time_is_the_inverse_of_log_snr(schedule):
    t = times_of(schedule)
    np.testing.assert_allclose(schedule.time(schedule.log_snr(t)), t, rtol=0, atol=1e-9 * max(1.0, schedule.t_max))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(list(ALL)), fraction=st.floats(0, 1))
def test_time_is_the_inverse_of_log_snr_anywhere(name, fraction):
    schedule = ALL[name]
    t = fraction * schedule.t_max
    back = schedule.time(schedule.log_snr(t))
    assert isinstance(back, float)
    assert back == pytest.approx(t, rel=1e-9, abs=1e-8)


def test_log_snr_outside_the_schedule_is_clamped(schedule):
    assert schedule.time(1e6) == 0.0
    assert schedule.time(-1e6) == pytest.approx(schedule.t_max, abs=1e-9)
    assert schedule.time(math.inf) == 0.0


# ------------------------------------------------------------------------------- kinds, shapes, ranges


@pytest.mark.parametrize("function", ["alpha", "sigma", "log_snr", "time"])
def test_kind_and_shape_are_preserved(function):
    schedule = ALL["cosine"]
    evaluate = getattr(schedule, function)
    value = 0.3 if function == "time" else 250.25
    wanted = evaluate(value)
    assert type(wanted) is float
    for kind in (np.float16, np.float32, np.float64):
        array = evaluate(np.full((2, 3), value, dtype=kind))
        assert isinstance(array, np.ndarray)
        assert (array.shape, array.dtype) == ((2, 3), kind)
        np.testing.assert_array_equal(array, np.array(evaluate(float(kind(value)))).astype(kind))  # rounded once
        assert type(evaluate(kind(value))) is kind
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        given = torch.full((2, 3), value, dtype=dtype)
        tensor = evaluate(given)
        assert isinstance(tensor, Tensor)
        assert (tensor.shape, tensor.dtype) == ((2, 3), dtype)
        assert torch.equal(tensor, evaluate(given.double()).to(dtype))
    assert evaluate(torch.tensor(value)).ndim == 0
    if function != "time":
        assert evaluate(torch.tensor([250, 3])).tolist() == [evaluate(250.0), evaluate(3.0)]
        assert evaluate(250) == evaluate(250.0)
    assert evaluate(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("bad", [-1, -1e-9, 999.001, 1000, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("function", ["alpha", "sigma", "log_snr", "level", "add_noise"])
def test_times_outside_the_schedule_are_refused(function, bad):
    schedule = ALL["linear"]
    x = torch.zeros(2, 3)
    call: Any = {
        "level": schedule.level, "add_noise": lambda t: schedule.add_noise(x, x, t),
    }.get(function, getattr(schedule, function))  # fmt: skip
    kinds: list[Any] = [float]
    if function != "level":
        kinds.append(lambda t: torch.tensor([5.0, t], dtype=torch.float64))
    if function not in ("level", "add_noise"):
        kinds.append(lambda t: np.array([5.0, t]))
    for kind in kinds:
        with pytest.raises(ConfigurationError, match=r"outside \[0, 999\]") as raised:
            call(kind(bad))
        assert raised.value.where == "t"
        assert str(bad) in raised.value.what


def test_levels_are_the_functions_in_one_pass(schedule):
    t = times_of(schedule, 20)
    levels = schedule.levels(t)
    assert [level.t for level in levels] == t.tolist()
    np.testing.assert_allclose([level.alpha for level in levels], schedule.alpha(t), rtol=1e-15)
    np.testing.assert_allclose([level.sigma for level in levels], schedule.sigma(t), rtol=1e-15)
    assert schedule.level(float(t[3])) == levels[3]
    last = levels[-1]
    assert last.noise_to_signal == (math.inf if last.alpha == 0 else last.sigma / last.alpha)


# ------------------------------------------------------------------------------- noising


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("t", [0, 999, 431, 17.25, torch.tensor(431), torch.tensor([17.25]), np.float32(17.25)])
def test_add_noise_and_velocity_at_one_time(t):
    schedule, (x0, noise) = ALL["sigmoid"], data()
    a, s = schedule.alpha(float(t)), schedule.sigma(float(t))
    torch.testing.assert_close(schedule.add_noise(x0, noise, t), a * x0 + s * noise, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(schedule.velocity(x0, noise, t), a * noise - s * x0, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("times", [torch.tensor([0, 10, 500, 999]), torch.tensor([0.5, 1.25, 998.75, 3.0])])
def test_add_noise_and_velocity_at_a_time_a_sample(times):
    schedule, (x0, noise) = ALL["cosine"], data()
    noisy, velocity = schedule.add_noise(x0, noise, times), schedule.velocity(x0, noise, times)
    for i, t in enumerate(times.tolist()):
        torch.testing.assert_close(noisy[i], schedule.add_noise(x0[i : i + 1], noise[i : i + 1], t)[0])
        torch.testing.assert_close(velocity[i], schedule.velocity(x0[i : i + 1], noise[i : i + 1], t)[0])


def test_add_noise_and_velocity_turn_into_one_another():
    """x = α·x₀ + σ·ε and v = α·ε − σ·x₀ are a rotation: both data come back."""
    schedule, (x0, noise) = ALL["quadratic"], data()
    t = torch.tensor([3.0, 200.5, 700.0, 999.0], dtype=torch.float64)
    a, s = (c.reshape(-1, 1, 1, 1) for c in (schedule.alpha(t), schedule.sigma(t)))
    x, v = schedule.add_noise(x0, noise, t), schedule.velocity(x0, noise, t)
    torch.testing.assert_close(a * x - s * v, x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(s * x + a * v, noise, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("t", [250.0, torch.tensor([1.0, 2.0, 3.0, 4.0])])
def test_noising_keeps_the_datas_type(dtype, t):
    schedule, (x0, noise) = ALL["linear"], data(dtype)
    noisy = schedule.add_noise(x0, noise, t)
    assert noisy.dtype == dtype
    wide = schedule.add_noise(x0.double(), noise.double(), t)
    torch.testing.assert_close(noisy.double(), wide, rtol=0, atol=16 * torch.finfo(dtype).eps)


def test_noising_leaves_its_input_alone_and_is_differentiable():
    schedule, (x0, noise) = ALL["linear"], data()
    kept = x0.clone()
    x0.requires_grad_()
    t = torch.tensor([3.0, 200.5, 700.0, 999.0], dtype=torch.float64)
    schedule.add_noise(x0, noise, t).sum().backward()
    wanted = schedule.alpha(t).reshape(-1, 1, 1, 1).expand_as(x0)
    torch.testing.assert_close(x0.grad, wanted)
    assert torch.equal(x0.detach(), kept)


@pytest.mark.parametrize(
    ("noise", "t", "where"),
    [
        (torch.zeros(4, 2), 3, "noise"),
        (torch.zeros(1, 2, 3, 3), 3, "noise"),
        (torch.zeros(4, 2, 3, 3), torch.tensor([1, 2]), "t"),
        (torch.zeros(4, 2, 3, 3), torch.zeros(4, 1), "t"),
        (torch.zeros(4, 2, 3, 3), "now", "t"),
        (torch.zeros(4, 2, 3, 3), [3, None, 3, 3], "t"),
        (torch.zeros(4, 2, 3, 3, device="meta"), 3, "noise"),
    ],
)
def test_noising_refuses_shapes_that_would_broadcast(noise, t, where):
    with pytest.raises(ConfigurationError) as raised:
        ALL["linear"].add_noise(torch.zeros(4, 2, 3, 3), noise, t)
    assert raised.value.where == where


@pytest.mark.parametrize("function", ["add_noise", "velocity", "get_velocity", "target"])
def test_samples_of_whole_numbers_are_refused(function):
    """α as a whole number is 0: the noised image would be black."""
    with pytest.raises(ConfigurationError, match="uint8") as raised:
        getattr(ALL["linear"], function)(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, 3), torch.tensor([3, 4]))
    assert raised.value.where == "x0"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32])
def test_a_look_up_is_the_formula(schedule, dtype):
    """Whole timesteps, as training code draws them, come from a table: at the same noise levels, in every type."""
    t = torch.tensor([0, 3, 7, 1]).clamp(max=int(schedule.t_max))
    x0, noise = data()
    wanted = schedule.add_noise(x0, noise, t.double())
    for wide in (torch.float64, torch.float32):
        got = schedule.add_noise(x0.to(wide), noise.to(wide), t.to(dtype))
        torch.testing.assert_close(got, wanted.to(wide))
    shorter = schedule.up_to(schedule.t_max - 1)
    assert torch.equal(shorter.add_noise(x0, noise, t * 0), schedule.add_noise(x0, noise, t * 0))
    for path, bad in ((schedule, -1), (schedule, int(schedule.t_max) + 1), (shorter, int(schedule.t_max))):
        with pytest.raises(ConfigurationError, match="outside"):
            path.add_noise(x0, noise, torch.tensor([0, bad, 0, 0]))


# ------------------------------------------------------------------------------- zero terminal SNR


@pytest.mark.parametrize("name", BUILT_IN)
def test_rescaling_to_zero_snr_is_algorithm_1(name):
    """Lin et al. 2023: √ᾱ shifted to end at 0 and scaled to keep its first value."""
    plain, rescaled = BUILT_IN[name]().alphas_cumprod.sqrt(), zero_snr(name).alphas_cumprod.sqrt()
    wanted = (plain - plain[-1]) * plain[0] / (plain[0] - plain[-1])
    torch.testing.assert_close(rescaled, wanted, rtol=1e-9, atol=1e-15)
    assert rescaled[-1] == 0.0
    assert zero_snr(name).betas[-1] == 1.0
    assert zero_snr(name).level(999.0)[1:] == (0.0, 1.0)


def test_a_last_beta_of_one_is_zero_snr_too():
    config = NoiseSchedulerConfig(
        beta_schedule="custom", trained_betas=[0.1, 0.5, 1.0], prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )  # fmt: skip
    made = NoiseSchedulerFactory.create(config)
    assert made.level(2.0)[1:] == (0.0, 1.0)
    torch.testing.assert_close(made.alphas_cumprod, torch.tensor([0.9, 0.45, 0.0], dtype=torch.float64))
    assert made.time(made.log_snr(1.5)) == pytest.approx(1.5)


# ------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("name", ["linear", "steep", "cosine", "tiny"])
def test_no_digits_are_lost_at_either_end(name):
    """α, σ and log-SNR against 60-digit arithmetic on the same betas."""
    tiny = LinearNoiseScheduler(beta_start=1e-14, beta_end=1e-13, num_train_timesteps=40)
    schedule = ALL.get(name, tiny)
    with decimal.localcontext() as context:
        context.prec = 60
        bar, T = Decimal(1), schedule.num_train_timesteps
        for i, beta in enumerate(schedule.betas.tolist()):
            bar *= 1 - Decimal(beta)
            if i in (0, 1, 2, T // 3, T // 2, T - 2, T - 1):
                level = schedule.level(float(i))
                assert level.alpha == pytest.approx(float(bar.sqrt()), rel=1e-13)
                assert level.sigma == pytest.approx(float((1 - bar).sqrt()), rel=1e-12)
                log_snr = float((bar / (1 - bar)).ln())
                assert schedule.log_snr(float(i)) == pytest.approx(log_snr, rel=1e-12, abs=1e-12)


# ------------------------------------------------------------------------------- custom classes


def made_from(values: Any, **fields: Any) -> BaseNoiseScheduler:
    class Mine(BaseNoiseScheduler):
        def _get_beta_schedule(self):
            return values

    return Mine(**fields)


@pytest.mark.parametrize(
    "betas",
    [[0.1, 0.2, 0.3], (0.1, 0.2, 0.3), np.array([0.1, 0.2, 0.3]), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)],
    ids=["list", "tuple", "array", "tensor"],
)
def test_a_subclass_returns_its_betas_in_any_form(betas):
    schedule = made_from(betas, num_train_timesteps=3)
    assert schedule.betas.tolist() == [0.1, 0.2, 0.3]
    assert schedule.alpha(1.0) == pytest.approx(math.sqrt(0.9 * 0.8))
    assert schedule.time(schedule.log_snr(0.7)) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("betas", "what"),
    [
        ([0.1, 0.2], "shape (2,)"),
        ([[0.1, 0.2, 0.3]], "shape (1, 3)"),
        ([0.1, 0.0, 0.3], "beta 0.0 at index 1"),
        ([0.1, 1.0, 0.3], "beta 1.0 at index 1"),
        ([0.1, 0.2, 1.1], "beta 1.1 at index 2"),
        ([0.1, math.nan, 0.3], "beta nan at index 1"),
        ([-0.1, 0.2, 0.3], "beta -0.1 at index 0"),
    ],
)
def test_a_subclass_with_impossible_betas_is_named(betas, what):
    with pytest.raises(ConfigurationError) as raised:
        made_from(betas, num_train_timesteps=3)
    assert what in raised.value.what
    assert raised.value.where == "Mine._get_beta_schedule()"


def test_a_schedule_does_not_share_memory_with_what_made_it():
    given = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    schedule = made_from(given, num_train_timesteps=3)
    before = schedule.level(1.0)
    given.zero_()
    assert schedule.level(1.0) == before


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="_get_beta_schedule"):
        BaseNoiseScheduler()  # type: ignore[abstract]
