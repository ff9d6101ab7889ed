"""Measurements of samplers on exact models: order of convergence, weak order, error at equal model calls.

Everything runs plans through the library's own loop, in float64. Used by tests and by
``benchmarks/samplers_table.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from noise_scheduler_sampling_system import ConfigurationError, NumericsError, SamplerFactory, SamplingPlan, TimeGrid
from noise_scheduler_sampling_system.config.prediction import quantity
from noise_scheduler_sampling_system.models import DigitsModel, GaussianMixtureModel, GaussianModel
from noise_scheduler_sampling_system.models.exact import ExactModel
from noise_scheduler_sampling_system.running.bound_plan import bind
from noise_scheduler_sampling_system.running.loop import Branches, RowState, run_rows
from noise_scheduler_sampling_system.samplers.base import BaseSampler
from noise_scheduler_sampling_system.schedules import EDMPath, FlowPath, LinearNoiseScheduler, VDiffusionPath, VPPath
from noise_scheduler_sampling_system.schedules.path import NoisePath

__all__ = [
    "PROBLEMS",
    "VARIANTS",
    "Problem",
    "final_error",
    "measured_order",
    "run_plan",
    "variance_after",
    "weak_order",
]

#: Options under which each sampler has an order to measure; a sampler that is not here has it by default.
#: None: the sampler has no deterministic limit.
VARIANTS: dict[str, list[dict[str, Any]] | None] = {
    "ddim": [{}, {"eta": 0.0}],
    "ancestral": [{"eta": 0.0}],
    "euler_ancestral_cfg_pp": [{"eta": 0.0}],
    "ddpm": None,
    "lcm": None,
    "restart": None,
    "predictor_corrector": None,
    "pndm": [{}, {"skip_prk_steps": False}],
    "dpmpp_2m": [{}, {"solver_type": "exact"}, {"lower_order_final": True}],
    "dpmpp_3m": [{}, {"order": 2}],
    "dpm_2m": [{}, {"solver_type": "exact"}],
    "dpmpp_2m_sde": [{"eta": 0.0}],
    "dpmpp_3m_sde": [{"eta": 0.0}],
    "deis": [{}, {"polynomial": "rho"}, {"polynomial": "log_rho"}, {"order": 2}, {"order": 1}],
    "lms": [{}, {"order": 3}, {"order": 2}, {"order": 2, "start": "plain"}],
    "adams": [{}, {"order": 2}, {"order": 4}],
    "ipndm": [{}, {"order": 2}],
    "ipndm_v": [{}, {"order": 3}],
    "unipc": [
        {}, {"order": 1}, {"order": 2}, {"solver_type": "bh1"}, {"solver_type": "exact"}, {"corrector": False},
        {"predict_x0": False}, {"lower_order_final": True},
    ],
    "sa_solver": [{"tau": 0.0}, {"tau": 0.0, "evaluate_again": True}, {"tau": 0.0, "solver_type": "bh1"}],
    "dpm_v3": [{}, {"order": 1}, {"order": 2, "corrector": False}],
    "er_sde": [{"noise": "ode"}, {"noise": "ode", "order": 2}],
    "dpm2_ancestral": [{"eta": 0.0}],
    "dpmpp_2s_ancestral": [{"eta": 0.0}],
    "dpmpp_sde": [{"eta": 0.0}],
    "seeds": [{"eta": 0.0}, {"eta": 0.0, "stages": 3}],
    "edm": [{"s_churn": 0.0}, {"s_churn": 0.0, "corrector": False}],
    "tcd": [{"eta": 0.0}],
    "flow_grpo": [{"eta": 0.0}],
    "dance_grpo": [{"eta": 0.0}],
    "cps": [{"eta": 0.0}],
    "precise": [{"eta": 0.0}],
    "exponential_rk": [
        {}, {"predict": "epsilon"}, {"tableau": "heun2"}, {"tableau": "etd2"}, {"tableau": "etd3"},
        {"tableau": "cox_matthews4"}, {"tableau": "hochbruck_ostermann4"},
    ],
    "runge_kutta": [
        {}, {"frame": "sigma"}, {"frame": "flow"}, {"tableau": "midpoint"}, {"tableau": "ralston2"},
        {"tableau": "heun3"}, {"tableau": "kutta3"}, {"tableau": "ralston3"}, {"tableau": "ssprk3"},
        {"tableau": "bogacki_shampine"}, {"tableau": "rk38"}, {"tableau": "ralston4"},
        {"tableau": {"a": [[], [0.5]], "b": [0.0, 1.0]}},
    ],
}  # fmt: skip


class Problem(NamedTuple):
    """An exact model on a path, a start, and the times between which its ODE is solved."""

    path: NoisePath
    model: ExactModel
    x: Tensor
    high: float
    low: float


@functools.cache
def problem(path_name: str, model_name: str) -> Problem:
    """A path ("vp", "cosine", "edm", "flow") with a model ("gaussian", "mixture", "digits")."""
    path, high, low = {
        "vp": (VPPath(), 0.9, 0.1),
        "cosine": (VDiffusionPath(), 0.9, 0.1),
        "edm": (EDMPath(), 20.0, 0.1),
        "flow": (FlowPath(), 900.0, 100.0),
    }[path_name]
    generator = torch.Generator().manual_seed(1)
    draw = functools.partial(torch.randn, dtype=torch.float64, generator=generator)
    if model_name == "gaussian":
        mean, variance = torch.tensor([0.5, -0.3, 0.0, 1.0]), torch.tensor([1.0, 0.2, 0.05, 2.0])
        model, x = GaussianModel(path, mean, variance), draw(8, 4)
    elif model_name == "mixture":
        model, x = GaussianMixtureModel(path, draw(5, 4), 0.3), draw(8, 4)
    else:
        model, x = DigitsModel(path, bandwidth=0.4), draw(4, 1, 8, 8)
    level = path.level(high)
    return Problem(path, model, x * math.hypot(level.alpha, level.sigma), high, low)


#: Every path with every model.
PROBLEMS = [(path, model) for path in ("vp", "cosine", "edm", "flow") for model in ("gaussian", "mixture", "digits")]


def grid_of(path: NoisePath, high: float, low: float, steps: int) -> TimeGrid:
    """Times evenly spaced, or on the EDM path like Karras' with ρ = 7."""
    rho = 7.0 if isinstance(path, EDMPath) else 1.0
    return TimeGrid.from_times(path, np.linspace(high ** (1 / rho), low ** (1 / rho), steps + 1) ** rho, end=None)


