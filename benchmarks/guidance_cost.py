"""Error of a guided network against evaluations: both branches in every call, in an interval, and in some calls.

    python benchmarks/guidance_cost.py [--scale 2] [--samples 64] [--evaluations 8,12,16]

The MNIST U-Net under classifier-free guidance. A call with guidance costs two evaluations of the network, a call
without one. For each number of evaluations the table has the best of a few samplers and grids for each way to spend
them: ``ClassifierFree`` in every call, ``Interval`` over the best of some intervals, and ``CachedGuidance``. The error
is the root mean square per pixel against a fine run that is guided everywhere (median over samples in brackets).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from common import machine, table

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.analysis.solution import fine_plan
from noise_scheduler_sampling_system.guidance import CachedGuidance, ClassifierFree, Interval, evaluations
from noise_scheduler_sampling_system.models import mnist_unet

SHAPE = (1, 28, 28)
METHODS = (("unipc", "kl_optimal"), ("unipc", "leading_dpm"), ("dpmpp_2m", "leading_dpm"))
#: Intervals of σ/α in which guidance acts.
INTERVALS = ((0.0, 1.0), (0.0, 3.0), (0.3, 3.0), (0.3, 10.0), (0.5, 5.0), (1.0, 20.0), (0.0, 10.0))


def pipeline_of(method: str, spacing: str) -> DiffusionPipeline:
    """A pipeline for the network."""
    config = NoiseSchedulerConfig(prediction_type="v_prediction", timestep_spacing=spacing)
    return DiffusionPipeline(config, method)


def ways(kind: str, pipeline: DiffusionPipeline, scale: float, total: int) -> Iterator[tuple[str, int, Any]]:
    """(name, steps, guidance) of each way to spend at most ``total`` evaluations."""
    if kind == "both branches":
        yield f"{total // 2} calls", total // 2, [ClassifierFree(scale)]
    elif kind == "cached":
        for steps in range(total // 2 + 1, total):
            yield f"{steps} calls, {total - steps} of both", steps, CachedGuidance(scale, evaluations=total)
    else:
        for low, high in INTERVALS:
            guidance = [ClassifierFree(scale), Interval(low, high)]
            for steps in range(total, total // 2, -1):  # the most steps that the interval leaves
                if sum(evaluations(guidance, pipeline.plan(steps))) <= total:
                    yield f"{steps} calls, {low:g} to {high:g}", steps, guidance
                    break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--evaluations", default="8,12,16")
    options = parser.parse_args()
    model, shape = mnist_unet(), (options.samples, *SHAPE)
    run = {"condition": {"class_labels": torch.arange(options.samples) % 10}, "seed": 0}
    first = pipeline_of(*METHODS[0])
    exact = first.sample(model, shape, plan=fine_plan(first.scheduler, 64), guidance_scale=options.scale, **run)
    rows = []
    for total in map(int, options.evaluations.split(",")):
        for kind in ("both branches", "interval", "cached"):
            found = []
            for method in METHODS:
                pipeline = pipeline_of(*method)
                for name, steps, guidance in ways(kind, pipeline, options.scale, total):
                    x = pipeline.sample(model, shape, steps, guidance=guidance, **run)
                    each = (x - exact).flatten(1).square().mean(1).sqrt()
                    rms, median = each.square().mean().sqrt().item(), each.median().item()
                    found.append((rms, f"{rms:.4f} ({median:.4f})", f"{', '.join(method)}, {name}"))
            _, error, best = min(found)
            rows.append((str(total), kind, error, best))
    print(machine())
    print(table(("evaluations", "unconditional branch", "error", "best of"), rows))


if __name__ == "__main__":
    main()
