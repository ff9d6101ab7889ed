"""Energies: against the exact guided model, beside other guidance, and their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guided_mixture import (
    CONDITION,
    KINDS,
    LABELS,
    SHAPE,
    SIZE,
    energy,
    mixture,
    pipeline,
)
from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
)
from noise_scheduler_sampling_system.config.prediction import PREDICTION_TYPES
from noise_scheduler_sampling_system.guidance import (
    ClassifierFree,
    Energy,
)
from noise_scheduler_sampling_system.models import GaussianModel


def posterior_mean(run: DiffusionPipeline, width: float, t: Tensor) -> tuple[float, float, float]:
    """E[x₀ | x] = gain·x for data N(0, width): the gain, α and σ."""
    _, alpha, sigma = run.scheduler.level(float(t[0]))
    return alpha * width / (alpha**2 * width + sigma**2), alpha, sigma


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("given", ["energy", "gradient"])
@pytest.mark.parametrize(("of", "through"), [("sample", None), ("sample", True), ("sample", False), ("x", None)])
def test_energy_on_a_gaussian(kind, given, of, through):
    """∇ₓE in closed form: E's gradient, times ∂x₀/∂x, which is the gain, or 1/α with ε held fixed."""
    run, width = pipeline(kind), 0.3
    model = GaussianModel(run.scheduler, torch.zeros(SIZE), width, prediction_type=kind)
    function = {"energy": energy} if given == "energy" else {"gradient": lambda sample, moment: sample - 0.4}

    def expected(x, t):
        gain, alpha, sigma = posterior_mean(run, width, t)
        slope = x - 0.4 if of == "x" else (gain * x - 0.4) * (gain if through is not False else 1.0 / alpha)
        epsilon = (x - alpha * gain * x) / sigma + sigma * 0.3 * slope
        return (x - sigma * epsilon) / alpha

    options = {} if through is None else {"through_model": through}
    got = run.sample(model, SHAPE, **KINDS, guidance=Energy(scale=0.3, of=of, **function, **options))
    torch.testing.assert_close(got, pipeline().sample(expected, SHAPE, **KINDS), rtol=1e-7, atol=1e-7)


def test_energy_sees_the_guidance_before_it_and_adds_to_it():
    run = pipeline("epsilon")
    model = mixture(run)

    def expected(x, t):
        level = run.scheduler.level(float(t[0]))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            c, u = model(leaf, t, class_labels=LABELS), model(leaf, t)
            value = u + 2.0 * (c - u)
            total = energy((leaf - level.sigma * value) / level.alpha, None).sum()
            slope = torch.autograd.grad(total, leaf)[0]
        return (value + level.sigma * 0.05 * slope).detach()

    got = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=[ClassifierFree(2.0), Energy(energy, 0.05)])
    torch.testing.assert_close(got, run.sample(expected, SHAPE, **KINDS), rtol=1e-7, atol=1e-7)
    with torch.inference_mode():
        inside = run.sample(model, SHAPE, **KINDS, **CONDITION, guidance=[ClassifierFree(2.0), Energy(energy, 0.05)])
    assert torch.equal(inside, got)
    assert not got.requires_grad


@pytest.mark.parametrize(
    "guidance", [Energy(energy, 0.1), Energy(energy, 0.1, of="x"), Energy(energy, 0.1, None, "sample", False)]
)
def test_gradients_pass_through_energy_guidance(guidance):
    run = pipeline("epsilon")
    model = mixture(run)

    def total(shift: Tensor) -> Tensor:
        return run.sample(
            lambda x, t: model(x, t) + shift * torch.tanh(x), SHAPE, **KINDS, guidance=guidance, differentiable=True
        ).sum()

    shift = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(total(shift), shift)[0]
    h = 1e-5
    numeric = (total(shift.detach() + h) - total(shift.detach() - h)) / (2 * h)
    torch.testing.assert_close(slope, numeric, rtol=1e-6, atol=1e-7)


def test_a_model_without_gradients_is_told_so():
    run = pipeline("epsilon")
    model = torch.no_grad()(mixture(run).__call__)
    with pytest.raises(ConfigurationError, match="no gradient"):
        run.sample(model, SHAPE, **KINDS, guidance=Energy(energy))
    run.sample(model, SHAPE, **KINDS, guidance=Energy(energy, through_model=False))


@pytest.mark.parametrize(
    "bad", [Energy(lambda s, m: s), Energy(lambda s, m: 1.0), Energy(lambda s, m: s.detach().flatten(1).sum(1)),
            Energy(gradient=lambda s, m: s.sum())],
)  # fmt: skip
def test_energies_of_the_wrong_kind_are_refused(bad):
    run = pipeline("epsilon")
    with pytest.raises(ConfigurationError, match=r"the (energy|gradient) is"):
        run.sample(mixture(run), SHAPE, **KINDS, guidance=bad)
