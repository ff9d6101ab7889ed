"""Networks that also give the variance of a step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys
from small_runs import LABELS, METHODS, NULL, SHAPE, STEPS, Counting, conditional, network, pipeline


def with_variance(x: Tensor, t: Tensor) -> Tensor:
    return torch.cat([network(x, t), torch.sin(3 * x)], dim=1)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "ddpm"])
@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_samplers_without_a_variance_drop_the_models(method, kind):
    got = pipeline(method, variance_type=kind).sample(with_variance, SHAPE, STEPS, seed=0)
    assert torch.equal(got, pipeline(method).sample(network, SHAPE, STEPS, seed=0))


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_ddpm_takes_the_variance_that_the_model_gives(kind):
    """Against the step written out, from the state and output that the model saw."""
    run = pipeline("ddpm", variance_type=kind)
    plan, calls = run.plan(STEPS), Counting(with_variance)
    final = run.sample(calls, SHAPE, STEPS, seed=0)
    states = [x for x, _, _ in calls.calls] + [final]
    abar = run.scheduler.alphas_cumprod
    source = NoiseSource(resolve_keys(0, None, 3), SHAPE[1:])
    for i in range(STEPS):
        now, after = float(abar[int(plan.time[i])]), float(abar[int(plan.time[i + 1])]) if i + 1 < STEPS else 1.0
        epsilon, value = with_variance(states[i], torch.full((3,), plan.time[i])).double().chunk(2, dim=1)
        x = states[i].double()
        x0 = (x - math.sqrt(1 - now) * epsilon) / math.sqrt(now)
        beta = 1 - now / after
        mean = math.sqrt(after) * beta / (1 - now) * x0 + math.sqrt(now / after) * (1 - after) / (1 - now) * x
        if i + 1 == STEPS:
            expected = mean
        else:
            low, high = math.log(beta * (1 - after) / (1 - now)), math.log(beta)
            logs = value if kind == "learned" else low + (value + 1) / 2 * (high - low)
            expected = mean + torch.exp(logs / 2) * source(i, 0)
        torch.testing.assert_close(states[i + 1].double(), expected, rtol=2e-5, atol=2e-5)


def test_guidance_leaves_the_variance_to_the_condition():
    def model(x, t, label):
        return torch.cat([conditional(x, t, label=label), torch.sin(label.reshape(-1, 1, 1, 1) + x)], dim=1)

    run = pipeline("ddpm", variance_type="learned_range")
    got = run.sample(model, SHAPE, STEPS, 3.0, seed=0, condition={"label": LABELS}, null_condition={"label": NULL})

    def by_hand(x, t):
        c, u = model(x, t, LABELS), model(x, t, NULL.expand(3))
        mean = u[:, :2] + 3.0 * (c[:, :2] - u[:, :2])
        return torch.cat([mean, c[:, 2:]], dim=1)

    torch.testing.assert_close(got, run.sample(by_hand, SHAPE, STEPS, seed=0), rtol=1e-4, atol=1e-5)
