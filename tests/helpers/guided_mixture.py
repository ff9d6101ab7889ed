"""A mixture with classes, to be guided, and pipelines on which it is run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from noise_scheduler_sampling_system import (
    DiffusionPipeline,
    NoiseSchedulerConfig,
)
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
    Moment,
)
from noise_scheduler_sampling_system.models import GaussianMixtureModel

__all__ = [
    "APG",
    "BATCH",
    "CONDITION",
    "FROM",
    "KINDS",
    "LABELS",
    "MEANS",
    "OTHER",
    "SHAPE",
    "SIZE",
    "START",
    "STEPS",
    "Counting",
    "energy",
    "mixture",
    "never",
    "pipeline",
]

STEPS, BATCH, SIZE = 5, 3, 6
MEANS = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2])
KINDS: dict[str, Any] = {"num_inference_steps": STEPS, "seed": 3, "dtype": torch.float64}
SHAPE = (BATCH, SIZE)
CONDITION = {"condition": {"class_labels": LABELS}}
OTHER = {"class_labels": torch.tensor([1, 2, 0])}


def pipeline(kind: str = "sample", schedule: str = "linear", method: Any = "ddim", **fields: Any) -> DiffusionPipeline:
    return DiffusionPipeline(NoiseSchedulerConfig(beta_schedule=schedule, prediction_type=kind, **fields), method)


def mixture(run: DiffusionPipeline, kind: str | None = None, width: float = 0.1) -> GaussianMixtureModel:
    return GaussianMixtureModel(
        run.scheduler, MEANS, width, labels=[0, 1, 2, 2], prediction_type=kind or run.config.prediction_type
    )


class Counting:
    """A model that counts what it evaluates for each sample, call by call."""

    def __init__(self, model: Any) -> None:
        self.model, self.counts = model, []

    def __call__(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        self.counts.append(len(x) // BATCH)
        return self.model(x, t, **condition)

    def null_condition(self, condition: Any) -> Any:
        return self.model.null_condition(condition)


def energy(sample: Tensor, moment: Moment) -> Tensor:
    return (sample - 0.4).square().flatten(1).sum(1) / 2.0


APG = AdaptiveProjected(4.0, momentum=-0.7)


START = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


FROM: dict[str, Any] = {"num_inference_steps": STEPS, "initial_noise": START, "dtype": torch.float64}


def never(*_: Any, **__: Any) -> Tensor:
    raise AssertionError("the model was called")
