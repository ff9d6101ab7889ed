"""Calibrated plans that evaluate the unconditional branch in some rows, against guided calls at equal evaluations.

    python benchmarks/masked_plans.py unet [--scales 2] [--evaluations 8 12 16] [--seeds 0 1 2] [--passes 26] [--once]
    python benchmarks/masked_plans.py unet --evaluations 8 10 12 16 20 --budget-seconds 900
    python benchmarks/masked_plans.py digits [--bandwidth 0.15] [--scales 3 7] [--evaluations 10 16]
    python benchmarks/masked_plans.py mnist [--path flow] [--scales 3] [--evaluations 10 16]
    python benchmarks/masked_plans.py curve [--evaluations 8] [--seconds 10 30 60 300 900]
    python benchmarks/masked_plans.py time --keep DIR

``unet``: the embedded trained network. ``digits``, ``mnist``: exact models. For each seed of the calibration one plan
for each number E of evaluations is judged on noise that no calibration uses, against the best built-in sampler with
E/2 guided calls there: of all samplers on all spacings that a calibration ranks (for ``unet`` of the eight strongest
with few calls), screened on a share of the noise. For ``unet`` also against the best with twice the calls, and in
Fréchet distance to the test digits. ``curve``: digits, what a calibration finds within some seconds. ``time``: seconds
for a sample of plans that ``unet --keep DIR`` kept, with a large batch, where compute binds, and with a single sample,
where latency binds. Errors are root mean squares per pixel, in brackets the medians over samples; the ratios are means
over seeds, with their standard errors.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from calibration import figure, leaders, mean_figure, noise_of, spread
from candidates import CACHE
from common import interleaved, machine, table
from torch import Tensor

from noise_scheduler_sampling_system import (
    DiffusionPipeline,
    NoiseSchedulerConfig,
    PlanSet,
    SamplingPlan,
    calibrate,
    models,
)
from noise_scheduler_sampling_system.analysis.solution import fine_plan
from noise_scheduler_sampling_system.calibration.plot import draw
from noise_scheduler_sampling_system.calibration.search.built_in import baselines
from noise_scheduler_sampling_system.calibration.trajectories import Errors, errors_of

#: The samplers among which the best one for the network is sought, on all spacings.
STRONG = ("adams", "deis", "dpmpp_2m", "dpmpp_3m", "ipndm", "lms", "sa_solver", "unipc")


@dataclass(frozen=True)
class Setting:
    """A model with classes, and how it is calibrated and judged.

    Attributes:
        name: to print, and for files.
        title: of pictures.
        pipeline, model: what is sampled.
        shape: of one sample.
        samples: the number that is judged.
        reference_calls: the model calls of the solution that all are compared with.
        fit: arguments of ``calibrate``.
        run: further arguments of ``sample``.
        screens: the rounds of the search for the best built-in sampler: samples, and samplers that stay.
    """

    name: str
    title: str
    pipeline: DiffusionPipeline
    model: Any
    shape: tuple[int, ...]
    samples: int
    reference_calls: int
    fit: dict[str, Any]
    run: dict[str, Any] = field(default_factory=dict)
    screens: tuple[tuple[int, int], ...] = ((8, 48), (128, 8))

    def sample(self, plan: SamplingPlan, scale: float, part: slice) -> Tensor:
        """Some of the samples of a plan."""
        labels = torch.arange(self.samples) % 10
        return self.pipeline.sample(
            self.model, initial_noise=noise_of(self.samples, self.shape)[part], plan=plan, seed=0,
            condition={"class_labels": labels[part]}, guidance_scale=scale, **self.run,
        )  # fmt: skip

    def solution(self, scale: float) -> Tensor:
        """All samples of a fine run, which is kept in a file."""
        file = CACHE / f"{self.name}-guidance-{scale:g}-{self.samples}.pt"
        if not file.exists():
            CACHE.mkdir(exist_ok=True)
            plan = fine_plan(self.pipeline.scheduler, self.reference_calls)
            torch.save(self.sample(plan, scale, slice(0, self.samples)), file)
        return torch.load(file)

    def leaders(
        self, scale: float, calls: int, keep: Path | None, among: Sequence[str] = ()
    ) -> list[tuple[str, Errors]]:
        """The best built-in samplers with a number of guided calls, best first; from ``keep`` if they are there."""
        file = None if keep is None else keep / f"{self.name}-{scale:g}-best-of-{calls}-calls.json"
        if file is not None and file.exists():
            return [(name, Errors(*errors)) for name, errors in json.loads(file.read_text())]
        found = leaders(
            self.pipeline, calls, lambda plan, part: self.sample(plan, scale, part), self.solution(scale), self.screens,
            among,
        )  # fmt: skip
        if file is not None:
            file.write_text(json.dumps(found))
        return found

    def calibrated(
        self, scale: float, budgets: Sequence[int], seed: int, keep: Path | None, **limits: Any
    ) -> tuple[PlanSet, float]:
        """Plans for numbers of evaluations, and the seconds that it took; from ``keep`` if they are there."""
        file = None if keep is None else keep / f"{self.name}-{scale:g}-{seed}.json"
        if file is not None and file.exists():
            plans = PlanSet.load(file)
            if set(budgets) <= set(plans):
                return plans, math.nan
        began = time.perf_counter()
        state = None if file is None else file.with_suffix(".safetensors")
        plans = calibrate(
            self.model, self.pipeline, shape=self.shape, evaluations=budgets, seed=seed, guidance_scale=scale,
            condition={"class_labels": torch.arange(10)}, checkpoint=state, **self.fit, **limits,
        )  # fmt: skip
        if file is not None:
            plans.save(file)
        return plans, time.perf_counter() - began


def unet() -> Setting:
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"), "ddim")
    fit = {"trajectories": 192, "held_out": 64, "teacher_calls": 40, "max_batch_size": 32}
    return Setting(
        "unet", "Embedded U-Net of digits", pipeline, models.mnist_unet(), (1, 28, 28), 256, 48, fit,
        {"max_batch_size": 32}, ((4, 12), (32, 3)),
    )  # fmt: skip


def digits(bandwidth: float) -> Setting:
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    fit = {"trajectories": 1024, "held_out": 512, "teacher_calls": 64}
    model = models.DigitsModel(pipeline.scheduler, bandwidth=bandwidth)
    return Setting(f"digits-{bandwidth:g}", "Digits, exact model", pipeline, model, (1, 8, 8), 2048, 128, fit)


def mnist(path: str) -> Setting:
    config = {"vp": {}, "cosine": {"beta_schedule": "cosine"}, "flow": {"beta_schedule": "flow"}}[path]
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(**config), "ddim")
    images, labels = models.load_mnist("test")
    kind = pipeline.config.prediction_type
    model = models.KernelDensityModel(pipeline.scheduler, images, 0.2, labels=labels, prediction_type=kind)
    fit = {"trajectories": 512, "held_out": 256, "teacher_calls": 48}
    return Setting(f"mnist-{path}", "MNIST, exact model", pipeline, model, (1, 28, 28), 256, 96, fit)


def frechet(samples: Tensor) -> float:
    """The Fréchet distance to the test digits."""
    data = models.FeatureStatistics.of(models.load_mnist("test")[0])
    return models.frechet_distance(models.FeatureStatistics.of(samples), data)


def compared(
    setting: Setting, scales: Sequence[float], budgets: Sequence[int], seeds: Sequence[int], keep: Path | None,
    *, network: bool, twice: bool = True, plot: Path | None = None, **limits: Any,
) -> None:  # fmt: skip
    """Print the errors of calibrated plans and of the best built-in samplers, for each scale and budget."""
    rows: list[tuple[object, ...]] = []
    everything = slice(0, setting.samples)
    for scale in scales:
        solution = setting.solution(scale)

        def run(plan: SamplingPlan, part: slice, scale: float = scale) -> Tensor:
            return setting.sample(plan, scale, part)

        made = {}
        for seed in seeds:
            made[seed], seconds = setting.calibrated(scale, budgets, seed, keep, **limits)
            print(f"  guidance {scale:g}, seed {seed}: calibrated in {seconds:.0f} s", flush=True)
        if plot is not None:
            draw(made[seeds[0]], setting.pipeline.scheduler, plot, title=f"{setting.title}, guidance {scale:g}")
        for budget in budgets:
            ranked = setting.leaders(scale, budget // 2, keep, STRONG if network else ())
            (name, best), median = ranked[0], min(errors.median for _, errors in ranked)
            ends = [run(made[seed][budget], everything) for seed in seeds]
            ours = [errors_of(end, solution) for end in ends]
            plan = made[seeds[0]][budget]
            rows.append((
                f"{scale:g}", budget, name, f"{best.rms:.3g} ({median:.2g})", f"{plan.nfe}, {int(plan.both.sum())}",
                mean_figure(ours),
                spread([e.rms / best.rms for e in ours]), spread([e.median / median for e in ours]),
            ))  # fmt: skip
            if network:
                theirs = next(b for b in baselines(setting.pipeline.scheduler, budget // 2, (name,)))
                distance = statistics.fmean(map(frechet, ends))
                rows[-1] += (f"{distance:.2f}", f"{frechet(run(theirs.plan, everything)):.2f}")
                if twice:
                    better, errors = setting.leaders(scale, budget, keep, STRONG)[0]
                    rows[-1] += (f"{better}: {figure(errors)}",)
            print(f"  {rows[-1]}", flush=True)
    head: list[str] = [
        "guidance", "evaluations", "best built-in, both branches", "error", "levels, both", "calibrated", "ratio",
        "of medians",
    ]  # fmt: skip
    head += ["Fréchet", "built-in's"] if network else []
    head += ["best built-in, twice the evaluations"] if network and twice else []
    print(f"\n{setting.name}: {setting.samples} samples, seeds {', '.join(map(str, seeds))}; {machine()}\n")
    print(table(head, rows), flush=True)


def curve(budgets: Sequence[int], seconds: Sequence[float], scale: float = 3.0) -> None:
    """Print what a calibration of digits finds within some seconds."""
    setting, rows = digits(0.15), []
    solution = setting.solution(scale)
    everything = slice(0, setting.samples)
    for budget in budgets:
        best = setting.leaders(scale, budget // 2, None)[0][1]
        for limit in seconds:
            plans, spent = setting.calibrated(scale, (budget,), 0, None, budget_seconds=limit, passes=1e9)
            errors = errors_of(setting.sample(plans[budget], scale, everything), solution)
            kind = plans[budget].provenance["kind"]
            rows.append((budget, f"{limit:g}", f"{spent:.0f}", kind, figure(errors), f"{errors.rms / best.rms:.2f}"))
            print(f"  {rows[-1]}", flush=True)
    print(f"\ndigits 0.15, guidance {scale:g}; {machine()}\n")
    print(table(("evaluations", "budget, s", "spent, s", "plan", "error", "ratio to the best built-in"), rows))


def timed(keep: Path, scale: float = 2.0) -> None:
    """Print the seconds for a sample of kept plans and of built-in samplers of equal evaluations."""
    setting, rows = unet(), []
    plans = PlanSet.load(keep / f"unet-{scale:g}-0.json")
    for budget, plan in plans.items():
        built_in = DiffusionPipeline(setting.pipeline.scheduler, "unipc").plan(budget // 2)
        found = []
        for part in (slice(0, 64), slice(0, 1)):
            runs = {
                name: (lambda each=each, part=part: setting.sample(each, scale, part))
                for name, each in (("calibrated", plan), ("built-in", built_in))
            }
            spent = interleaved(runs, rounds=5, budget=0.5)
            found += [spent["built-in"] / part.stop, spent["calibrated"] / part.stop]
        rows.append((
            budget, f"{plan.nfe}, {int(plan.both.sum())}", *(f"{1e3 * s:.1f}" for s in found[:2]),
            f"{found[1] / found[0]:.2f}", *(f"{1e3 * s:.1f}" for s in found[2:]), f"{found[3] / found[2]:.2f}",
        ))  # fmt: skip
    head = (
        "evaluations", "levels, both", "built-in, batch 64, ms", "calibrated", "ratio", "built-in, batch 1, ms",
        "calibrated", "ratio",
    )  # fmt: skip
    print(f"\nunet; {machine()}\n\n{table(head, rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("unet", "digits", "mnist", "curve", "time"))
    parser.add_argument("--scales", type=float, nargs="+")
    parser.add_argument("--evaluations", type=int, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--passes", type=float, help="runs of all trajectories for each number of evaluations")
    parser.add_argument("--bandwidth", type=float, default=0.15)
    parser.add_argument("--path", choices=("vp", "cosine", "flow"), default="vp")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 30.0, 60.0, 300.0])
    parser.add_argument("--budget-seconds", type=float, help="for the plans of a seed, in place of --passes")
    parser.add_argument("--once", action="store_true", help="do not run the U-Net with twice the evaluations")
    parser.add_argument("--keep", type=Path, help="a folder for plans and checkpoints, to go on from")
    parser.add_argument("--plot", type=Path, help="draw the first seed's errors and levels to a .png file")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if given.what in ("curve", "time") and (given.plot, given.budget_seconds) != (None, None):
        parser.error("--plot and --budget-seconds are for unet, digits and mnist")
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    if given.what == "curve":
        curve(given.evaluations or (8,), given.seconds)
    elif given.what == "time":
        if given.keep is None:
            parser.error("time needs --keep, the folder to which unet --keep wrote its plans")
        timed(given.keep)
    else:
        network = given.what == "unet"
        setting = unet() if network else digits(given.bandwidth) if given.what == "digits" else mnist(given.path)
        scales = given.scales or ((2.0,) if network else (3.0, 7.0))
        if given.plot is not None and len(scales) > 1:
            parser.error("--plot draws one scale: give it with --scales")
        limits = {"passes": given.passes or (26.0 if network else 150.0)}
        if given.budget_seconds is not None:
            limits = {"budget_seconds": given.budget_seconds}
        compared(
            setting, scales, given.evaluations or ((8, 12, 16) if network else (10, 16)), given.seeds, given.keep,
            network=network, twice=not given.once, plot=given.plot, **limits,
        )  # fmt: skip


if __name__ == "__main__":
    main()
