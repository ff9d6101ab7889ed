"""Which spacing suits each multistep sampler, on trained networks and on exact models.

    python benchmarks/default_grids.py [--networks galaxies galaxies-linear unet-1 ...] [--samples 16]
        [--calls 4 6 8 10 15 20] [--samplers unipc ...] [--grids kl_optimal ...] [--json grids.json]

Two trained networks that have nothing in common: the galaxies of ``benchmarks/galaxy_network.py``, which says how to
install them, and the embedded U-Net of MNIST with guidance 1 and 2. The galaxies are on their own path, whose β is
constant, and ("galaxies-linear") on the linear betas of most published networks: the levels decide what a
variance-preserving network predicts, and the times are only their names. The exact models are those of digits.

Every sampler runs on every spacing with exactly the given numbers of model calls, from the same noise. An error is the
root mean square per pixel to the network's own fine solution, over the root mean square of this solution. The spacing
that a sampler has by default is marked with a star, and the best spacing of each sampler and number of calls is printed
last. ``--json`` keeps the figures, with standard errors over samples; a run continues from its file.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from common import machine, table
from galaxy_network import T_MIN as GALAXY_T_MIN
from galaxy_network import galaxy_config, galaxy_network
from torch import Tensor

from noise_scheduler_sampling_system import (
    DiffusionPipeline,
    NoiseSamplingError,
    NoiseSchedulerConfig,
    SamplerFactory,
    SamplingPlan,
    models,
)
from noise_scheduler_sampling_system.analysis.solution import each_error, fine_plan
from noise_scheduler_sampling_system.config.registries import SAMPLERS
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys
from noise_scheduler_sampling_system.support.files import write_atomic

MULTISTEP: Final = ("unipc", "dpmpp_2m", "dpmpp_3m", "deis", "ipndm", "adams", "sa_solver", "res_multistep")
#: Spacings with their options, by the name to print.
GRIDS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "leading": ("leading", {}),
    "leading_dpm": ("leading_dpm", {}),
    "leading_dpm end=lowest": ("leading_dpm", {"end": "lowest"}),
    "trailing": ("trailing", {}),
    "linspace": ("linspace", {}),
    "karras": ("karras", {}),
    "exponential": ("exponential", {}),
    "log_snr": ("log_snr", {}),
    "beta": ("beta", {}),
    "beta57": ("beta57", {}),
    "linear_quadratic": ("linear_quadratic", {}),
    "kl_optimal": ("kl_optimal", {}),
    "kl_optimal end=lowest": ("kl_optimal", {"end": "lowest"}),
    "ays": ("ays", {}),
}
CALLS: Final = (4, 6, 8, 10, 15, 20)
FINE: Final = 96
SEED: Final = 2024
SILENT: Final = ("eta", "tau")


@dataclass(frozen=True)
class Problem:
    """A network with its settings, and how a plan runs on it.

    Attributes:
        config: its settings.
        run: samples of a plan, shape (B, ...), always from the same noise.
    """

    config: NoiseSchedulerConfig
    run: Callable[[SamplingPlan], Tensor]


def galaxies(count: int) -> Problem:
    network, config = galaxy_network(), galaxy_config()
    return Problem(config, _runner(DiffusionPipeline(config), network, network.shape, count, {}))


def galaxies_on_betas(count: int) -> Problem:
    network, config = galaxy_network(), NoiseSchedulerConfig()
    pipeline = DiffusionPipeline(config)
    path = pipeline.scheduler

    def model(x: Tensor, t: Tensor) -> Tensor:
        own = max(-2.0 * math.log(path.level(float(t[0])).alpha), GALAXY_T_MIN)
        predicted: Tensor = network(x, torch.full((len(x),), own))
        return predicted

    return Problem(config, _runner(pipeline, model, network.shape, count, {}))


def unet(count: int, scale: float) -> Problem:
    config = NoiseSchedulerConfig(prediction_type="v_prediction")
    model = models.mnist_unet().to(memory_format=torch.channels_last)
    told = {"condition": {"class_labels": torch.arange(count) % 10}, "guidance_scale": scale}
    return Problem(config, _runner(DiffusionPipeline(config), model, (1, 28, 28), count, told))


def digits(count: int, **settings: Any) -> Problem:
    config = NoiseSchedulerConfig(**settings)
    pipeline = DiffusionPipeline(config)
    told = {"condition": {"class_labels": torch.arange(count) % 10}, "guidance_scale": 1.0}
    model = models.DigitsModel(pipeline.scheduler)
    return Problem(config, _runner(pipeline, model, (1, 8, 8), count, told))


def _runner(
    pipeline: DiffusionPipeline, model: Any, shape: Sequence[int], count: int, told: Mapping[str, Any]
) -> Callable[[SamplingPlan], Tensor]:
    noise = NoiseSource(resolve_keys(SEED, None, count), tuple(shape)).initial()

    def run(plan: SamplingPlan) -> Tensor:
        samples: Tensor = pipeline.sample(model, initial_noise=noise, plan=plan, seed=0, **told)
        return samples

    return run


NETWORKS: Final[Mapping[str, Callable[[int], Problem]]] = {
    "galaxies": galaxies,
    "galaxies-linear": galaxies_on_betas,
    "unet-1": lambda count: unet(count, 1.0),
    "unet-2": lambda count: unet(count, 2.0),
    "digits-linear": digits,
    "digits-cosine": lambda count: digits(count, **_SCHEDULES["digits-cosine"]),
}

_SCHEDULES: Final = {"digits-cosine": {"beta_schedule": "cosine"}}


@dataclass(frozen=True)
class Choice:
    """What is measured: numbers of calls, samplers, and names of GRIDS."""

    calls: Sequence[int]
    samplers: Sequence[str]
    grids: Sequence[str]


def default_grid(sampler: str, config: NoiseSchedulerConfig, calls: int) -> str:
    """The name in GRIDS of the spacing that a sampler has by default, or "" if it is none of them."""
    pipeline = DiffusionPipeline(config, sampler, **_silent(sampler))
    own = pipeline.plan(calls).fingerprint
    return next((grid for grid in GRIDS if _fingerprint(config, sampler, grid, calls) == own), "")


def _fingerprint(config: NoiseSchedulerConfig, sampler: str, grid: str, calls: int) -> str:
    plan = plan_of(config, sampler, grid, calls)
    return "" if plan is None else plan.fingerprint


def _silent(sampler: str) -> dict[str, float]:
    return {name: 0.0 for name in SILENT if name in SAMPLERS.get(sampler).option_defaults}


def plan_of(config: NoiseSchedulerConfig, sampler: str, grid: str, calls: int) -> SamplingPlan | None:
    """The plan with exactly as many calls, or None where there is none."""
    spacing, options = GRIDS[grid]
    path = DiffusionPipeline(config).scheduler.spaced(spacing, options)
    try:
        made = SamplerFactory.create(sampler, path, **_silent(sampler))
        for steps in (calls, calls - 1, calls + 1):
            plan = made.plan(steps)
            if plan.nfe == calls:
                return plan
    except NoiseSamplingError:
        pass
    return None


def measure(
    name: str, count: int, choice: Choice, known: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, list[float]]]:
    """Yield the key "network|sampler|grid|calls" of what is not known, and the relative error, with standard error."""
    left = [
        (key, sampler, grid, calls)
        for calls in choice.calls
        for sampler in choice.samplers
        for grid in choice.grids
        if (key := f"{name}|{sampler}|{grid}|{calls}") not in known
    ]
    if not left:
        return
    problem = NETWORKS[name](count)
    path = DiffusionPipeline(problem.config).scheduler
    solution = problem.run(fine_plan(path, FINE))
    size = float(solution.square().mean().sqrt())
    for key, sampler, grid, calls in left:
        plan = plan_of(problem.config, sampler, grid, calls)
        if plan is None:
            continue
        try:
            squares = each_error(problem.run(plan), solution).square()
        except NoiseSamplingError:  # it overflows
            yield key, [math.inf, 0.0]
            continue
        rms = float(squares.mean().sqrt())
        spread = float(squares.std()) / (2.0 * rms * len(squares) ** 0.5)
        yield key, [rms / size, spread / size]


def report(found: Mapping[str, Sequence[float]], name: str, choice: Choice) -> str:
    """The tables of one network."""
    config = galaxy_config() if name == "galaxies" else NoiseSchedulerConfig(**_SCHEDULES.get(name, {}))
    parts, best = [], {sampler: [sampler] for sampler in choice.samplers}
    over: dict[tuple[str, str], list[float]] = {}  # by grid and sampler: the logarithm of error over best error
    for calls in choice.calls:
        cells: dict[str, list[str]] = {grid: [grid] for grid in choice.grids}
        for sampler in choice.samplers:
            own = default_grid(sampler, config, calls)
            errors = {
                grid: value[0]
                for grid in choice.grids
                if (value := found.get(f"{name}|{sampler}|{grid}|{calls}")) is not None
            }
            leader = min(errors, key=lambda grid: errors[grid], default="")
            best[sampler].append(f"{leader} {errors[leader]:.3g}" if leader else "")
            for grid in choice.grids:
                star = "*" if grid == own else ""
                cells[grid].append(f"{errors[grid]:.3g}{star}" if grid in errors else "")
                if grid in errors:
                    over.setdefault((grid, sampler), []).append(math.log(errors[grid] / errors[leader]))
        parts.append(f"{name}, {calls} calls\n\n{table(('spacing', *choice.samplers), list(cells.values()))}")
    heads = ("sampler", *(f"{calls} calls" for calls in choice.calls))
    parts.append(f"{name}, best spacings\n\n{table(heads, list(best.values()))}")
    means = []
    for grid in choice.grids:
        each = [over.get((grid, sampler), []) for sampler in choice.samplers]
        means.append((grid, *map(_mean_ratio, each), _mean_ratio([ratio for ratios in each for ratio in ratios])))
    title = f"{name}, error over that of the sampler's best spacing, geometric mean over calls"
    parts.append(f"{title}\n\n{table(('spacing', *choice.samplers, 'all'), means)}")
    return "\n\n".join(parts)


def _mean_ratio(logarithms: Sequence[float]) -> str:
    return f"{math.exp(sum(logarithms) / len(logarithms)):.2f}" if logarithms else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--samplers", nargs="+", default=MULTISTEP)
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--json", type=Path, help="a file to keep the figures in, and to continue from")
    given = parser.parse_args()
    choice = Choice(given.calls, given.samplers, given.grids)
    found: dict[str, list[float]] = {}
    if given.json is not None and given.json.exists():
        found = json.loads(given.json.read_text())
    print(f"{given.samples} samples, seed {SEED}; {machine()}\n")
    for name in given.networks:
        for number, (key, value) in enumerate(measure(name, given.samples, choice, found), start=1):
            found[key] = value
            if given.json is not None and number % 20 == 0:
                write_atomic(given.json, json.dumps(found, indent=0).encode())
        if given.json is not None:
            write_atomic(given.json, json.dumps(found, indent=0).encode())
        print(report(found, name, choice), flush=True)


if __name__ == "__main__":
    main()
