"""Caching the network's output in a run of 50 steps, against plans of fewer steps with as many evaluations.

    python benchmarks/caching.py [--samples 16] [--made 10 13 16] [--plans plans.json] [--json figures.json]

Caching keeps a sampler's 50 steps and evaluates the network in N of them. In the others the guided output is forecast
from those that were made. The forecasts:

* reuse: the last output (as DeepCache and TeaCache do with parts of a network);
* Taylor: the polynomial through the last two or three outputs, over the number of the step (TaylorSeer,
  arXiv 2503.06923, applied to the network's output);
* Adams-Bashforth: 2·f(n) − f(n−1) from two steps in a row, repeated (AB-Cache, arXiv 2504.10540). The evaluated steps
  come in pairs;
* log SNR: the line through the last two outputs over the log SNR of the steps;
* threshold: reuse until the output is likely to have changed by more than a share τ, judged by its last change per
  step. τ is searched for so that N outputs are made.

The steps to evaluate are spread evenly, the first one among them, except for pairs and thresholds. Each forecast is
linear in outputs that were made, so a run with one is a plan of N calls; the question is whether it is a good one. The
opponents are built-in samplers with N calls, and calibrated plans of as many calls or evaluations from a file. The
model is the embedded U-Net of MNIST with guidance 2. The error is the root mean square per pixel to the fine solution,
over the root mean square of this solution, with its standard error over samples, and in brackets the median. The
calibrated plans are made by ``masked_plans.py unet --evaluations 16 20 --seeds 0 --passes 10 --once --keep DIR``, which
writes DIR/unet-2-0.json.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from common import machine, table
from torch import Tensor

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, PlanSet, SamplingPlan, models
from noise_scheduler_sampling_system.analysis.solution import each_error
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys
from noise_scheduler_sampling_system.support.files import write_atomic

STEPS: Final = 50
SCALE: Final = 2.0
SEED: Final = 77
SHAPE: Final = (1, 28, 28)
#: Samplers with 50 steps: the one that papers on caching take, and a good one of this library.
BASES: Final = (("ddim", "trailing"), ("dpmpp_2m", "beta57"))
#: Samplers with N steps.
RIVALS: Final = (("unipc", "beta57"), ("dpmpp_2m", "beta57"), ("sa_solver", "trailing"), ("deis", "trailing"))
#: The run that stands for the solution.
FINE: Final = ("unipc", "beta57", 96)
BISECTIONS: Final = 6


def plan_of(method: str, spacing: str, steps: int) -> SamplingPlan:
    config = NoiseSchedulerConfig(prediction_type="v_prediction", timestep_spacing=spacing)
    options = {"tau": 0.0} if method == "sa_solver" else {}
    return DiffusionPipeline(config, method, **options).plan(steps)


def log_snrs(plan: SamplingPlan) -> list[float]:
    return [-2.0 * math.log(plan.level(row).noise_to_signal) for row in range(len(plan))]


#: From the outputs made so far, by the number of their step, and the number of the step: the forecast.
Forecast = Callable[[dict[int, Tensor], int, list[float]], Tensor]


def through(count: int, axis: Callable[[int, list[float]], float]) -> Forecast:
    """The polynomial through the last ``count`` outputs over an axis."""

    def forecast(made: dict[int, Tensor], step: int, levels: list[float]) -> Tensor:
        known = sorted(made)[-count:]
        at = axis(step, levels)
        places = {number: axis(number, levels) for number in known}
        total = torch.zeros_like(made[known[0]])
        for number in known:
            weight = 1.0
            for other in known:
                if other != number:
                    weight *= (at - places[other]) / (places[number] - places[other])
            total += weight * made[number]
        return total

    return forecast


def step_number(step: int, levels: list[float]) -> float:
    return float(step)


def level(step: int, levels: list[float]) -> float:
    return levels[step]


#: Forecasts of evenly spread steps.
FORECASTS: Final[dict[str, Forecast]] = {
    "reuse": through(1, step_number),
    "Taylor, order 1": through(2, step_number),
    "Taylor, order 2": through(3, step_number),
    "log SNR, order 1": through(2, level),
}


def evenly(made: int) -> list[int]:
    return sorted({round(i * (STEPS - 1) / (made - 1)) for i in range(made)})


def in_pairs(made: int) -> list[int]:
    """Two steps in a row, evenly spread; the first step of a run is in the first pair."""
    pairs = made // 2
    starts = [round(i * (STEPS - 2) / (pairs - 1)) for i in range(pairs)]
    chosen = {number for start in starts for number in (start, start + 1)}
    left = (number for number in evenly(STEPS) if number not in chosen)
    while len(chosen) < made:
        chosen.add(next(left))
    return sorted(chosen)


@dataclass
class Cached:
    """A guided network that is evaluated in some steps of a run.

    Attributes:
        network: predicts v from x, t and class labels.
        labels: of the samples, shape (B,).
        levels: the log SNR of each step.
        steps: the steps to evaluate, or None for a threshold.
        forecast: of the output in the other steps.
        threshold: the share of change τ, where there are no steps.
    """

    network: Callable[..., Any]
    labels: Tensor
    levels: list[float]
    steps: Sequence[int] | None
    forecast: Forecast
    threshold: float = 0.0
    made: dict[int, Tensor] = field(default_factory=dict)
    number: int = 0

    prediction_type = "v_prediction"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        step, self.number = self.number, self.number + 1
        if not self._due(step):
            return self.forecast(self.made, step, self.levels)
        known, free = (
            self.network(x, t, class_labels=labels).sample
            for labels in (self.labels, torch.full_like(self.labels, CLASSES))
        )
        self.made[step] = free + SCALE * (known - free)
        return self.made[step]

    def _due(self, step: int) -> bool:
        if self.steps is not None:
            return step in self.steps
        known = sorted(self.made)[-2:]
        if len(known) < 2:
            return True
        before, last = (self.made[number] for number in known)
        change = float((last - before).abs().mean() / before.abs().mean()) / (known[1] - known[0])
        return change * (step - known[1]) > self.threshold


CLASSES: Final = 10


def adams_bashforth(made: dict[int, Tensor], step: int, levels: list[float]) -> Tensor:
    """2·f(n) − f(n−1), where forecasts count as outputs: the line of the last two steps in a row goes on."""
    last = max(made)
    before = made.get(last - 1, made[last])
    return made[last] + (step - last) * (made[last] - before)


@dataclass(frozen=True)
class Bench:
    """The network and the noise of all runs."""

    count: int
    network: Callable[..., Any]

    @property
    def labels(self) -> Tensor:
        return torch.arange(self.count) % CLASSES

    @property
    def noise(self) -> Tensor:
        return NoiseSource(resolve_keys(SEED, None, self.count), SHAPE).initial()

    @property
    def pipeline(self) -> DiffusionPipeline:
        return DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"))

    def guided(self, plan: SamplingPlan) -> Tensor:
        found: Tensor = self.pipeline.sample(
            self.network, initial_noise=self.noise, plan=plan, seed=0, condition={"class_labels": self.labels},
            guidance_scale=SCALE,
        )  # fmt: skip
        return found

    def cached(
        self, plan: SamplingPlan, steps: Sequence[int] | None, forecast: Forecast, threshold: float = 0.0
    ) -> tuple[Tensor, int]:
        """The samples, and the number of outputs that were made."""
        model = Cached(self.network, self.labels, log_snrs(plan), steps, forecast, threshold)
        samples: Tensor = self.pipeline.sample(model, initial_noise=self.noise, plan=plan, seed=0)
        return samples, len(model.made)

    def within(self, plan: SamplingPlan, made: int, forecast: Forecast) -> tuple[Tensor, int]:
        """The run with the least threshold that makes at most as many outputs."""
        low, high = 0.0, 1.0
        best = self.cached(plan, None, forecast, high)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2.0
            samples, count = self.cached(plan, None, forecast, middle)
            if count <= made:
                best, high = (samples, count), middle
            else:
                low = middle
            if count == made:
                break
        return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--made", type=int, nargs="+", default=(10, 13, 16))
    parser.add_argument("--plans", type=Path, help="calibrated plans of the U-Net with guidance 2")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    bench = Bench(given.samples, models.mnist_unet())
    plans = None if given.plans is None else PlanSet.load(given.plans)
    solution = bench.guided(plan_of(*FINE))
    size = float(solution.square().mean().sqrt())
    figures: dict[str, dict[int, str]] = {}

    def note(name: str, made: int, samples: Tensor, counted: int | None = None) -> None:
        each = each_error(samples, solution) / size
        rms, deviation = float(each.square().mean().sqrt()), float(each.square().std())
        fewer = "" if counted in (None, made) else f", {counted} made"
        error = f"{rms:.3g} ± {deviation / (2.0 * rms * math.sqrt(len(each))):.1g}"
        figures.setdefault(name, {})[made] = f"{error} ({float(each.median()):.2g}){fewer}"
        print(f"  {name}, {made}: {figures[name][made]}", flush=True)
        if given.json is not None:
            write_atomic(given.json, json.dumps(figures, indent=1, ensure_ascii=False).encode())

    for made in given.made:
        for method, spacing in RIVALS:
            note(f"{method} on {spacing}, N steps", made, bench.guided(plan_of(method, spacing, made)))
        budget = made if plans is None or plans.counts == "nfe" else 2 * made
        if plans is not None and budget in plans:
            note(f"calibrated, {plans.counts_in_words} as in N steps", made, bench.guided(plans[budget]))
        for method, spacing in BASES:
            plan = plan_of(method, spacing, STEPS)
            base = f"{method} on {spacing}, {STEPS} steps"
            for name, forecast in FORECASTS.items():
                note(f"{base}: {name}", made, *bench.cached(plan, evenly(made), forecast))
            note(f"{base}: Adams-Bashforth", made, *bench.cached(plan, in_pairs(made), adams_bashforth))
            note(f"{base}: threshold", made, *bench.within(plan, made, FORECASTS["reuse"]))
    for method, spacing in BASES:
        name = f"{method} on {spacing}, {STEPS} steps: all evaluated"
        note(name, STEPS, bench.guided(plan_of(method, spacing, STEPS)))
    rows = [(name, *(found.get(made, "") for made in (*given.made, STEPS))) for name, found in figures.items()]
    head = ("run", *(f"N = {made}" for made in given.made), f"N = {STEPS}")
    print(f"\nU-Net, guidance {SCALE:g}, {given.samples} samples, RMS error ± standard error (median); {machine()}\n")
    print(table(head, rows))


if __name__ == "__main__":
    main()
