"""Our samplers against their twins in k-diffusion and diffusers: the same grid, the same exact model, the same noise.

Both sides run in float64 (benchmarks/peers.py), so that a twin agrees to rounding; the tolerance
of a row is larger only where the peer itself computes with a number that is not exact.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from peers import Denoiser, denoiser, diffusers_run, k_diffusion, k_diffusion_run, on_grid, on_own_grid, published
from torch import Tensor

from noise_scheduler_sampling_system import (
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    SamplerFactory,
    TimeGrid,
    models,
)
from noise_scheduler_sampling_system.models.exact import ExactModel
from noise_scheduler_sampling_system.running.bound_plan import bind_for
from noise_scheduler_sampling_system.running.loop import RowState, run_rows

TOLERANCE = 1e-9
SHAPE = (2, 1, 8, 8)


@dataclass(frozen=True)
class Problem:
    """A model and a grid."""

    model: ExactModel
    grid: TimeGrid

    @property
    def denoise(self) -> Denoiser:
        return denoiser(self.model)

    @property
    def x(self) -> Tensor:
        """The first state: unit noise with the variance of the first level."""
        first = self.grid.levels[0]
        return float(np.hypot(first.alpha, first.sigma)) * noise(-1, 0)

    @property
    def ratios(self) -> list[float]:
        return [level.noise_to_signal for level in self.grid.levels]


Peer = Callable[[Problem], Tensor]


@dataclass(frozen=True)
class Twin:
    """One of our samplers and the peer's; both get the problem and give the last state α·x₀ + σ·ε."""

    ours: str
    options: Mapping[str, Any]
    peer: Peer
    name: str
    problem: Callable[[], Problem] = field(default=lambda: vp())
    tolerance: float = TOLERANCE

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{self.ours}({options})-{self.name}-{self.problem().grid.steps}"


def noise(step: int, stage: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + 10 * step + stage)
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def ours(method: str, options: Mapping[str, Any], problem: Problem) -> Tensor:
    """Our plan in our loop, with the given noise in place of the keyed one."""
    path = problem.model.path
    plan = SamplerFactory.create(method, path, **published(method), **options).plan(grid=problem.grid)
    bound, x = bind_for(plan, path.config), problem.x
    for state in run_rows(bound, lambda x, i: problem.model(x, float(plan.time[i])), RowState(0, x, {}), noise):
        x = state.x
    return x


# problems: grids of no regularity, so that no formula is right by chance


@functools.cache
def model_on(schedule: str) -> ExactModel:
    path = NoiseSchedulerFactory.create(NoiseSchedulerConfig(beta_schedule=schedule))
    return models.DigitsModel(path, path.config.prediction_type, bandwidth=0.15)


@functools.cache
def vp(steps: int = 9, clean: bool = True) -> Problem:
    """Linear betas; N = 15 is where diffusers begins to keep the order up at the end."""
    model = model_on("linear")
    fractions = np.linspace(1.0, 0.0, steps + (not clean))
    times = 999.0 * (0.75 * fractions + 0.25 * fractions**3) + 6.3 * np.sin(9.0 * fractions) * (1.0 - fractions)
    times = 0.99 * times + 2.0
    return Problem(model, TimeGrid.from_times(model.path, times, **({} if clean else {"end": None})))


@functools.cache
def even(steps: int = 10) -> Problem:
    """Evenly spaced whole timesteps, which diffusers' PNDM takes for granted."""
    model = model_on("linear")
    return Problem(model, TimeGrid.from_times(model.path, [100.0 * (steps - 1 - i) for i in range(steps)]))


@functools.cache
def straight(steps: int = 9) -> Problem:
    model = model_on("flow")
    return Problem(model, TimeGrid.from_sigmas(model.path, flow_sigmas(steps)))


def flow_sigmas(steps: int) -> list[float]:
    return on_own_grid("FlowMatchEuler", None, steps).sigmas.tolist()


@functools.cache
def edm(steps: int = 9) -> Problem:
    model = model_on("edm")
    return Problem(model, TimeGrid.from_sigmas(model.path, on_own_grid("EDMEuler", None, steps).sigmas.tolist()))


@functools.cache
def few(end: float | None = None) -> Problem:
    """The timesteps of LCM and TCD; TCD ends at t = 0, which has a little noise."""
    model = model_on("linear")
    grid = TimeGrid.from_times(model.path, on_own_grid("LCM", model.path, 4).timesteps.tolist())
    if end is not None:
        grid = TimeGrid((*grid.levels[:-1], model.path.level(end)))
    return Problem(model, grid)


# peers


