"""Names of RES4LYF stand for methods with its weights: one step on given predictions, against its tableaux."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, EDMPath, SamplerFactory, TimeGrid
from noise_scheduler_sampling_system.config.sampler_aliases import resolve

HIGH, LOW = 3.0, 0.8
H = math.log(HIGH / LOW)


def phi(k: int, c: float = 1.0) -> float:
    """φ_k(−c·h) by its series."""
    return math.fsum((-c * H) ** n / math.factorial(n + k) for n in range(40))


def two(c: float, b2: float) -> tuple[list[float], list[list[float]]]:
    return [c], [[b2]]


def four(a32: float, a42: float, a43: float) -> tuple[list[float], list[list[float]]]:
    middle, last = 2 * phi(2) - 4 * phi(3), 4 * phi(3) - phi(2)
    return [0.5, 0.5, 1.0], [[a32], [a42, a43], [middle, middle, last]]


def five() -> tuple[list[float], list[list[float]]]:
    a52 = phi(2, 0.5) / 2 - phi(3) + phi(2) / 4 - phi(3, 0.5) / 2
    rows = [[phi(2, 0.5)], [phi(2), phi(2)], [a52, a52, phi(2, 0.5) / 4 - a52]]
    return [0.5, 0.5, 1.0, 0.5], [*rows, [0.0, 0.0, 4 * phi(3) - phi(2), 4 * phi(2) - 8 * phi(3)]]


#: The places of the stages after the first, and the weights of the second and later predictions in each state after
#: the second; a first weight makes every row add up to c·φ₁.
TABLEAUX: dict[str, Callable[[], tuple[list[float], list[list[float]]]]] = {
    "res_2s_ode": lambda: two(0.5, 2 * phi(2)),
    "exponential/res_2s": lambda: two(0.5, 2 * phi(2)),
    "res_2s_stable": lambda: two(1.0, phi(2)),
    "etdrk2_2s": lambda: two(1.0, phi(2)),
    "res_3s_alt": lambda: ([1 / 3, 2 / 3], [[4 / 3 * phi(2, 2 / 3)], [0.0, 1.5 * phi(2)]]),
    "res_4s_krogstad": lambda: four(phi(2, 0.5), 0.0, 2 * phi(2)),
    "res_4s_cox_matthews": lambda: four(phi(1, 0.5) / 2, 0.0, phi(1, 0.5)),
    "res_5s": five,
    "res_5s_ode": five,
}


@pytest.mark.parametrize("name", TABLEAUX)
def test_one_step_has_the_weights_of_the_name(name):
    """On α = 1: each state is e^(−ch)·x + h·Σ a·x₀, with the x₀ that the model is made to return."""
    places, rows = TABLEAUX[name]()
    made = [float(value) for value in np.random.default_rng(0).normal(size=len(places) + 1)]
    seen: list[float] = []

    def network(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(float(x))
        return torch.full_like(x, made[len(seen) - 1])

    path, meant = EDMPath(), resolve(name)
    grid = TimeGrid.from_times(path, [HIGH, LOW], end=None)
    sampler = DiffusionPipeline(path, meant.sampler, **meant.options)
    start = torch.full((1, 1), 0.7, dtype=torch.float64)
    end = sampler.sample(network, grid=grid, initial_sample=start * HIGH, dtype=torch.float64)
    states = [start.item() * HIGH]
    for c, later in zip([*places, 1.0], [[], *rows], strict=True):
        weights = [c * phi(1, c) - sum(later), *later]
        states.append(
            math.exp(-c * H) * states[0] + H * math.fsum(w * x0 for w, x0 in zip(weights, made, strict=False))
        )
    np.testing.assert_allclose([*seen, float(end)], states, rtol=1e-12)


def test_names_of_multistep_methods_and_of_sdnext():
    assert resolve("multistep/res_2m") == resolve("RES 2M") == resolve("res_2m_ode")
    assert resolve("deis_2m").options == {"polynomial": "rho", "order": 2}
    assert SamplerFactory.create("DEIS 3M", EDMPath()).order == 3
    assert resolve("Heun FlowMatch").sampler == "flow_heun"
    assert (resolve("DPM++ 2M Beta57").spacing, resolve("res_2s bong_tangent").spacing) == ("beta57", "bong_tangent")


@pytest.mark.parametrize("name", ["res_3m", "res_6s", "abnorsett_2m", "rk4_4s", "lawson2a_2s", "gauss-legendre_2s"])
def test_a_method_that_is_not_here_is_refused_and_not_replaced(name):
    with pytest.raises(ConfigurationError, match="there is no sampler"):
        resolve(name)
