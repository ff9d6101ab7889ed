"""Error of a guided network against evaluations: both branches in every call, in an interval, and in some calls.

    python benchmarks/guidance_cost.py [network] [--scale 2] [--samples 64] [--evaluations 8,12,16]
    python benchmarks/guidance_cost.py cached [--scale 3] [--samples 64] [--evaluations 8,12,16]

A call with guidance costs two evaluations of the network, a call without one. Errors are root mean squares per pixel
against a fine run that is guided everywhere.

``network``: the MNIST U-Net. For each number of evaluations the table has the best of a few samplers and grids for each
way to spend them: ``ClassifierFree`` in every call, ``Interval`` over the best of some intervals, and
``CachedGuidance`` (median over samples in brackets).

``cached``: the exact model of digits under every deterministic sampler with one call a step, each on the better of two
grids. The first table has the errors of each sampler: both branches in every call, the mask of ``CachedGuidance`` where
nothing is said, and the best share of calls with both branches and order (0: differences are kept, 1: extrapolated).
The second table has, for every share and order, the error over that of both branches in every call, as a geometric mean
over the samplers.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from common import machine, table
from masked_plans import Setting, digits

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSamplingError, NoiseSchedulerConfig, SamplingPlan
from noise_scheduler_sampling_system.analysis.solution import fine_plan
from noise_scheduler_sampling_system.calibration.search.built_in import baselines
from noise_scheduler_sampling_system.calibration.trajectories import errors_of
from noise_scheduler_sampling_system.config.registries import SAMPLERS
from noise_scheduler_sampling_system.guidance import CachedGuidance, ClassifierFree, Interval, evaluations
from noise_scheduler_sampling_system.guidance.cached import default_calls
from noise_scheduler_sampling_system.models import mnist_unet

SHAPE = (1, 28, 28)
METHODS = (("unipc", "kl_optimal"), ("unipc", "leading_dpm"), ("dpmpp_2m", "leading_dpm"))
#: Intervals of σ/α in which guidance acts.
INTERVALS = ((0.0, 1.0), (0.0, 3.0), (0.3, 3.0), (0.3, 10.0), (0.5, 5.0), (1.0, 20.0), (0.0, 10.0))

#: The grids of which each sampler takes the better one for the exact model.
GRIDS = ("ays", "scm")


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


def network(scale: float, samples: int, totals: Sequence[int]) -> None:
    """Print what the network's samplers reach."""
    model, shape = mnist_unet(), (samples, *SHAPE)
    run = {"condition": {"class_labels": torch.arange(samples) % 10}, "seed": 0}
    first = pipeline_of(*METHODS[0])
    exact = first.sample(model, shape, plan=fine_plan(first.scheduler, 64), guidance_scale=scale, **run)
    rows = []
    for total in totals:
        for kind in ("both branches", "interval", "cached"):
            found = []
            for method in METHODS:
                pipeline = pipeline_of(*method)
                for name, steps, guidance in ways(kind, pipeline, scale, total):
                    x = pipeline.sample(model, shape, steps, guidance=guidance, **run)
                    each = (x - exact).flatten(1).square().mean(1).sqrt()
                    rms, median = each.square().mean().sqrt().item(), each.median().item()
                    found.append((rms, f"{rms:.4f} ({median:.4f})", f"{', '.join(method)}, {name}"))
            _, error, best = min(found)
            rows.append((str(total), kind, error, best))
    print(machine())
    print(table(("evaluations", "unconditional branch", "error", "best of"), rows))


def plans_by_sampler(setting: Setting, calls: int, names: Sequence[str]) -> dict[str, list[SamplingPlan]]:
    """The plans of samplers with one call a step, on all grids."""
    found: dict[str, list[SamplingPlan]] = {}
    wanted = [f"{name}, {grid}" for name in names for grid in GRIDS]
    for each in baselines(setting.pipeline.scheduler, calls, wanted):
        if each.plan.steps == each.plan.nfe == calls:
            found.setdefault(each.name.split(",")[0], []).append(each.plan)
    return found


