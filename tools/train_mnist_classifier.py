"""Train the classifier of models.mnist_classifier() on the digits that the network was trained on.

    python tools/train_mnist_classifier.py      # two minutes on one core

Every digit is shifted by up to 2 pixels, turned by up to 10° and scaled by up to 10 % at random; the accuracy on the
1,000 held-out digits is printed.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from noise_scheduler_sampling_system.models.mnist import DigitClassifier, load_mnist
from noise_scheduler_sampling_system.support.files import write_atomic

TARGET = Path(__file__).parents[1] / "src/noise_scheduler_sampling_system/models/data/mnist_classifier.safetensors"
EPOCHS, BATCH, RATE = 40, 128, 2e-3


def main() -> None:
    """Train, test and write."""
    torch.manual_seed(0)
    model = DigitClassifier()
    images, labels = load_mnist("train")
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images))[: steps // EPOCHS * BATCH].split(BATCH):
            loss = functional.cross_entropy(model(moved(images[batch])), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    half = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    model.load_state_dict({name: value.to(model.state_dict()[name].dtype) for name, value in half.items()})
    model.eval()
    with torch.no_grad():
        unseen, truth = load_mnist("test")
        print(f"held-out accuracy {(model(unseen).argmax(1) == truth).float().mean():.3%}")
    write_atomic(TARGET, save({name: value.contiguous() for name, value in half.items()}))
    print(f"wrote {TARGET.name} ({TARGET.stat().st_size:,} bytes)")


def moved(images: Tensor) -> Tensor:
    """The images, each shifted, turned and scaled a little."""
    count = len(images)
    angle = (torch.rand(count) - 0.5) * math.radians(20)
    scale = 1 + (torch.rand(count) - 0.5) * 0.2
    shift = (torch.rand(count, 2) - 0.5) * (4 * 2 / images.shape[-1])
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([
        torch.stack([cosine, -sine, shift[:, 0]], 1), torch.stack([sine, cosine, shift[:, 1]], 1)
    ], 1)  # fmt: skip
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images + 1.0, grid, align_corners=False) - 1.0


if __name__ == "__main__":
    main()
