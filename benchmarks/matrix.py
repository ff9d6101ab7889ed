"""Every path × spacing × sampler × prediction × number of steps × type: a finite result, or a refusal that says why.

    python benchmarks/matrix.py [--part K/M]      all cells, or the K-th of M equal parts

A cell runs the plan on a model of Gaussian data through the library's loop. It must end with finite
values, in float32 of the data's size where the plan multiplies no error more than thirtyfold (the
library warns of plans that do so fiftyfold), or be refused by a ConfigurationError or NumericsError that names a place
and a suggestion. Anything else is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from common import table

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig, NumericsError
from noise_scheduler_sampling_system.config.prediction import PREDICTION_TYPES
from noise_scheduler_sampling_system.config.registries import SAMPLERS, SCHEDULES, SPACINGS
from noise_scheduler_sampling_system.models import GaussianModel

STEPS = (1, 2, 7, 20)
TYPES = (torch.float32, torch.bfloat16)


class Cell(NamedTuple):
    schedule: str
    spacing: str
    sampler: str
    prediction: str
    steps: int
    dtype: torch.dtype


def cells() -> Iterator[Cell]:
    """All of them; those that share a pipeline follow each other."""
    schedules = [name for name in SCHEDULES if name != "custom"] + ["custom", "zero_snr"]
    for schedule, spacing, sampler, prediction in itertools.product(schedules, SPACINGS, SAMPLERS, PREDICTION_TYPES):
        for steps, dtype in itertools.product(STEPS, TYPES):
            yield Cell(schedule, spacing, sampler, prediction, steps, dtype)


def pipeline_of(cell: Cell) -> DiffusionPipeline:
    fields: dict[str, Any] = {"beta_schedule": cell.schedule}
    if cell.schedule == "zero_snr":
        fields = {"beta_schedule": "linear", "rescale_betas_zero_snr": True}
    elif cell.schedule == "custom":
        fields["trained_betas"] = tuple(1e-4 + 0.05 * (i / 399) ** 1.5 for i in range(400))
    config = NoiseSchedulerConfig(
        **fields, prediction_type=cell.prediction, timestep_spacing=cell.spacing
    )  # fmt: skip
    return DiffusionPipeline(config, cell.sampler)


def outcome(cell: Cell, pipeline: DiffusionPipeline | None = None) -> str:
    """ "ran", or "refused: ..." in a few words; anything wrong is raised."""
    try:
        pipeline = pipeline or pipeline_of(cell)
        model = GaussianModel(pipeline.scheduler, torch.zeros(()), torch.tensor(0.5), prediction_type=cell.prediction)

        def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return model(x.float(), t).to(cell.dtype)

        x = pipeline.sample(network, (64, 4), cell.steps, seed=3)
    except (ConfigurationError, NumericsError) as refusal:
        if not (refusal.where and refusal.suggestion):
            raise AssertionError(f"{cell}: refused without a place or a suggestion: {refusal}") from refusal
        return f"refused: {type(refusal).__name__} at {refusal.where.split('.')[0].split(' of ')[0]}"
    if not torch.isfinite(x).all():
        raise AssertionError(f"{cell}: not finite")
    limit = max(30.0, pipeline.plan(cell.steps).amplification) if pipeline.sampler.writes_plans else 30.0
    if not (float(x.std()) < limit or cell.dtype == torch.bfloat16) or x.shape != (64, 4) or x.dtype != torch.float32:
        raise AssertionError(f"{cell}: std {float(x.std()):.3g}, shape {tuple(x.shape)}, {x.dtype}")
    return "ran"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="0/1")
    part, parts = map(int, parser.parse_args().part.split("/"))
    torch.set_num_threads(1)
    counts: collections.Counter[str] = collections.Counter()
    wrong, last, pipeline = [], None, None
    for i, cell in enumerate(cells()):
        if (i // (len(STEPS) * len(TYPES))) % parts != part:
            continue
        if cell[:4] != last:
            last = cell[:4]
            try:
                pipeline = pipeline_of(cell)
            except (ConfigurationError, NumericsError):
                pipeline = None
        try:
            counts[outcome(cell, pipeline)] += 1
        except Exception as error:
            counts["WRONG"] += 1
            wrong.append(f"{cell}: {type(error).__name__} {error}")
            if len(wrong) <= 40:
                print(wrong[-1], flush=True)
    print(table(["outcome", "cells"], counts.most_common()))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