def k(name: str, **options: Any) -> Peer:
    def peer(p: Problem) -> Tensor:
        first, last = p.grid.levels[0], p.grid.levels[-1]
        return last.alpha * k_diffusion_run(name, p.denoise, p.ratios, p.x / first.alpha, noise, **options)

    return peer


def d(name: str, step: Mapping[str, Any] = {}, **config: Any) -> Peer:
    return lambda p: diffusers_run(on_grid(name, p.grid, **config), p.denoise, p.x, noise, **step)


def dpm(order: int = 2, algorithm: str = "dpmsolver++", **config: Any) -> Peer:
    return d("DPMSolverMultistep", solver_order=order, algorithm_type=algorithm, **config)


def single(order: int, algorithm: str) -> Peer:
    """diffusers' single steps ask at points of the grid: here those that divide each of our steps evenly in log-SNR."""

    def peer(p: Problem) -> Tensor:
        levels = [p.grid.levels[0]]
        for _, now, after in p.grid.intervals():
            inner = np.linspace(now.half_log_snr, after.half_log_snr, order + 1)[1:-1]
            levels += [*(p.model.path.level_at(2.0 * value) for value in inner), after]
        config = {"solver_order": order, "algorithm_type": algorithm}
        scheduler = on_grid("DPMSolverSinglestep", TimeGrid(tuple(levels)), **config)
        if order == 3:  # no one setting is the paper's: its middle stage has the exact weights, its end the midpoint's
            step = scheduler.step

            def mixed(*arguments: Any) -> Any:
                last = (scheduler.step_index or 0) % 3 == 2
                scheduler.register_to_config(solver_type="midpoint" if last else "heun")
                return step(*arguments)

            scheduler.step = mixed
        return diffusers_run(scheduler, p.denoise, p.x, noise)

    return peer


def k_dpm_3(p: Problem) -> Tensor:
    """The step of order 3 of k-diffusion's ``dpm_fast`` and ``dpm_adaptive``."""
    solver = k_diffusion().DPMSolver(lambda x, sigma: p.denoise(x, 1.0, float(sigma[0])))
    x, t = p.x / p.grid.levels[0].alpha, -torch.tensor(p.ratios, dtype=torch.float64).log()
    for i in range(p.grid.steps):
        x, _ = solver.dpm_solver_3_step(x, t[i], t[i + 1])
    return p.grid.levels[-1].alpha * x


def k_brownian(eta: float) -> Peer:
    """k-diffusion's ``dpmpp_sde`` whose second draw of a step is a Brownian motion's that began with the first."""

    def peer(p: Problem) -> Tensor:
        def motion(step: int, stage: int) -> Tensor:
            start, end = p.ratios[step], p.ratios[step + 1]
            share = (start - (start * end) ** 0.5) / (start - end) if stage else 1.0
            return share**0.5 * noise(step, 0) + (1.0 - share) ** 0.5 * noise(step, stage)

        return k_diffusion_run("dpmpp_sde", p.denoise, p.ratios, p.x / p.grid.levels[0].alpha, motion, eta=eta)

    return peer


def own(name: str, on_path: bool = False, step: Mapping[str, Any] = {}, **config: Any) -> Peer:
    """On the peer's own grid, from which the problem was made."""

    def peer(p: Problem) -> Tensor:
        scheduler = on_own_grid(name, p.model.path if on_path else None, p.grid.steps, **config)
        return diffusers_run(scheduler, p.denoise, p.x, noise, **step)

    return peer


def sa_solver(order: int, corrector: int, tau: float) -> Peer:
    return d("SASolver", predictor_order=order, corrector_order=corrector, tau_func=lambda t: tau)


def rows(ours: str, options: Mapping[str, Any], *peers: tuple[str, Peer], **more: Any) -> list[Twin]:
    return [Twin(ours, options, peer, name, **more) for name, peer in peers]


