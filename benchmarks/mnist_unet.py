"""How good the embedded trained network is, and how well each sampler does with few of its calls.

    python benchmarks/mnist_unet.py [--samples 500] [--calls 4 6 8 10 15 25] [--figures]

The first table is over the guidance scale: how many samples the embedded classifier reads as the class that was asked
for, the Fréchet distance of its features to those of the 1,000 held-out digits, and how far the nearest digit is that
the network was trained on. The others are over samplers and numbers of model calls, from the same noise, without
guidance: that distance, and the root mean square per pixel to the network's own fine solution. ``--figures`` draws the
samples and the loss curve of docs/mnist-unet.md instead.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from common import machine, table
from torch import Tensor

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.support.figures import draw_rows, mosaic
from noise_scheduler_sampling_system.support.files import write_atomic

DOCS = Path(__file__).parents[1] / "docs"
SCALES = (1.0, 2.0, 3.0, 5.0)
SCALE_CALLS = 10
BUDGETS = (4, 6, 8, 10, 15, 25)
#: (method, spacing); the last one solves finely, too.
SAMPLERS = (
    ("ddpm", "trailing"),
    ("ddim", "trailing"),
    ("dpmpp_2m", "karras"),
    ("unipc", "trailing"),
    ("adams", "kl_optimal"),
)
#: Other names of the same plans.
ALSO = {("ddim", "trailing"): "euler"}
BEST = SAMPLERS[-1]
NO_GUIDANCE = 1.0
SHOWN_SCALE, SHOWN_CALLS, SHOWN_ROWS = 2.0, 15, 8
CLASSES = 10


def pipeline(method: str, spacing: str) -> DiffusionPipeline:
    return DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction", timestep_spacing=spacing), method)


@dataclass(frozen=True)
class Bench:
    """The network, its judge, and as many samples of each class, from the same noise every time."""

    samples: int
    seed: int = 0

    @cached_property
    def model(self) -> Any:
        return models.mnist_unet().to(memory_format=torch.channels_last)

    @cached_property
    def judge(self) -> models.DigitClassifier:
        return models.mnist_classifier()

    @cached_property
    def held_out(self) -> models.FeatureStatistics:
        return models.FeatureStatistics.of(models.load_mnist("test")[0], self.judge)

    @property
    def labels(self) -> Tensor:
        return torch.arange(self.samples) % CLASSES

    def run(self, sampler: tuple[str, str], calls: int, scale: float = NO_GUIDANCE) -> Tensor:
        """Samples, shape (samples, 1, 28, 28)."""
        made = pipeline(*sampler)
        plan = made.plan(calls)
        assert plan.nfe == calls
        return made.sample(
            self.model,
            (self.samples, 1, 28, 28),
            plan=plan,
            condition={"class_labels": self.labels},
            guidance_scale=scale,
            seed=self.seed,
            max_batch_size=125,
        )

    @torch.no_grad()
    def accuracy(self, samples: Tensor) -> float:
        """The fraction that the classifier reads as asked."""
        return float((self.judge(samples).argmax(1) == self.labels).float().mean())

    def distance(self, samples: Tensor) -> float:
        """To the held-out digits."""
        return models.frechet_distance(models.FeatureStatistics.of(samples, self.judge), self.held_out)

    @cached_property
    def trained_on(self) -> Tensor:
        return models.load_mnist("train")[0]

    def nearest(self, images: Tensor) -> float:
        """Root mean square per pixel to the nearest digit that was trained on, the median of the images."""
        distances = torch.cdist(images.flatten(1), self.trained_on.flatten(1)).amin(1)
        return float(distances.median()) / images[0].numel() ** 0.5

    def floor(self) -> float:
        """The distance of as many of the digits that were trained on, as many of each class."""
        images, labels = models.load_mnist("train")
        each = -(-self.samples // CLASSES)
        chosen = torch.cat([torch.nonzero(labels == digit)[:each, 0] for digit in range(CLASSES)])
        return self.distance(images[chosen])


def over_scales(bench: Bench) -> str:
    rows = []
    for scale in SCALES:
        samples = bench.run(BEST, SCALE_CALLS, scale)
        read, distance, nearest = bench.accuracy(samples), bench.distance(samples), bench.nearest(samples)
        rows.append((f"{scale:g}", f"{read:.1%}", f"{distance:.2f}", f"{nearest:.3f}"))
    rows.append(("held-out digits", "", "", f"{bench.nearest(models.load_mnist('test')[0]):.3f}"))
    return table(("guidance scale", "read as asked", "Fréchet distance", "nearest training digit"), rows)


def over_calls(bench: Bench, fine: Tensor, budgets: Sequence[int]) -> tuple[str, str]:
    distances, errors = [], []
    for sampler in SAMPLERS:
        method, spacing = sampler
        name = ", ".join(f"`{known}`" for known in (method, ALSO.get(sampler)) if known)
        stochastic = pipeline(*sampler).plan(budgets[0]).stochastic
        made = [bench.run(sampler, calls) for calls in budgets]
        distances.append((name, spacing, *(f"{bench.distance(samples):.2f}" for samples in made)))
        if not stochastic:
            rms = [float((samples - fine).square().mean().sqrt()) for samples in made]
            errors.append((name, spacing, *(f"{error:.2g}" for error in rms)))
        print(f"  {method} done", flush=True)
    head = ("sampler", "spacing", *(f"N = {calls}" for calls in budgets))
    return table(head, distances), table(head, errors)


def measure(count: int, budgets: Sequence[int]) -> None:
    bench = Bench(count)
    scales = over_scales(bench)
    fine_calls = max(64, 3 * max(budgets))
    fine = bench.run(BEST, fine_calls)
    distances, errors = over_calls(bench, fine, budgets)
    print(f"\nembedded UNet of digits, {count} samples; {machine()}\n")
    print(f"Over guidance, {' on '.join(BEST)}, {SCALE_CALLS} calls\n\n{scales}\n")
    print(f"Fréchet distance to held-out digits; fine solution {bench.distance(fine):.2f} ", end="")
    print(f"({bench.accuracy(fine):.1%} read as asked), as many training digits {bench.floor():.2f}\n\n{distances}\n")
    print(f"RMS error to the fine solution ({' on '.join(BEST)}, {fine_calls} calls)\n\n{errors}")


def draw_samples(path: Path) -> None:
    """Every class in a column, from as many noises."""
    bench = Bench(SHOWN_ROWS * CLASSES)
    samples = bench.run(BEST, SHOWN_CALLS, SHOWN_SCALE)
    draw_rows(
        path,
        title="Digits 0 to 9, drawn by the embedded network",
        subtitle=f"{bench.samples} noises of seed {bench.seed}, none left out; guidance {SHOWN_SCALE:g}.",
        headings=[""],
        labels=[[BEST[0], f"on {BEST[1]}"]],
        pictures=[[mosaic(samples, CLASSES)]],
        notes=[[f"{SHOWN_CALLS} calls; {bench.accuracy(samples):.0%} read as asked"]],
    )


def draw_loss(source: Path, path: Path) -> None:
    """The loss over the steps of training."""
    from matplotlib.figure import Figure

    with source.open(newline="") as file:
        curve = list(csv.DictReader(file))
    figure = Figure(figsize=(6.4, 3.0), dpi=180, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for column, style, colour in (("training loss", "-", "#8a8a8a"), ("held-out loss", "o-", "#c1440e")):
        known = [(int(row["step"]), float(row[column])) for row in curve if row[column]]
        axes.plot(*zip(*known, strict=True), style, color=colour, markersize=3.5, label=column)
    axes.set_yscale("log")
    axes.set_yticks([0.1, 0.15, 0.2, 0.3, 0.5], ["0.1", "0.15", "0.2", "0.3", "0.5"])
    axes.minorticks_off()
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("mean squared error of v", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=500, help="a multiple of 10")
    parser.add_argument("--calls", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--figures", action="store_true", help="draw pictures, measure nothing")
    arguments = parser.parse_args()
    if arguments.figures:
        draw_samples(DOCS / "images/mnist-unet.png")
        draw_loss(DOCS / "data/mnist_unet_loss.csv", DOCS / "images/mnist-unet-loss.png")
    else:
        measure(arguments.samples, arguments.calls)


if __name__ == "__main__":
    main()
