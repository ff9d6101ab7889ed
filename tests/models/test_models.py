"""The exact models against brute force, automatic differentiation and an independent integrator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.integrate import solve_ivp  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from noise_scheduler_sampling_system.models import (
    DigitsModel,
    ExactModel,
    GaussianMixtureModel,
    GaussianModel,
    KernelDensityModel,
    load_digits,
)
from noise_scheduler_sampling_system.models import digits as digits_module
from noise_scheduler_sampling_system.models import prior as prior_module
from noise_scheduler_sampling_system.models.ode import integrate
from noise_scheduler_sampling_system.schedules import CosineNoiseScheduler, LinearNoiseScheduler, NoisePath
from noise_scheduler_sampling_system.support.errors import ConfigurationError, NumericsError

PATH = LinearNoiseScheduler()
ZERO_SNR = LinearNoiseScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
Array = npt.NDArray[np.float64]
KINDS = ("epsilon", "sample", "v_prediction")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small operations gain nothing from threads, and lose much where other processes hold the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@final
class StraightPath(NoisePath):
    """x = (1 − t)·x₀ + t·ε on [0, 1]: no signal at one end, no noise at the other."""

    t_min, t_max = 0.0, 1.0

    def _log_snr(self, t: Tensor) -> Tensor:
        return 2.0 * torch.log((1.0 - t) / t)

    def _time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2.0)

    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(log_snr / 2.0), torch.sigmoid(-log_snr / 2.0)


STRAIGHT = StraightPath()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")


MEANS = 2.0 * randn(5, 2, 3, seed=1)
VARIANCES = torch.tensor([0.04, 0.3, 1.0, 2.5, 0.09], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0, 2, 1])


def mixture(path: NoisePath = PATH, kind: str = "epsilon", labels: Tensor | None = LABELS) -> GaussianMixtureModel:
    return GaussianMixtureModel(path, MEANS, VARIANCES, WEIGHTS, labels, kind)


def kernel_density(path: NoisePath = PATH, kind: str = "epsilon") -> KernelDensityModel:
    return KernelDensityModel(path, MEANS, 0.3, LABELS, kind)


def log_density(x: Tensor, alpha: float, sigma: float, means: Tensor, variances: Tensor, weights: Tensor) -> Tensor:
    """log p(x) of a mixture at a noise level, written out; x (B, d), means (K, d)."""
    total = alpha**2 * variances + sigma**2
    distance = (x[:, None] - alpha * means).square().sum(-1)
    each = weights.log() - weights.sum().log() - distance / (2 * total) - x.shape[1] / 2 * (2 * math.pi * total).log()
    return each.logsumexp(1)


def tweedie(x: Tensor, alpha: float, sigma: float, *law: Tensor) -> Tensor:
    """(x + σ²·∇log p(x))/α, the clean sample by differentiation of the density."""
    x = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(log_density(x, alpha, sigma, *law).sum(), x)
    return (x.detach() + sigma**2 * score) / alpha


def brute_force(x: Tensor, alpha: float, sigma: float, means: Tensor, variances: Tensor, weights: Tensor) -> Tensor:
    """Σ_k P(k | x)·E[x₀ | x, k], one sample and component at a time."""
    rows = []
    for row in x:
        logs = [
            log_density(row[None], alpha, sigma, m[None], v[None], w[None]) + w.log()
            for m, v, w in zip(means, variances, weights, strict=True)
        ]
        posterior = torch.cat(logs).softmax(0)
        gains = [alpha * v / (alpha**2 * v + sigma**2) for v in variances]
        rows.append(sum(p * (m + g * (row - alpha * m)) for p, g, m in zip(posterior, gains, means, strict=True)))
    return torch.stack(rows)


def law_of(model: ExactModel) -> tuple[Tensor, Tensor, Tensor]:
    if isinstance(model, GaussianMixtureModel):
        return MEANS.flatten(1), VARIANCES, WEIGHTS
    return MEANS.flatten(1), torch.full((5,), 0.09, dtype=torch.float64), torch.ones(5, dtype=torch.float64)


@pytest.mark.parametrize("make", [mixture, kernel_density])
@pytest.mark.parametrize("t", [0, 37, 400, 999])
def test_denoiser_is_the_posterior_mean(make: Callable[[], ExactModel], t: int) -> None:
    model, (_, alpha, sigma) = make(), PATH.level(t)
    x = alpha * MEANS[[0, 3, 1, 4]] + sigma * randn(4, 2, 3) + 0.3 * randn(4, 2, 3, seed=9)
    got = model.denoise(x, t).flatten(1)
    torch.testing.assert_close(got, brute_force(x.flatten(1), alpha, sigma, *law_of(model)), rtol=1e-10, atol=1e-10)
    error = (got - tweedie(x.flatten(1), alpha, sigma, *law_of(model))).abs().max()
    assert error < 1e-13 / alpha**2 + 1e-11  # differentiation divides rounding by α


@pytest.mark.parametrize("make", [mixture, kernel_density])
@pytest.mark.parametrize("t", [0, 500, 999])
def test_prediction_types_are_one_prediction(make: Callable[..., ExactModel], t: int) -> None:
    x, (_, alpha, sigma) = randn(3, 2, 3), PATH.level(t)
    epsilon, clean, v = (make(kind=kind)(x, t) for kind in KINDS)
    torch.testing.assert_close(alpha * clean + sigma * epsilon, x, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(alpha * epsilon - sigma * clean, v, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_times_per_sample_are_times_one_by_one(kind: str, dtype: torch.dtype) -> None:
    times = torch.tensor([3, 700, 250], dtype=dtype)
    for model, shape in ((mixture(kind=kind), (2, 3)), (DigitsModel(PATH, kind), (3, 9, 12))):
        x = randn(3, *shape)
        together = model(x, times)
        for i, t in enumerate(times):
            torch.testing.assert_close(together[i : i + 1], model(x[i : i + 1], float(t)), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(together[i : i + 1], model(x[i : i + 1], t), rtol=1e-12, atol=1e-12)
    assert (model(x, 700) - together).abs().max() > 1e-3  # the time matters at all


def test_fractional_times_follow_the_path() -> None:
    x, (_, alpha, sigma) = randn(2, 2, 3), PATH.level(123.25)
    got = mixture().denoise(x, 123.25).flatten(1)
    want = tweedie(x.flatten(1), alpha, sigma, *law_of(mixture()))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_a_class_is_the_model_of_its_components() -> None:
    x, wanted = randn(3, 2, 3), torch.tensor([2, 0, 1])
    got = mixture().denoise(x, 600, class_labels=wanted)
    for i, label in enumerate(wanted):
        of_class = label == LABELS
        alone = GaussianMixtureModel(PATH, MEANS[of_class], VARIANCES[of_class], WEIGHTS[of_class])
        torch.testing.assert_close(got[i : i + 1], alone.denoise(x[i : i + 1], 600), rtol=1e-12, atol=1e-12)
        solution = mixture().reference_solution(x, class_labels=wanted)
        torch.testing.assert_close(solution[i : i + 1], alone.reference_solution(x[i : i + 1]), rtol=1e-9, atol=1e-9)


def test_the_null_class_is_any_class() -> None:
    x, model = randn(4, 2, 3), mixture()
    assert model.null_class == 3
    free = model(x, 300)
    torch.testing.assert_close(model(x, 300, class_labels=3), free, rtol=0, atol=0)
    torch.testing.assert_close(model(x, 300, class_labels=None), free, rtol=0, atol=0)
    mixed = model(x, 300, class_labels=torch.tensor([3, 0, 3, 1]))
    torch.testing.assert_close(mixed[[0, 2]], free[[0, 2]], rtol=1e-14, atol=1e-14)
    assert (mixed[[1, 3]] - free[[1, 3]]).abs().amin(0).max() > 1e-3


def test_null_condition() -> None:
    labels = torch.tensor([1, 2])
    null = mixture().null_condition({"class_labels": labels})
    assert null["class_labels"].tolist() == [3, 3]
    assert null["class_labels"].dtype == labels.dtype
    assert labels.tolist() == [1, 2]
    assert mixture().null_condition({}) == {}
    assert mixture().null_condition({"class_labels": None})["class_labels"] is None
    assert int(DigitsModel(PATH).null_condition({"class_labels": 4})["class_labels"]) == 10
    with pytest.raises(ConfigurationError, match="class_label"):
        GaussianModel(PATH).null_condition({"class_labels": labels})


@pytest.mark.parametrize("labels", [[0, 4], [-1, 0], [0, 1, 2], [0.0, 1.0], [[0, 1]], [True, False]])
def test_bad_labels_are_refused(labels: Any) -> None:
    with pytest.raises(ConfigurationError, match="class_labels"):
        mixture()(randn(2, 2, 3), 10, class_labels=torch.tensor(labels))


@pytest.mark.parametrize(
    ("where", "build"),
    [
        ("prediction_type", lambda: mixture(kind="flow")),
        ("class_labels", lambda: mixture(labels=None)(randn(2, 2, 3), 1, class_labels=0)),
        ("prompt", lambda: mixture()(randn(2, 2, 3), 1, prompt="seven")),
        ("labels", lambda: mixture(labels=torch.tensor([0, 0, 0, 2, 2]))),
        ("labels", lambda: mixture(labels=torch.tensor([0, 1]))),
        ("variances", lambda: GaussianMixtureModel(PATH, MEANS, -1.0)),
        ("variances", lambda: GaussianMixtureModel(PATH, MEANS, [1.0, 2.0])),
        ("weights", lambda: GaussianMixtureModel(PATH, MEANS, 1.0, [0.0] * 5)),
        ("weights", lambda: GaussianMixtureModel(PATH, MEANS, 1.0, [1.0])),
        ("bandwidth", lambda: KernelDensityModel(PATH, MEANS, math.nan)),
        ("bandwidth", lambda: DigitsModel(PATH, bandwidth=0.0)),
        ("bandwidth", lambda: DigitsModel(PATH, bandwidth="narrow")),
        ("means", lambda: KernelDensityModel(PATH, torch.empty(0, 3), 0.1)),
        ("x", lambda: mixture()(randn(2, 3, 2), 1)),
        ("x", lambda: mixture()(torch.zeros(2, 2, 3, dtype=torch.int64), 1)),
        ("x", lambda: DigitsModel(PATH)(randn(2, 64), 1)),
        ("t", lambda: mixture()(randn(2, 2, 3), torch.tensor([1, 2, 3]))),
        ("t", lambda: mixture()(randn(2, 2, 3), 1000)),
        ("covariance", lambda: GaussianModel(PATH, torch.zeros(3), -1.0)),
        ("covariance", lambda: GaussianModel(PATH, torch.zeros(3), torch.ones(2))),
        ("covariance", lambda: GaussianModel(PATH, torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))),
        ("covariance", lambda: GaussianModel(PATH, torch.zeros(2), torch.tensor([[1.0, 2.0], [0.0, 1.0]]))),
        ("shape", lambda: DigitsModel(PATH).sample_data(3)),
        ("t", lambda: DigitsModel(STRAIGHT).reference_solution(randn(1, 1, 9, 9), 0.0, 0.5)),
    ],
)
def test_what_cannot_work_is_refused(where: str, build: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        build()
    assert refusal.value.where == where
    assert refusal.value.suggestion


@pytest.mark.parametrize("covariance", ["scalar", "diagonal", "matrix"])
def test_gaussian_denoiser_and_flow(covariance: str) -> None:
    mean, root = randn(2, 2), randn(4, 4, seed=3)
    each, eye = randn(2, 2, seed=2).square() + 0.1, torch.eye(4, dtype=torch.float64)
    cases: dict[str, tuple[Any, Tensor]] = {
        "scalar": (0.7, 0.7 * eye),
        "diagonal": (each, torch.diag(each.flatten())),
        "matrix": (root @ root.T, root @ root.T),
    }
    variances, matrix = cases[covariance]
    model, x, (_, alpha, sigma) = GaussianModel(PATH, mean, variances), randn(3, 2, 2, seed=4), PATH.level(200)
    gain = alpha * matrix @ torch.linalg.inv(alpha**2 * matrix + sigma**2 * eye)
    want = mean.flatten() + (x.flatten(1) - alpha * mean.flatten()) @ gain.T
    torch.testing.assert_close(model.denoise(x, 200).flatten(1), want, rtol=1e-10, atol=1e-10)

    def slope(s: float, flat: Array) -> Array:
        u = torch.from_numpy(flat).reshape(3, 4)
        total = matrix + s**2 * eye
        slopes: Array = (s * torch.linalg.solve(total, (u - mean.flatten()).T).T).flatten().numpy()
        return slopes

    start = (x / alpha).flatten().numpy()
    solved = solve_ivp(slope, (sigma / alpha, 0.0), start, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    got = model.reference_solution(x, 200)
    assert got.dtype == torch.float64
    assert np.abs(got.flatten().numpy() - solved).max() < 1e-9


def test_a_singular_covariance_is_not_refused_for_its_rounding() -> None:
    direction = randn(6, 1, seed=11)
    matrix = direction @ direction.T
    assert torch.linalg.eigvalsh(matrix).min() < 0.0  # what rounding makes of a zero
    solution = GaussianModel(PATH, torch.zeros(6), matrix).reference_solution(randn(3, 6))
    assert torch.linalg.svdvals(solution)[1] < 1e-12


def test_gaussian_equals_a_mixture_of_one() -> None:
    mean, x = randn(2, 3), 3.0 * randn(4, 2, 3, seed=5)
    one, many = GaussianModel(PATH, mean, 0.3), GaussianMixtureModel(PATH, mean[None], 0.3)
    for t, t_end in ((999.0, None), (640.0, 12.5), (100.0, 900.0)):
        torch.testing.assert_close(one.reference_solution(x, t, t_end), many.reference_solution(x, t, t_end))
    torch.testing.assert_close(one(x, 300), many(x, 300), rtol=1e-13, atol=1e-13)


def test_gaussian_variances_may_be_zero_and_shapes_any() -> None:
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    model, x = GaussianModel(PATH, mean, torch.tensor([0.0, 0.5])), randn(3, 2)
    solution = model.reference_solution(x)
    assert (solution[:, 0] - 1.0).abs().max() < 1e-15
    assert (solution[:, 1] + 2.0).abs().max() > 0.1
    torch.testing.assert_close(model.denoise(x, 100)[:, 0], torch.ones(3, dtype=torch.float64))
    free = GaussianModel(PATH, 0.5, 2.0)
    fixed = GaussianModel(PATH, torch.full((1, 4, 4), 0.5), 2.0)
    torch.testing.assert_close(free(randn(2, 1, 4, 4), 50), fixed(randn(2, 1, 4, 4), 50))
    assert free.sample_data(3, (5, 2)).shape == (3, 5, 2)


@pytest.mark.parametrize("make", [mixture, kernel_density])
@pytest.mark.parametrize(("t", "t_end"), [(999.0, None), (400.0, 20.0)])
def test_reference_solution_agrees_with_another_integrator(
    make: Callable[[], ExactModel], t: float, t_end: float | None
) -> None:
    model, x, (_, alpha, sigma) = make(), randn(4, 2, 3, seed=6), PATH.level(t)
    alpha_end, sigma_end = (1.0, 0.0) if t_end is None else PATH.level(t_end)[1:]
    law = tuple(part.numpy() for part in law_of(model))

    def slope(s: float, flat: Array) -> Array:
        """s·Σ_k w_k (x̄ − μ_k)/(s² + v_k): the ODE of x̄ = x/α in s = σ/α, smooth at s = 0."""
        means, variances, weights = law
        total, away = variances + s**2, flat.reshape(4, 1, 6) - means
        logits = np.log(weights) - 3 * np.log(total) - (away**2).sum(-1) / (2 * total)
        posterior = np.exp(logits - logits.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
        return np.asarray(s * ((posterior / total)[..., None] * away).sum(1).ravel())

    start, interval = (x / alpha).flatten().numpy(), (sigma / alpha, sigma_end / alpha_end)
    solved = alpha_end * solve_ivp(slope, interval, start, method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
    assert np.abs(model.reference_solution(x, t, t_end).flatten().numpy() - solved).max() < 1e-8


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mixture(), (2, 3)),
        (kernel_density(CosineNoiseScheduler()), (2, 3)),
        (GaussianModel(PATH, MEANS[0], 0.5), (2, 3)),
        (DigitsModel(PATH), (3, 10, 14)),
    ],
)
def test_flows_compose_and_turn_back(model: ExactModel, shape: tuple[int, ...]) -> None:
    x = randn(3, *shape, seed=7)
    direct, part = model.reference_solution(x), model.reference_solution(x, t_end=333.5)
    assert (part - direct).abs().max() > 1e-2
    torch.testing.assert_close(model.reference_solution(part, 333.5), direct, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.reference_solution(part, 333.5, 999.0), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.reference_solution(x, 500.0, 500.0), x, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("path", [PATH, ZERO_SNR, STRAIGHT])
def test_the_flow_carries_noise_to_data(path: NoisePath) -> None:
    """The solutions from noise have the distribution of the data: means, and the share of each basin."""
    means = torch.tensor([[-2.0], [1.5]])
    model = GaussianMixtureModel(path, means, [0.01, 0.04], [3.0, 1.0], prediction_type="sample")
    # at the noisiest level of a path with signal left, x is the data's mixture, not pure noise
    _, alpha, sigma = path.level(path.t_max)
    x = alpha * model.sample_data(4000, generator=1) + sigma * randn(4000, 1, seed=2)
    solution = model.reference_solution(x)
    for mean, deviation, share in ((-2.0, 0.1, 0.75), (1.5, 0.2, 0.25)):
        near = solution[(solution - mean).abs() < 1.0]
        assert abs(near.numel() / 4000 - share) < 0.03
        assert abs(float(near.mean()) - mean) < 4 * deviation / math.sqrt(near.numel())
        assert float(near.std()) == pytest.approx(deviation, rel=0.06)


@pytest.mark.parametrize("path", [ZERO_SNR, STRAIGHT])
@pytest.mark.parametrize("make", [mixture, kernel_density])
def test_pure_noise_predicts_the_mean_of_the_data(make: Callable[..., ExactModel], path: NoisePath) -> None:
    x, t = randn(3, 2, 3), path.t_max
    assert path.level(t).alpha == 0.0
    means, _, weights = law_of(make())
    mean = (weights[:, None] * means).sum(0).reshape(2, 3) / weights.sum()
    torch.testing.assert_close(make(path, "sample")(x, t), mean.expand_as(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(make(path, "v_prediction")(x, t), -mean.expand_as(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(make(path, "epsilon")(x, t), x, rtol=1e-13, atol=1e-13)
    solution = make(path, "sample").reference_solution(x)
    nearly = path.time(path.log_snr(torch.tensor(path.t_max * (1 - 1e-9), dtype=torch.float64)))
    torch.testing.assert_close(
        solution, make(path, "sample").reference_solution(x, float(nearly)), rtol=1e-4, atol=1e-4
    )


def test_without_noise_the_sample_is_itself() -> None:
    x = randn(3, 2, 3)
    for make in (mixture, kernel_density):
        torch.testing.assert_close(make(STRAIGHT, "sample")(x, 0.0), x)
        for kind in ("epsilon", "v_prediction"):
            assert make(STRAIGHT, kind)(x, 0.0).abs().max() < 1e-70
    points = KernelDensityModel(STRAIGHT, MEANS, 0.0)
    torch.testing.assert_close(points.denoise(MEANS[[3, 1]], 0.0), MEANS[[3, 1]])


def test_velocity_keeps_its_digits_where_noise_or_signal_is_small() -> None:
    """For data of unit variance v is −σμ exactly, though αε and σx₀ are large and cancel."""
    model = GaussianModel(PATH, torch.zeros(2), 1.0, "v_prediction")
    assert not model(1e3 * randn(4, 2), torch.tensor([0.0, 1.0, 500.0, 999.0])).any()


def test_points_flow_to_levels_but_have_no_smooth_end() -> None:
    points, x = KernelDensityModel(PATH, MEANS, 0.0), randn(2, 2, 3)
    near = points.reference_solution(x, t_end=0.0)
    assert (near[:, None] - MEANS).flatten(2).norm(dim=2).amin(1).max() < 0.2
    with pytest.raises(ConfigurationError, match="no width"):
        points.reference_solution(x)


def test_large_batches_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x, times, labels = randn(7, 2, 3), torch.arange(7) * 100, torch.tensor([0, 1, 2, 3, 0, 1, 2])
    model = mixture()
    whole = [model(x, times, class_labels=labels), model(x, 5), model.reference_solution(x)]
    monkeypatch.setattr(prior_module, "_TABLE_LIMIT", 10)  # two rows of five components
    pieces = [model(x, times, class_labels=labels), model(x, 5), model.reference_solution(x)]
    torch.testing.assert_close(pieces, whole, rtol=1e-11, atol=1e-11)


def test_digits_at_their_own_size_are_a_kernel_density() -> None:
    images, labels = load_digits()
    assert images.shape == (1797, 8, 8)
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images.min() == -1.0
    assert images.max() == 1.0
    x, wanted = randn(2, 1, 8, 8), torch.tensor([3, 10])
    for kind in KINDS:
        digits = DigitsModel(PATH, kind, bandwidth=0.2)
        plain = KernelDensityModel(PATH, images[:, None], 0.2, labels, kind)
        assert digits.null_class == plain.null_class == 10
        for t in (0, 300, 999):
            torch.testing.assert_close(
                digits(x, t, class_labels=wanted), plain(x, t, class_labels=wanted), rtol=1e-10, atol=1e-10
            )
    torch.testing.assert_close(digits.reference_solution(x), plain.reference_solution(x), rtol=1e-8, atol=1e-8)


def cosines(size: int) -> Tensor:
    """The 8 lowest vectors of the orthonormal DCT-II, by its definition."""
    rows = [[math.cos(math.pi * k * (2 * i + 1) / (2 * size)) for k in range(min(8, size))] for i in range(size)]
    basis = torch.tensor(rows, dtype=torch.float64)
    return basis / basis.square().sum(0).sqrt()


def test_large_digits_are_small_digits_seen_through_a_basis() -> None:
    """At (3, 32, 48) the coefficients of x follow the 8×8 model at noise σ/c."""
    x, images = randn(2, 3, 32, 48), load_digits()[0]
    scale = math.sqrt(3 * 32 * 48 / 64)
    eight, rows, columns = cosines(8), cosines(32), cosines(48)

    def shrunk(image: Tensor) -> Tensor:
        """(B, 3, 32, 48) to the 8×8 image with the same coefficients."""
        small: Tensor = eight @ (rows.T @ image.sum(1) @ columns / math.sqrt(3)) @ eight.T / scale
        return small

    def enlarged(image: Tensor) -> Tensor:
        one: Tensor = rows @ (eight.T @ image @ eight) @ columns.T * scale / math.sqrt(3)
        return one[:, None].expand(-1, 3, -1, -1)

    model, (_, alpha, sigma) = DigitsModel(PATH), PATH.level(700)
    clean = model.denoise(x, 700)
    law = images.flatten(1), torch.full((1797,), 0.01, dtype=torch.float64), torch.ones(1797, dtype=torch.float64)
    want = tweedie(shrunk(x).flatten(1), alpha, sigma / scale, *law).reshape(2, 8, 8)
    torch.testing.assert_close(shrunk(clean), want, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(clean, enlarged(want), rtol=1e-8, atol=1e-8)
    assert float(enlarged(images[:5]).mean()) == pytest.approx(float(images[:5].mean()), abs=1e-12)  # pixels keep scale


def test_off_the_digits_there_is_only_noise() -> None:
    x, (_, alpha, sigma) = randn(2, 3, 16, 16), PATH.level(400)
    rows = cosines(16)
    inside = (rows @ (rows.T @ x.mean(1, keepdim=True) @ rows) @ rows.T).expand_as(x)  # x on the digits' subspace
    off = x - inside
    assert off.abs().max() > 1.0
    for kind, factor in (("epsilon", 1 / sigma), ("sample", 0.0), ("v_prediction", alpha / sigma)):
        model = DigitsModel(PATH, kind)
        torch.testing.assert_close(model(x, 400) - model(inside, 400), factor * off, rtol=1e-10, atol=1e-10)
    whole, part = (model.reference_solution(start, 400.0, 100.0) for start in (x, inside))
    torch.testing.assert_close(whole - part, PATH.level(100).sigma / sigma * off, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.reference_solution(x), model.reference_solution(inside), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "shape", [(8, 8), (5, 20), (1, 4, 4), (3, 8, 8), (3, 1, 1), (4, 64, 64), (2, 3, 16, 16), (1, 8, 3)]
)
def test_digits_of_any_shape_obey_tweedie(shape: tuple[int, ...]) -> None:
    """Their draws have the covariance structure of the model, and the prediction types agree."""
    x, t = randn(2, *shape), 500
    _, alpha, sigma = PATH.level(t)
    epsilon, clean, v = (DigitsModel(PATH, kind)(x, t) for kind in KINDS)
    assert clean.shape == x.shape
    torch.testing.assert_close(alpha * clean + sigma * epsilon, x, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(alpha * epsilon - sigma * clean, v, rtol=1e-11, atol=1e-11)
    model = DigitsModel(PATH)
    drawn = model.sample_data(200, shape, generator=0)
    assert drawn.shape == (200, *shape)
    assert drawn.is_contiguous()
    assert 0.05 < float(drawn.abs().mean()) < 1.5
    # data drawn and noised a little is denoised to itself, to within what the noise can move it
    noisy = PATH.level(0).alpha * drawn + PATH.level(0).sigma * randn(200, *shape)
    pixels = math.prod(shape)
    rank = min(8, shape[-1]) * min(8, shape[-2])
    rms = float((model.denoise(noisy, 0) - drawn).square().mean().sqrt())
    assert rms < 1.3 * PATH.level(0).sigma * math.sqrt(rank / pixels)


def test_digits_solutions_look_like_the_class_asked_for() -> None:
    images, labels = load_digits()
    wanted = torch.arange(10).repeat(3)
    solution = DigitsModel(PATH).reference_solution(randn(30, 1, 8, 8, seed=8), class_labels=wanted)
    nearest = torch.cdist(solution.flatten(1), images.flatten(1)).min(1)
    assert labels[nearest.indices].tolist() == wanted.tolist()
    assert (nearest.values < 1.5).all()  # √64·0.1 = 0.8 is the radius of the smoothing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model", [mixture(), kernel_density(), GaussianModel(PATH, MEANS[0], 0.5)])
def test_the_dtype_of_x_is_kept_and_not_computed_in(model: ExactModel, dtype: torch.dtype) -> None:
    x = randn(3, 2, 3).to(dtype)
    got = model(x, 20)
    assert got.dtype == dtype
    torch.testing.assert_close(got, model(x.double(), 20).to(dtype), rtol=0, atol=0)
    assert model.reference_solution(x).dtype == torch.float64


def test_sample_data_follows_the_law_and_the_seed() -> None:
    model = mixture()
    drawn = model.sample_data(20000, generator=3)
    assert drawn.shape == (20000, 2, 3)
    assert drawn.dtype == torch.float64
    torch.testing.assert_close(drawn, model.sample_data(20000, generator=3), rtol=0, atol=0)
    assert not torch.equal(drawn, model.sample_data(20000, generator=4))
    share = WEIGHTS / WEIGHTS.sum()
    mean = (share[:, None] * MEANS.flatten(1)).sum(0)
    second = (share[:, None] * (MEANS.flatten(1).square() + VARIANCES[:, None])).sum(0)
    torch.testing.assert_close(drawn.flatten(1).mean(0), mean, rtol=0, atol=0.08)
    torch.testing.assert_close(drawn.flatten(1).square().mean(0), second, rtol=0.06, atol=0.06)
    only = model.sample_data(2000, generator=3, class_labels=2)
    torch.testing.assert_close(only.mean(0), MEANS[3], rtol=0, atol=0.15)
    matrix = torch.tensor([[2.0, 0.9], [0.9, 0.5]], dtype=torch.float64)
    gaussian = GaussianModel(PATH, torch.tensor([1.0, -1.0]), matrix).sample_data(20000, generator=5)
    torch.testing.assert_close(gaussian.T.cov(), matrix, rtol=0.05, atol=0.05)


def test_models_copy_share_threads_and_differentiate() -> None:
    digits_module._law.cache_clear()  # so that inference mode is what makes the tables
    x = randn(2, 3, 16, 16)
    for model in (DigitsModel(PATH), KernelDensityModel(PATH, randn(4, 3, 16, 16, seed=2), 0.3)):
        with torch.inference_mode():
            want = model(x, 50).clone()
        torch.testing.assert_close(copy.deepcopy(model)(x, 50), want, rtol=0, atol=0)
        with ThreadPoolExecutor(4) as pool:
            for got in pool.map(lambda _, m=model: m(x, 50), range(8)):
                torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model.denoise(leaf, 50).sum(), leaf)  # refused by inference-mode constants
        assert slope.abs().max() > 0


def test_empty_batches_stay_empty() -> None:
    for model, shape in ((mixture(), (2, 3)), (DigitsModel(PATH), (3, 16, 16)), (DigitsModel(PATH), (1, 8, 8))):
        assert model(torch.empty(0, *shape), 5).shape == (0, *shape)
        assert model.reference_solution(torch.empty(0, *shape)).shape == (0, *shape)


def test_integrator_reaches_its_tolerance_both_ways() -> None:
    y = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def turn(state: Tensor, s: float) -> Tensor:
        return 2 * s * torch.stack([-state[1], state[0]])

    want = torch.tensor([math.cos(25.0), math.sin(25.0)], dtype=torch.float64)
    there = integrate(turn, y, 0.0, 5.0)
    assert 0 < (there - want).abs().max() < 1e-10
    assert (integrate(turn, y, 0.0, 5.0, tolerance=1e-5) - want).abs().max() < 1e-3
    assert (integrate(turn, there, 5.0, 0.0) - y).abs().max() < 1e-10
    assert integrate(turn, y, 3.0, 3.0) is y


@pytest.mark.parametrize("slope", [lambda y, s: y * y, lambda y, s: y * math.nan])
def test_integrator_says_when_it_cannot(slope: Callable[[Tensor, float], Tensor]) -> None:
    with pytest.raises(NumericsError, match="error below"):
        integrate(slope, torch.ones(3, dtype=torch.float64), 0.0, 2.0)


def test_samples_that_are_not_finite_have_no_solution() -> None:
    with pytest.raises(NumericsError, match="finite"):
        mixture().reference_solution(torch.full((1, 2, 3), math.nan))


def test_defaults_of_torch_do_not_matter() -> None:
    x, mean, matrix = randn(2, 1, 8, 8), [0.1, 0.2], [[0.3, 0.1], [0.1, 0.2]]

    def calls() -> list[Tensor]:
        digits_module._law.cache_clear()
        digits_module._embedding.cache_clear()
        gaussian = GaussianModel(PATH, torch.tensor(mean, device="cpu", dtype=torch.float64), matrix)
        drawn = gaussian.sample_data(2, generator=0)
        return [drawn, gaussian(drawn, 5), DigitsModel(PATH)(x, 5, class_labels=3), mixture()(randn(2, 2, 3), 7)]

    want = calls()
    try:
        torch.set_default_dtype(torch.float16)
        with torch.device("meta"):
            got = calls()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