def alike(plans: dict[str, list[SamplingPlan]]) -> list[list[str]]:
    """The names of samplers, those with the same numbers together."""
    groups: dict[object, list[str]] = {}
    for name, each in plans.items():
        groups.setdefault(tuple(np.round(plan.b, 6).tobytes() for plan in each), []).append(name)
    return list(groups.values())


def cached(setting: Setting, scale: float, totals: Sequence[int], names: Sequence[str]) -> None:
    """Print what masks and orders are worth for each sampler."""
    plans = {calls: plans_by_sampler(setting, calls, names) for calls in range(min(totals) // 2, max(totals))}
    everywhere = {
        name: each for name, each in plans[max(plans)].items() if all(name in known for known in plans.values())
    }
    groups = alike(everywhere)
    solution, everything = setting.solution(scale), slice(0, setting.samples)

    def error(plan: SamplingPlan) -> float:
        try:
            return errors_of(setting.sample(plan, scale, everything), solution).rms
        except NoiseSamplingError:  # it overflows
            return math.inf

    rows: dict[str, list[object]] = {group[0]: [group[0]] for group in groups}
    means: list[tuple[object, ...]] = []
    for total in totals:
        calls = {n: total - n for n in range(total // 2 + 1, total)}
        plain = default_share(total)
        ways = [(n, both, order) for n, both in sorted({plain, *calls.items()}) for order in (0, 1)]
        ratios: dict[tuple[int, int, int], list[float]] = {way: [] for way in ways}
        for name, row in rows.items():
            every = min(map(error, plans[total // 2][name]))
            found = {}
            for n, both, order in ways:
                guidance = CachedGuidance(scale, calls=default_calls(n, both), order=order)
                found[n, both, order] = min(error(guidance.folded_into(plan)) for plan in plans[n][name])
                ratios[n, both, order].append(found[n, both, order] / every)
            n, both, order = min(found, key=found.__getitem__)
            best = f"{found[n, both, order]:.3g}: {both} of {n}, order {order}"
            row += [f"{every:.3g}", f"{found[(*plain, 0)]:.3g}", best]
        for n, both, _ in ways[::2]:
            mean = (f"{statistics.geometric_mean(ratios[n, both, order]):.2f}" for order in (0, 1))
            about = ", the default" if (n, both) == plain else ""
            means.append((n + both, f"{both} of {n}{about}", f"{both / n:.0%}", *mean))
    head = ["sampler"]
    for total in totals:
        n, both = default_share(total)
        head += [f"{total} evaluations: {total // 2} of {total // 2}", f"default: {both} of {n}", "best"]
    print(f"{setting.name}, guidance {scale:g}, {setting.samples} samples, grids {', '.join(GRIDS)}; {machine()}\n")
    print(table(head, list(rows.values())))
    print("\nequal plans:", "; ".join(" = ".join(group) for group in groups if len(group) > 1), end="\n\n")
    print(table(("evaluations", "calls with both branches", "share", "order 0", "order 1"), means))


def default_share(total: int) -> tuple[int, int]:
    """The most calls for some evaluations where ``CachedGuidance`` is told nothing, and how many evaluate both."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    plans = [CachedGuidance(2.0).folded_into(pipeline.plan(n)) for n in range(total // 2, total)]
    plan = max((plan for plan in plans if plan.evaluations <= total), key=lambda plan: plan.nfe)
    return plan.nfe, plan.evaluations - plan.nfe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("network", "cached"), nargs="?", default="network")
    parser.add_argument("--scale", type=float, help="default: 2 of the network, 3 of the exact model")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--evaluations", default="8,12,16")
    given = parser.parse_args()
    totals = [int(each) for each in given.evaluations.split(",")]
    if given.what == "network":
        network(given.scale or 2.0, given.samples, totals)
    else:
        cached(replace(digits(0.15), samples=given.samples), given.scale or 3.0, totals, tuple(SAMPLERS))


if __name__ == "__main__":
    main()
