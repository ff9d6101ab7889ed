"""Rollouts: states as they are stored, ratios that begin at 1, keyed noise, gradients, and the divergence of steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.analysis import StepDistribution, rollout, trajectory_log_probs

FLOW = NoiseSchedulerConfig(beta_schedule="flow")
POLICIES = ("flow_grpo", "dance_grpo", "cps", "precise")
SHAPE = (4, 1, 8, 8)


class Scaled(nn.Module):
    """An elementwise velocity, so that the batch cannot change a sample by the order of a sum."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, 0.1]))

    def forward(self, x, t):
        return self.weight[0] * x + self.weight[1] * torch.sin(x * 3.0)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("store", [None, torch.bfloat16])
def test_the_first_ratio_is_one(name, store):
    """The log-probabilities of the rollout are those of its stored states, bit for bit."""
    pipeline, model = DiffusionPipeline(FLOW, name), Scaled().eval()
    run = rollout(pipeline, model, SHAPE, 6, seed=3, store=store)
    assert all(state.dtype == (store or torch.float32) for state in run.states)
    assert run.drawn == (0, 1, 2, 3, 4)
    assert torch.equal(trajectory_log_probs(pipeline, model, run.states), run.log_probs)
    assert run.log_probs.dtype == torch.float32
    assert not run.log_probs.requires_grad


def test_states_are_those_of_a_run():
    pipeline = DiffusionPipeline(FLOW, "flow_grpo", window_size=3)
    model = models.DigitsModel(pipeline.scheduler)
    run = rollout(pipeline, model, SHAPE, 6, seed=3, dtype=torch.float64)
    samples = pipeline.sample(model, SHAPE, 6, seed=3, dtype=torch.float64)
    assert torch.allclose(run.samples, samples, atol=1e-9)
    assert run.drawn == (0, 1, 2)
    assert bool((run.log_probs[3:] == 0.0).all())


def test_states_that_are_rounded_afterwards_bias_the_ratio():
    """What ``store`` avoids: the log-probabilities of float32 states are not those of the same states in bfloat16."""
    pipeline = DiffusionPipeline(FLOW, "flow_grpo", eta=0.3)
    model = models.DigitsModel(pipeline.scheduler)
    shape = (64, 1, 8, 8)
    plain = rollout(pipeline, model, shape, 10, seed=0)
    later = trajectory_log_probs(pipeline, model, [state.bfloat16() for state in plain.states])
    error = (later - plain.log_probs)[:9].abs()
    assert float(error.max()) > 0.5  # of a log-ratio that should be 0: beyond every clipping range
    kept = rollout(pipeline, model, shape, 10, seed=0, store=torch.bfloat16)
    assert torch.equal(trajectory_log_probs(pipeline, model, kept.states), kept.log_probs)


@pytest.mark.parametrize("name", POLICIES)
def test_the_batch_does_not_change_a_sample(name):
    """With one seed a sample; also alone, in another order, and stored in bfloat16."""
    pipeline, model = DiffusionPipeline(FLOW, name), Scaled().eval()
    seeds = [11, 5, 7, 2]
    run = rollout(pipeline, model, SHAPE, 5, seed=seeds, store=torch.bfloat16)
    for order in ([3, 0], [2], [1, 3, 2, 0]):
        part = rollout(
            pipeline, model, (len(order), *SHAPE[1:]), 5, seed=[seeds[i] for i in order], store=torch.bfloat16
        )
        assert all(torch.equal(a, b[order]) for a, b in zip(part.states, run.states, strict=True))
        assert torch.equal(part.log_probs, run.log_probs[:, order])


@pytest.mark.parametrize("name", POLICIES)
def test_the_gradient_of_the_ratio(name):
    """By finite differences, at another policy than the one that ran."""
    pipeline = DiffusionPipeline(FLOW, name)
    model = Scaled().double().eval()
    run = rollout(pipeline, model, SHAPE, 5, seed=1, dtype=torch.float64)
    with torch.no_grad():
        model.weight += torch.tensor([0.02, -0.01])
    advantages = torch.tensor([1.0, -0.5, 0.3, -0.8], dtype=torch.float64)

    def objective():
        new = trajectory_log_probs(pipeline, model, run.states, steps=run.drawn, reduction="mean")
        old = run.log_probs[list(run.drawn)] / 64
        return (torch.exp(new - old) * advantages).mean()

    (gradient,) = torch.autograd.grad(objective(), model.weight)
    for i in range(2):
        values = []
        for change in (1e-5, -1e-5):
            with torch.no_grad():
                model.weight[i] += change
                values.append(float(objective()))
                model.weight[i] -= change
        assert float(gradient[i]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_divergence_of_two_steps():
    a = StepDistribution(torch.randn(3, 2, 2, dtype=torch.float64), 0.3)
    b = StepDistribution(torch.randn(3, 2, 2, dtype=torch.float64), 0.5)
    known = torch.distributions.kl_divergence(
        torch.distributions.Normal(a.mean, a.std), torch.distributions.Normal(b.mean, b.std)
    )
    assert torch.allclose(a.kl(b), known.sum((1, 2)))
    assert torch.allclose(a.kl(b, "mean"), known.mean((1, 2)))
    same = StepDistribution(b.mean, 0.3)
    assert torch.allclose(a.kl(same), (a.mean - b.mean).square().sum((1, 2)) / (2 * 0.3**2))
    with pytest.raises(ConfigurationError, match="deterministic"):
        a.kl(StepDistribution(b.mean, 0.0))


@pytest.mark.parametrize(
    ("method", "arguments", "where"),
    [
        ("euler", {}, "plan of 'euler'"), ("flow_grpo", {"store": torch.int32}, "store"),
        ("flow_grpo", {"store": "bf16"}, "store"), ("flow_grpo", {"shape": (0, 4)}, "shape"),
        ("flow_grpo", {"seed": [1, 2]}, "seed"), ("flow_grpo", {"reduction": "max"}, "reduction"),
        ("edm", {}, "plan of 'edm'"), ("flow_grpo", {"plan": "flow_grpo"}, "plan"),
        ("flow_grpo", {"dtype": "bf16"}, "dtype"),
    ],
)  # fmt: skip
def test_refusals(method, arguments, where):
    with pytest.raises(ConfigurationError) as caught:
        rollout(DiffusionPipeline(FLOW, method), Scaled().eval(), **{"shape": SHAPE, "seed": 0, **arguments})
    assert caught.value.where == where
