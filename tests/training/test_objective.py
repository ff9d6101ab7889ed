"""The training objective: keyed draws, strata, targets, importance weights, noises, couplings and conditions."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from noise_scheduler_sampling_system import ConfigurationError, NoiseSchedulerFactory
from noise_scheduler_sampling_system.models import GaussianModel
from noise_scheduler_sampling_system.schedules import FlowPath, VPPath
from noise_scheduler_sampling_system.support import ModelOutputError
from noise_scheduler_sampling_system.training import (
    OffsetNoise,
    PyramidNoise,
    TrainingObjective,
    WhiteNoise,
    coupled_noise,
)
from noise_scheduler_sampling_system.training.draws import Draws

X0 = torch.linspace(-1, 1, 6 * 3 * 4 * 4).reshape(6, 3, 4, 4)


def network(x, t, **condition):
    return x * 0.5


@pytest.mark.parametrize("path", [FlowPath(), VPPath(), NoiseSchedulerFactory.create("cosine")])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow_prediction"])
def test_the_parts_are_those_of_the_path(path, kind):
    objective = TrainingObjective(path, kind)
    batch = objective.prepare(X0, {"labels": torch.arange(6)}, seed=3, step=5)
    t = objective.draw(6, seed=3, step=5)
    noise = WhiteNoise().draw(Draws.of(6, 3, 5), (3, 4, 4))
    torch.testing.assert_close(batch.noise, noise)
    torch.testing.assert_close(batch.noisy, path.add_noise(X0, noise, t))
    torch.testing.assert_close(batch.target, path.predicting(kind).target(X0, noise, t))
    assert batch.t.dtype == (torch.int64 if path.discrete else torch.float32)
    torch.testing.assert_close(batch.t.double(), t, rtol=1e-6, atol=0)
    expected = (X0 * 0.5 - batch.target).square().flatten(1).mean(1)
    torch.testing.assert_close(batch.losses(X0 * 0.5), expected)
    torch.testing.assert_close(
        objective.loss(network, X0, {"labels": torch.arange(6)}, seed=3, step=5), batch.loss(batch.noisy * 0.5)
    )


def test_draws_do_not_depend_on_the_batch_and_differ_between_steps():
    objective = TrainingObjective(FlowPath(), stratified=False, density="logit_normal", noise="pyramid")
    large, part = objective.prepare(X0, seed=1, step=2), objective.prepare(X0[2:4], seed=1, step=2, first_index=2)
    for name in ("t", "noise", "noisy", "weight"):
        torch.testing.assert_close(getattr(large, name)[2:4], getattr(part, name), rtol=0, atol=0)
    other = objective.prepare(X0, seed=1, step=3)
    assert not torch.equal(other.t, large.t)
    assert not torch.equal(other.noise, large.noise)
    assert not torch.equal(objective.draw(8), objective.draw(8))  # without a seed: PyTorch's generator
    torch.manual_seed(0)
    first = objective.draw(8)
    torch.manual_seed(0)
    assert torch.equal(objective.draw(8), first)


def test_strata_hold_one_draw_each_also_over_parts_of_a_batch():
    objective = TrainingObjective(FlowPath(sigma_min=1e-8, time_scale=1.0))
    whole = objective.draw(40, seed=0, step=7)
    assert sorted((whole * 40).long().tolist()) == list(range(40))
    parts = [objective.draw(10, seed=0, step=7, first_index=10 * k, whole_batch=40) for k in range(4)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)
    frames = objective.draw(40, seed=0, step=7, frames=3)
    assert frames.shape == (40, 3)
    for column in frames.T:
        assert sorted((column * 40).long().tolist()) == list(range(40))
    assert abs(np.corrcoef(frames[:, 0], frames[:, 1])[0, 1]) < 0.5
    one = torch.stack([objective.draw(4, seed=k, step=0)[0] for k in range(400)])  # a level alone has the same law
    assert stats.kstest(one.numpy(), "uniform").pvalue > 1e-3


def test_a_level_for_each_frame():
    objective = TrainingObjective(FlowPath(), weighting="snr", frame_dim=2)
    x0 = torch.ones(2, 1, 5, 3, 3)
    batch = objective.prepare(x0, seed=0, step=0, frames=True)
    assert batch.t.shape == batch.weight.shape == (2, 5)
    output = torch.zeros_like(x0)
    expected = (batch.weight * batch.target.square().mean((1, 3, 4))).mean()
    torch.testing.assert_close(batch.loss(output), expected)
    torch.testing.assert_close(batch.noisy[1, :, 3], objective.parts(x0[1:, :, 3], batch.noise[1:, :, 3],
                                                                     batch.t[1:, 3]).noisy[0])  # fmt: skip


def test_the_loss_over_another_density_does_not_depend_on_the_draws():
    """For exact Gaussian data the expected loss is known; its mean agrees for every density of the draws."""
    path = VPPath()
    model = GaussianModel(path, 0.0, 0.25, prediction_type="epsilon")
    x0 = 0.5 * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    measure = {"name": "log_uniform", "log_snr_min": -6.0, "log_snr_max": 6.0}
    log_snr = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    error_of_noise = log_snr.exp() * 0.25 / (1 + 0.25 * log_snr.exp())  # SNR·Var[x₀|x]
    exact = float(torch.trapezoid(torch.sigmoid(1 - log_snr) * error_of_noise, log_snr) / 12)
    for density in (None, "uniform", {"name": "lognormal", "std": 1.5}, "importance"):
        given = measure if density is None else density
        if density == "importance":
            given = {"name": "importance", "base": measure, "bins": 4, "moments": (1.0, 4.0, 9.0, 16.0)}
        objective = TrainingObjective(
            path, "epsilon", density=given, over=None if density == "importance" else measure,
            weighting={"name": "sigmoid", "bias": 1.0},
        )  # fmt: skip
        batch = objective.prepare(x0, seed=0, step=0)
        losses = batch.losses(model(batch.noisy, batch.t))
        error = float(losses.std() / 4096**0.5)
        assert abs(float(losses.mean()) - exact) < 4 * error, density
        assert error < 0.05 * exact


def test_observed_moves_importance_towards_large_losses_and_keeps_the_value():
    objective = TrainingObjective(FlowPath(), density={"name": "importance", "bins": 4}, weighting="snr")
    assert objective.over == objective.density.base
    for step in range(4):
        batch = objective.prepare(X0.repeat(8, 1, 1, 1), seed=0, step=step)
        objective = objective.observed(batch, torch.zeros_like(batch.target))
    shares = objective.density.shares
    assert shares[0] > 3 * shares[3]  # the weight SNR is large at clean levels
    clean = objective.density.on(FlowPath())
    ratio = clean.log_ratio(objective.density.base.on(FlowPath()), torch.tensor([100.0, 900.0])).exp()
    torch.testing.assert_close(ratio, (shares[[0, 3]] * 4))
    with pytest.raises(ConfigurationError, match="does not follow"):
        TrainingObjective(FlowPath()).observed(batch, batch.target)


def test_a_loss_over_levels_that_are_not_drawn_is_refused():
    narrow = {"name": "log_uniform", "log_snr_min": -1.0, "log_snr_max": 1.0}
    with pytest.raises(ConfigurationError, match="does not draw some levels"):
        TrainingObjective(VPPath(), density=narrow, over="uniform")


def test_optimal_transport_pairs_at_the_least_distance():
    noise = X0[[3, 1, 0, 5, 4, 2]] + 0.01
    torch.testing.assert_close(coupled_noise(X0, noise), X0 + 0.01)
    objective = TrainingObjective(FlowPath(), coupling="optimal")
    free = dataclasses.replace(objective, coupling="independent")
    paired, plain = (each.prepare(X0, seed=0, step=0) for each in (objective, free))
    assert (paired.noise - X0).square().sum() < (plain.noise - X0).square().sum()
    assert sorted(paired.noise.flatten().tolist()) == sorted(plain.noise.flatten().tolist())


def test_offset_and_pyramid_noise_have_their_variances():
    draws = Draws.of(3000, 0, 0)
    white, offset = (noise.draw(draws, (2, 6, 6)) for noise in (WhiteNoise(), OffsetNoise(0.3)))
    means = (offset - white).flatten(2)
    assert means.var(dim=2).max() < 1e-10
    assert means[:, :, 0].var() == pytest.approx(0.09, rel=0.06)
    assert np.corrcoef(means[:, 0, 0], means[:, 1, 0])[0, 1] < 0.06
    pyramid = PyramidNoise(discount=0.7).draw(Draws.of(1500, 0, 0), (2, 8, 8))
    assert pyramid.var() == pytest.approx(1.0, rel=0.02)
    neighbours = (pyramid[..., 1:] * pyramid[..., :-1]).mean()
    assert neighbours > 0.2
    with pytest.raises(ConfigurationError, match="pyramid noise"):
        PyramidNoise().draw(draws, (2, 6))


def test_input_perturbation_is_seen_and_not_asked_for():
    """As in arXiv 2301.11706: the input has ε + γ·ξ, the target ε."""
    x0 = torch.zeros(2000, 4)
    objective = TrainingObjective(VPPath(), "epsilon", input_perturbation=0.5)
    batch = objective.prepare(x0, seed=0, step=0)
    sigma = VPPath().sigma(batch.t.double()).float()[:, None]
    added = batch.noisy / sigma - batch.noise
    torch.testing.assert_close(batch.target, batch.noise)
    assert added.var() == pytest.approx(0.25, rel=0.05)
    assert abs(float((added * batch.noise).mean())) < 0.02


def test_conditions_are_dropped_at_the_rate_given():
    objective = TrainingObjective(FlowPath(), condition_dropout=0.3)
    x0, labels = torch.zeros(2000, 2), torch.arange(2000) % 10
    text = torch.ones(2000, 3)
    batch = objective.prepare(x0, {"labels": labels, "text": text}, null_condition={"labels": torch.tensor([10]),
                              "text": torch.zeros(1, 3)}, seed=0, step=0)  # fmt: skip
    dropped = batch.condition["labels"] == 10
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.04)
    assert torch.equal(batch.condition["text"][:, 0] == 0, dropped)
    assert torch.equal(batch.condition["labels"][~dropped], labels[~dropped])
    embeddings = objective.prepare(x0, {"text": text}, seed=0, step=0)  # zeros stand for no embedding
    assert torch.equal(embeddings.condition["text"][:, 0] == 0, dropped)
    with pytest.raises(ConfigurationError, match="null value"):
        objective.prepare(x0, {"labels": labels}, seed=0, step=0)


@pytest.mark.parametrize(("make", "where"), [
    (lambda: TrainingObjective(FlowPath(), "velocty"), "prediction_type"),
    (lambda: TrainingObjective(FlowPath(), coupling="optimum"), "coupling"),
    (lambda: TrainingObjective(FlowPath(), weighting="min_snrr"), "weighting"),
    (lambda: TrainingObjective(FlowPath(), condition_dropout=2.0), "condition_dropout"),
    (lambda: TrainingObjective(FlowPath(), noise={"name": "offset", "strength": -1.0}), "noise.strength"),
    (lambda: TrainingObjective(FlowPath()).loss(network, X0, seed=0), "step"),
    (lambda: TrainingObjective(FlowPath()).loss(network, X0.long()), "x0"),
    (lambda: TrainingObjective(FlowPath()).draw(4, seed=[1, 2, 3, 4]), "seed"),
    (lambda: TrainingObjective(FlowPath()).draw(0, seed=1), "batch"),
    (lambda: TrainingObjective(FlowPath()).draw(4, seed=1, first_index=2, whole_batch=5), "whole_batch"),
    (lambda: TrainingObjective(FlowPath()).parts(X0, X0, torch.full((6,), 1001.0)), "t"),
    (lambda: TrainingObjective(FlowPath()).loss(lambda x, t: x, X0, {"labels": 1}), "condition['labels']"),
    (lambda: TrainingObjective(FlowPath()).loss(network, X0, torch.ones(6)), "condition"),
    (lambda: coupled_noise(X0, X0[:3]), "noise"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_its_place(make, where):
    with pytest.raises(ConfigurationError) as error:
        make()
    assert error.value.where == where


def test_an_output_of_another_shape_is_refused():
    with pytest.raises(ModelOutputError, match="learned variance"):
        TrainingObjective(FlowPath()).loss(lambda x, t: torch.cat([x, x], dim=1), X0)


def test_an_objective_is_a_value():
    objective = TrainingObjective(FlowPath(shift=2.0), density="mode", weighting="p2", noise="offset")
    again = pickle.loads(pickle.dumps(objective))
    assert again == objective
    assert torch.equal(again.draw(9, seed=0), objective.draw(9, seed=0))
    assert dataclasses.replace(objective, weighting=None) != objective


def test_a_network_in_training_mode_is_trained_without_a_warning(caplog):
    module = torch.nn.Linear(4, 4)
    loss = TrainingObjective(FlowPath()).loss(lambda x, t: module(x), X0)
    loss.backward()
    assert module.weight.grad is not None

    class Network(torch.nn.Linear):
        def forward(self, x, t):
            return super().forward(x)

    TrainingObjective(FlowPath()).loss(Network(4, 4), X0)
    assert not caplog.records


def test_low_precision_samples_keep_their_type_and_the_loss_does_not():
    batch = TrainingObjective(FlowPath()).prepare(X0.bfloat16(), seed=0, step=0)
    assert (batch.noisy.dtype, batch.target.dtype, batch.t.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert batch.loss(batch.noisy).dtype == torch.float32
