"""A small network, a pipeline and noise, for tests of whole runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noise_scheduler_sampling_system import (
    DiffusionPipeline,
    NoiseSchedulerConfig,
)

__all__ = [
    "CLIPS",
    "LABELS",
    "METHODS",
    "NULL",
    "SHAPE",
    "STEPS",
    "Counting",
    "Plain",
    "conditional",
    "draw",
    "network",
    "pipeline",
]

METHODS = ["ddpm", "ddim", "pndm", "ancestral", "euler", "heun"]
SHAPE = (3, 2, 4, 4)
STEPS = 6
CLIPS: dict[str, dict[str, Any]] = {
    "open": {},
    "clip": {"clip_sample": True},
    "threshold": {"thresholding": True, "sample_max_value": 3.0},
}


def network(x: Tensor, t: Tensor, **condition: Any) -> Tensor:
    """A smooth function of the state and the time, different for every sample's time."""
    time = t.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) / 1000
    return torch.tanh(x) * (0.4 + 0.5 * time) + 0.1 * x.roll(1, -1)


def pipeline(method: Any = "ddim", options: dict[str, Any] | None = None, **fields: Any) -> DiffusionPipeline:
    return DiffusionPipeline(NoiseSchedulerConfig(**fields), method, **(options or {}))


def draw(shape: tuple[int, ...] = SHAPE, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Counting:
    """A model that remembers what it was called with."""

    def __init__(self, model: Any = network) -> None:
        self.model, self.calls = model, []

    def __call__(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        self.calls.append((x.clone(), t.clone(), condition))
        return self.model(x, t, **condition)


def conditional(x: Tensor, t: Tensor, *, label: Tensor) -> Tensor:
    return network(x, t) + 0.05 * label.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


LABELS, NULL = torch.tensor([1, 2, 3]), torch.tensor([9])


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return network(x, t) * self.weight