last9, clean20, last20 = (lambda: vp(9, False)), (lambda: vp(20)), (lambda: vp(20, False))
# diffusers' rule for N < 15 is ours for lower_order_final
FINAL = {"lower_order_final": True}
PLAIN = {"start": "plain"}
CHURN = {"s_churn": 4.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
MIDPOINT = {"solver_type": "midpoint"}
PUBLISHED = {"solver_type": "as_published", **PLAIN}

TWINS = [
    *rows("euler", {}, ("k", k("euler")), ("Euler", d("Euler")), ("DDIM", d("DDIM"))),
    *rows("euler", {}, ("LMS-1", d("LMS", {"order": 1})), ("DPM++1", dpm(1))),
    *rows("euler", {}, ("FlowMatchEuler", own("FlowMatchEuler")), problem=straight),
    *rows("euler", {}, ("EDMEuler", own("EDMEuler")), ("k", k("euler")), problem=edm),
    *rows("euler", {}, ("DPM1", dpm(1, "dpmsolver")), problem=last9),
    *rows("ancestral", {}, ("k", k("euler_ancestral")), ("EulerAncestral", d("EulerAncestral"))),
    *rows("ancestral", {"eta": 0.6}, ("k", k("euler_ancestral", eta=0.6))),
    *rows("ancestral", {"eta": 1.0}, ("SDE-DPM++1", dpm(1, "sde-dpmsolver++"))),
    *rows("ddim", {"eta": 0.7}, ("DDIM", d("DDIM", {"eta": 0.7}))),
    *rows("ddpm", {}, ("DDPM", d("DDPM"))),
    *rows("heun", {}, ("k", k("heun")), ("Heun", d("Heun"))),
    *rows("heun", {}, ("k", k("heun")), problem=edm),
    *rows("pndm", {}, ("PNDM", d("PNDM", skip_prk_steps=True)), problem=even),
    *rows("pndm", {"skip_prk_steps": False}, ("PNDM", own("PNDM", True, timestep_spacing="leading")), problem=even),
    # multistep on x₀
    *rows("dpmpp_2m", MIDPOINT, ("k", k("dpmpp_2m")), ("DPM++2M", dpm())),
    *rows("dpmpp_2m", MIDPOINT, ("k", k("dpmpp_2m")), ("DPM++2M", dpm()), problem=clean20),
    *rows("dpmpp_2m", MIDPOINT, ("k", k("dpmpp_2m")), problem=edm),
    *rows("dpmpp_2m", MIDPOINT, ("EDMDPM", own("EDMDPMSolverMultistep", solver_order=2)), problem=edm),
    *rows("dpmpp_2m", {"solver_type": "exact"}, ("DPM++2M", dpm(solver_type="heun"))),
    *rows("dpmpp_2m", {**MIDPOINT, **FINAL}, ("DPM++2M", dpm()), problem=last9),
    *rows("dpmpp_2m", MIDPOINT, ("DPM++2M", dpm()), problem=last20),
    *rows("dpmpp_3m", {**PUBLISHED, **FINAL}, ("DPM++3M", dpm(3, solver_type="heun"))),
    *rows("dpmpp_3m", PUBLISHED, ("DPM++3M", dpm(3, solver_type="heun")), problem=clean20),
    *rows("dpmpp_3m", PUBLISHED, ("DPM++3M", dpm(3, solver_type="heun")), problem=last20),
    *rows("dpmpp_2m_sde", MIDPOINT, ("k", k("dpmpp_2m_sde")), ("SDE-DPM++2M", dpm(2, "sde-dpmsolver++"))),
    *rows("dpmpp_2m_sde", {**MIDPOINT, "eta": 0.4, "s_noise": 1.1}, ("k", k("dpmpp_2m_sde", eta=0.4, s_noise=1.1))),
    *rows("dpmpp_2m_sde", {**MIDPOINT, "eta": 0.0}, ("k", k("dpmpp_2m_sde", eta=0.0)), ("k-2m", k("dpmpp_2m"))),
    *rows(
        "dpmpp_2m_sde", {"solver_type": "exact"}, ("k", k("dpmpp_2m_sde", solver_type="heun")),
        ("SDE-DPM++2M", dpm(2, "sde-dpmsolver++", solver_type="heun")),
    ),
    *rows("res_multistep", {}, ("DPM++2M", dpm(solver_type="heun"))),
    # diffusers' order 3 has a wrong sign (0.5 for −0.5 in the second-order term)
    *rows("dpmpp_3m_sde", PUBLISHED, ("k", k("dpmpp_3m_sde"))),
    *rows("dpmpp_3m_sde", {**PUBLISHED, "eta": 0.4}, ("k", k("dpmpp_3m_sde", eta=0.4)), problem=clean20),
    *rows("dpmpp_3m_sde", {**PUBLISHED, "eta": 0.0}, ("k", k("dpmpp_3m_sde", eta=0.0))),
    # multistep on ε
    *rows("dpm_2m", {**MIDPOINT, **FINAL}, ("DPM2M", dpm(2, "dpmsolver")), problem=last9),
    *rows("dpm_2m", {"solver_type": "exact"}, ("DPM2M", dpm(2, "dpmsolver", solver_type="heun")), problem=last20),
    *rows("dpm_3m", {**PUBLISHED, **FINAL}, ("DPM3M", dpm(3, "dpmsolver", solver_type="heun")), problem=last9),
    *rows("dpm_3m", PUBLISHED, ("DPM3M", dpm(3, "dpmsolver", solver_type="heun")), problem=last20),
    *rows("lms", PLAIN, ("k", k("lms")), ("LMS", d("LMS"))),
    *rows("lms", {**PLAIN, "order": 3}, ("k", k("lms", order=3)), ("LMS", d("LMS", {"order": 3})), problem=clean20),
    *rows("lms", {**PLAIN, "order": 2}, ("k", k("lms", order=2)), problem=edm),
    *[
        row
        for order in (1, 2, 3)
        for options, problem in ((FINAL, last9), ({}, last20))
        for row in rows(
            "deis", {"polynomial": "log_rho", "order": order, **PLAIN, **options},
            ("DEIS", d("DEISMultistep", solver_order=order)), problem=problem,
        )
    ],
    *[
        row
        for problem in (vp, last20)
        for order in (1, 2, 3)
        for kind in ("bh1", "bh2")
        for x0 in (True, False)
        for row in rows(
            "unipc", {"order": order, "solver_type": kind, "predict_x0": x0, **FINAL},
            ("UniPC", d("UniPCMultistep", solver_order=order, solver_type=kind, predict_x0=x0)), problem=problem,
        )
        # to σ = 0, ε is not extrapolated, and diffusers' bh1 is NaN: B₁ = ∞ times no terms
        if problem is last20 or (x0 and kind == "bh2")
    ],
    *rows(
        "unipc", {"order": 3, "corrector": False, **FINAL},
        ("UniP", d("UniPCMultistep", solver_order=3, disable_corrector=list(range(20)))), problem=last9,
    ),
    *rows("ipndm", {}, ("IPNDM", d("IPNDM"))),
    *rows("ipndm", {}, ("IPNDM", d("IPNDM")), problem=clean20),
    # diffusers' orders do not count the new prediction of the corrector
    *[
        row
        for tau in (0.0, 0.6, 1.0)
        for order, corrector in ((1, 1), (2, 2), (3, 2), (3, 3), (3, 4))
        for row in rows(
            "sa_solver", {"order": order, "corrector_order": corrector, "tau": tau, "solver_type": "bh1", **FINAL},
            ("SASolver", sa_solver(order, corrector, tau)), problem=last9,
        )
    ],
    # single steps
    *rows("dpm2", {}, ("k", k("dpm_2")), ("KDPM2", d("KDPM2"))),
    *rows("dpm2", {}, ("k", k("dpm_2")), problem=edm),
    *rows("dpm2_ancestral", {}, ("k", k("dpm_2_ancestral")), ("KDPM2Ancestral", d("KDPM2Ancestral"))),
    *rows("dpm2_ancestral", {"eta": 0.5}, ("k", k("dpm_2_ancestral", eta=0.5))),
    *rows("dpmpp_2s_ancestral", {}, ("k", k("dpmpp_2s_ancestral"))),
    *rows("dpmpp_2s_ancestral", {"eta": 0.5}, ("k", k("dpmpp_2s_ancestral", eta=0.5)), problem=clean20),
    *rows("dpmpp_sde", {"brownian": False}, ("k", k("dpmpp_sde")), ("DPMSolverSDE", d("DPMSolverSDE"))),
    *rows("dpmpp_sde", {"brownian": False, "eta": 0.5, "r": 0.3}, ("k", k("dpmpp_sde", eta=0.5, r=0.3))),
    *rows("dpmpp_sde", {"eta": 0.8}, ("k", k_brownian(0.8))),
    *rows("dpm2", {}, ("DPM2S", single(2, "dpmsolver")), problem=last9),
    *rows("dpmpp_2s", {}, ("DPM++2S", single(2, "dpmsolver++")), problem=last9),
    *rows("dpmpp_3s", {}, ("DPM++3S", single(3, "dpmsolver++")), problem=last9),
    *rows("dpm_3s", {}, ("DPM3S", single(3, "dpmsolver")), ("k", k_dpm_3), problem=last9),
    *rows("edm", CHURN, ("k", k("heun", **CHURN)), problem=edm),
    *rows("edm", {**CHURN, "corrector": False}, ("k", k("euler", **CHURN)), problem=edm),
    # on the straight path diffusers' Heun is one for dx/dσ = ε − x₀, not for dx̄/dσ̄ = ε
    *rows("flow_heun", {}, ("FlowMatchHeun", own("FlowMatchHeun")), problem=straight),
    # few steps
    *rows("lcm", {}, ("LCM", own("LCM", True)), problem=few, tolerance=1e-7),  # its c_out is not quite 1
    *rows("tcd", {"eta": 0.3}, ("TCD", own("TCD", True)), problem=lambda: few(0.0)),
]  # fmt: skip


@pytest.mark.parametrize("twin", TWINS, ids=str)
def test_twin(twin):
    problem = twin.problem()
    expected = twin.peer(problem)
    actual = ours(twin.ours, twin.options, problem)
    assert (actual - expected).abs().max() < twin.tolerance * expected.abs().max()