@torch.no_grad()
def run_plan(
    plan: SamplingPlan, model: ExactModel, x: Tensor, noise: Callable[[int, int], Tensor] | None = None
) -> Tensor:
    """A plan on an exact model, in the type of x; without noise, where none is given."""
    bound = bind(plan, model.prediction_type)

    def ask(x: Tensor, row: int) -> Any:
        output = model(x, float(plan.time[row]))
        return Branches(output, output) if bound.branches else output

    silence = torch.zeros_like(x)
    for state in run_rows(bound, ask, RowState(0, x, {}), noise or (lambda step, stage: silence)):
        x = state.x
    return x


def final_error(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference."""
    return float((a - b).square().mean().sqrt())


def measured_order(
    name: str, options: Mapping[str, Any], path_name: str, model_name: str, *, coarser: int = 1
) -> tuple[float, BaseSampler]:
    """The slope of log error over log steps between two times, and the sampler with its declared order.

    Two numbers of steps, the second four times the first: a third in the middle would have no part in the slope.
    ``coarser`` divides both.
    """
    p = problem(path_name, model_name)
    sampler = SamplerFactory.create(name, p.path, **options)
    counts = {1: (40, 160), 2: (80, 320), 3: (160, 640)}.get(sampler.order, (32, 128))
    counts = counts[0] // coarser, counts[1] // coarser
    exact = _exact(path_name, model_name)
    errors = []
    for count in counts:
        plan = sampler.plan(grid=grid_of(p.path, p.high, p.low, count))
        errors.append(final_error(run_plan(plan, p.model, p.x), exact))
    return slope(counts, errors), sampler


@functools.cache
def _exact(path_name: str, model_name: str) -> Tensor:
    p = problem(path_name, model_name)
    return p.model.reference_solution(p.x, t=p.high, t_end=p.low)


def slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """The least-squares slope of −log error over log steps."""
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


def variance_after(plan: SamplingPlan, variance: float, first: float) -> float:
    """The exact variance of a plan's result for zero-mean Gaussian data: every state is linear in x_T and the noises.

    Args:
        plan: any plan.
        variance: of the data.
        first: the variance of the first state.
    """
    count = len(plan)
    states, y = np.zeros((count + 1, 1 + count)), np.zeros((count, 1 + count))
    states[0, 0] = math.sqrt(first)
    for i in range(count):
        a, s = float(plan.alpha[i]), float(plan.sigma[i])
        states[i + 1] = plan.a[i] * states[i]
        if plan.asked[i]:
            clean = a * variance / (a * a * variance + s * s)
            of_clean, of_noise = quantity(plan.space_of(i), a, s)
            y[i] = (of_clean * clean + of_noise * (1.0 - a * clean) / s) * states[i]
            states[i + 1] += (plan.raw[i] + (0.0 if plan.null is None else plan.null[i])) * y[i]
        for k in range(min(i + 1, plan.b.shape[1])):
            states[i + 1] += plan.b[i, k] * y[i - k]
        for k in range(min(i + 1, plan.c.shape[1])):
            states[i + 1, 1 + i - k] += plan.c[i, k]
    return float((states[-1] ** 2).sum())


#: Where errors at equal model calls are measured: the digits on the linear schedule, from the noisiest level to clean.
NFES = (5, 8, 10, 15, 20, 30, 50)


@functools.cache
def digits_problem() -> tuple[NoisePath, ExactModel, Tensor, Tensor]:
    """Path, model, 64 starts, and where the exact ODE takes them."""
    path = LinearNoiseScheduler()
    model = DigitsModel(path, "v_prediction", bandwidth=0.15)
    x = torch.randn(64, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return path, model, x, model.reference_solution(x)


def error_at(name: str, options: Mapping[str, Any], spacing: str, nfe: int) -> float | None:
    """RMS error per pixel to the exact digits with at most this many model calls; None where the sampler cannot."""
    path, model, x, exact = digits_problem()
    sampler = SamplerFactory.create(name, path.spaced(spacing), **options)
    plan = plan_of(sampler, nfe)
    return None if plan is None else final_error(run_plan(plan, model, x * plan.prior_scale), exact)


def plan_of(sampler: BaseSampler, nfe: int) -> SamplingPlan | None:
    """The plan with the most steps that makes at most this many model calls, and not under 80 % of them."""
    for steps in range(nfe // sampler.calls_per_step + 2, 0, -1):
        try:
            plan = sampler.plan(steps)
        except (ConfigurationError, NumericsError):
            continue
        if plan.nfe <= nfe:
            return plan if plan.nfe >= 0.8 * nfe else None
    return None


def weak_order(name: str, options: Mapping[str, Any], path_name: str, variance: float = 0.4) -> tuple[float, float]:
    """The order at which the variance of Gaussian data is met, computed from the table; and the last relative error."""
    p = problem(path_name, "gaussian")
    sampler, counts, errors = SamplerFactory.create(name, p.path, **options), (40, 80, 160), []
    for count in counts:
        grid = grid_of(p.path, p.high, p.low, count)
        start, end = grid.levels[0], grid.levels[-1]
        first, last = (v.alpha**2 * variance + v.sigma**2 for v in (start, end))
        errors.append(abs(variance_after(sampler.plan(grid=grid), variance, first) / last - 1.0))
    return slope(counts, np.maximum(errors, 1e-300).tolist()), errors[-1]
