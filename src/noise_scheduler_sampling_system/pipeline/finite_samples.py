"""A batch of which some samples fail: the samples that are finite, and why the others are not."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from ..guidance.evaluate import Memory
from ..running.batching import in_batches
from ..running.faults import place_of_row
from ..running.loop import Branches, PlannedRun, RowModel
from ..support.errors import NumericsError
from .job import Job
from .pipeline import DiffusionPipeline
from .prepare import prepare
from .request import Request

__all__ = ["FiniteSamples", "finite_samples", "job_of"]


@final
class FiniteSamples(NamedTuple):
    """A batch that ran to its end, whatever its model returned.

    Attributes:
        samples: shape (B, ...); those that failed hold no meaningful values.
        failed: why a sample failed, by its place in the batch.
    """

    samples: Tensor
    failed: dict[int, str]


def job_of(pipeline: DiffusionPipeline, **arguments: Any) -> Job:
    """The checked job of a call of ``pipeline.sample(**arguments)``, which is not run.

    Raises:
        ConfigurationError, DeviceError, OutOfMemoryError: as ``sample`` raises them before the first model call.
    """
    return prepare(pipeline._setup, Request(**arguments), own_model=pipeline.has_own_model)


def finite_samples(pipeline: DiffusionPipeline, **arguments: Any) -> FiniteSamples:
    """``pipeline.sample(**arguments)``, where NaN and Inf of one sample do not fail the others.

    An output that is not finite is replaced by zeros for its sample alone. The other samples are those of ``sample``,
    bit for bit, because the model sees them in the same batch. The run reads from the device at every model call.

    Raises:
        NoiseSamplingError: as ``sample`` raises it, except for values that are not finite.
    """
    job, size = job_of(pipeline, **arguments), arguments.get("max_batch_size")
    with torch.no_grad():
        parts = in_batches(
            lambda start, stop: (start, _finite(job.part(start, stop))),
            job.batch, job.batch if size is None else min(size, job.batch), job.noise.device,
        )  # fmt: skip
    failed = {start + place: reason for start, part in parts for place, reason in part.failed.items()}
    return FiniteSamples(torch.cat([part.samples for _, part in parts]), failed)


def _finite(job: Job) -> FiniteSamples:
    failed: dict[int, str] = {}
    memory: Memory = {}
    make = job.model_maker(memory)

    def made(run: PlannedRun, moments: Any) -> RowModel:
        rows = make(run, moments)

        def model(x: Tensor, row: int) -> Any:
            answer = rows.model(x, row)
            pair = answer if isinstance(answer, Branches) else (answer,)
            bad = torch.stack([_not_finite(each) for each in pair]).any(dim=0)
            if not bad.any():
                return answer
            for place in bad.nonzero().flatten().tolist():
                failed.setdefault(place, f"the model returned NaN or Inf at {place_of_row(run.plan, row)}")
            kept = [torch.where(bad.view(-1, *[1] * (each.ndim - 1)), 0.0, each) for each in pair]
            return Branches(*kept) if isinstance(answer, Branches) else kept[0]

        return RowModel(model, rows.evaluations)

    samples = None
    try:
        for reached in job.run.steps(made, job.first_state(), job.noise, memory, copy_outputs=True):
            samples = reached.state.x
    except NumericsError:  # found after the last row
        if samples is None:
            raise
    assert samples is not None  # a plan has rows
    for place in _not_finite(samples).nonzero().flatten().tolist():
        failed.setdefault(place, f"the sample left the range of {samples.dtype}")
    return FiniteSamples(samples, failed)


def _not_finite(value: Tensor) -> Tensor:
    """Which samples hold NaN or Inf, shape (B,)."""
    return ~torch.isfinite(value).flatten(1).all(dim=1)
