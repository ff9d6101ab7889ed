"""Errors of networks of two times with 1 to 8 calls, on the digits, and what restart noise does to them.

Part 1: RMS error per pixel to the exact solution, from the same noise. The exact flow map is the limit of such
networks. A map of k Heun steps stands for a network that is only nearly right: whatever interval it is asked for, it
follows the probability-flow ODE in k steps. Networks of one time, exact as well, are run by the samplers beside it.

Part 2: the energy distance between the samples of a map of 2 Heun steps and the data, by γ. The estimate has no bias,
so where the distance is small it may fall below 0; that of the exact map shows how far chance alone leads.

    python benchmarks/two_times.py [--quick]
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import numpy as np
import torch
from common import table
from measure import run_plan
from torch import Tensor

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, TimeGrid
from noise_scheduler_sampling_system.models import DigitsModel
from noise_scheduler_sampling_system.samplers import SamplerFactory
from noise_scheduler_sampling_system.schedules import FlowPath

CALLS = (1, 2, 4, 8)
HEAD = [f"{calls} call{'s'[: calls > 1]}" for calls in CALLS]
GAMMAS = (0.0, 0.3, 0.6, 1.0)
PATH = FlowPath()
MODEL = DigitsModel(PATH)
HEUN = SamplerFactory.create("heun", PATH)


def map_of(substeps: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A flow map that follows the ODE in a number of Heun steps, as a network that predicts the state."""

    def network(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        times = np.linspace(float(t[0]), float(r[0]), substeps + 1)
        clean = times[-1] == 0.0
        grid = TimeGrid.from_times(PATH, times[:-1]) if clean else TimeGrid.from_times(PATH, times, end=None)
        return run_plan(HEUN.plan(grid=grid), MODEL, x)

    return network


@functools.cache
def pipeline_of(method: str, kind: str = "state", gamma: float | None = None) -> DiffusionPipeline:
    config = NoiseSchedulerConfig(beta_schedule="flow", prediction_type=kind)
    return DiffusionPipeline(config, method, **({} if gamma is None else {"gamma": gamma}))


def errors(starts: int) -> str:
    """Part 1."""
    x = torch.randn(starts, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = MODEL.reference_solution(x)
    exact_map = DigitsModel(PATH, prediction_type="state")
    runs = [
        ("two times: the exact flow map", pipeline_of("flow_map"), exact_map),
        *((f"two times: a map of {k} Heun step{'s'[: k > 1]}", pipeline_of("flow_map"), map_of(k)) for k in (1, 2, 4)),
        *((f"one time: `{name}`", pipeline_of(name, "flow_prediction"), MODEL) for name in ("ddim", "dpmpp_2m")),
    ]
    rows = []
    for name, pipeline, model in runs:
        cells = []
        for calls in CALLS:
            got = pipeline.sample(model, initial_noise=x, num_inference_steps=calls, dtype=torch.float64)
            cells.append(f"{float((got - exact).square().mean().sqrt()):.2g}")
        rows.append([name, *cells])
    return table(["network and sampler", *HEAD], rows)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2·E|a − b| − E|a − a'| − E|b − b'| over samples, without each sample's distance to itself."""
    a, b = a.flatten(1), b.flatten(1)
    own = [float(torch.cdist(each, each).sum()) / (len(each) * (len(each) - 1)) for each in (a, b)]
    return 2.0 * float(torch.cdist(a, b).mean()) - sum(own)


def distances(count: int) -> str:
    """Part 2."""
    data = MODEL.sample_data(4 * count, (1, 8, 8), generator=1)
    x = torch.randn(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    chance = energy_distance(MODEL.reference_solution(x), data)
    rows = []
    for gamma in GAMMAS:
        pipeline = pipeline_of("flow_map", "state", gamma)
        run = {"initial_noise": x, "seed": 3, "dtype": torch.float64}
        samples = [pipeline.sample(map_of(2), num_inference_steps=calls, **run) for calls in CALLS]
        rows.append([f"γ = {gamma:g}", *(f"{1000 * energy_distance(each, data):.1f}" for each in samples)])
    rows.append(["the exact map, any γ", f"{1000 * chance:.1f}", *[""] * (len(CALLS) - 1)])
    return table(["1000 × energy distance", *HEAD], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    quick = parser.parse_args().quick
    print(errors(8 if quick else 64), distances(64 if quick else 1024), sep="\n\n")


if __name__ == "__main__":
    main()
