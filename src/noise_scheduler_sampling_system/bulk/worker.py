"""What makes shards: a model with its pipeline, in this process or in another."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..integrations.named_models import named_model
from ..pipeline.finite_samples import FiniteSamples, finite_samples
from ..pipeline.pipeline import DiffusionPipeline
from ..support.errors import ConfigurationError, ModelOutputError, NumericsError, cut, shown
from .conditions import Conditions
from .folder import TEMPORARY, content_of, removed, storing
from .formats import FORMATS, Batch, SetFacts, ShardWriter
from .journal import ShardRecord
from .layout import Shard

__all__ = ["BatchError", "Call", "Task", "Worker", "WrittenShard", "arguments_of", "model_of"]

#: What is made of a batch: its condition, what is written, and why samples failed, by their place in the batch.
Made = tuple[dict[str, Any], Tensor, dict[int, str]]
#: Runs a function without arguments; an engine may limit its time.
Call = Callable[[Callable[[], Made]], Made]


class BatchError(Exception):
    """A batch failed: the model or the user's functions raised. Its text is the reason."""


@final
@dataclass(frozen=True)
class Task:
    """What every worker of a set must know.

    Attributes:
        pipeline, model, shape, run: of ``pipeline.sample``; the model may be the name of a model.
        conditions: of the samples.
        decode: turns samples into what is written; None: they are written as they are.
        batch_size: samples of a call.
        format: of the shards.
        facts: what all samples have in common.
        folder: where shards are written.
    """

    pipeline: DiffusionPipeline
    model: Any
    shape: tuple[int, ...] | None
    run: Mapping[str, Any]
    conditions: Conditions
    decode: Callable[[Tensor], Tensor] | None
    batch_size: int
    format: str
    facts: SetFacts
    folder: Path


@final
@dataclass(frozen=True)
class WrittenShard:
    """A shard under its temporary name.

    Attributes:
        place: where it is.
        record: for the journal.
    """

    place: Path
    record: ShardRecord


@final
@dataclass
class Worker:
    """Makes shards of a task; it holds the model."""

    task: Task
    _model: Any = field(init=False)

    def __post_init__(self) -> None:
        self._model = model_of(self.task)

    def make(self, shard: Shard, call: Call) -> Generator[int, None, WrittenShard]:
        """Write a shard under a temporary name; yield the number of its samples that are done after each batch.

        Args:
            shard: to make.
            call: runs the condition, the model and the decoder on a batch.

        Raises:
            BatchError: the model, the condition or the decoder raised.
            FileError: the shard cannot be written.
        """
        task, kind = self.task, FORMATS[self.task.format]
        place = task.folder / f"{TEMPORARY}{shard.name}-{uuid.uuid4().hex}{kind.suffix}"
        writer: ShardWriter | None = None
        failed: dict[int, str] = {}
        try:
            with storing(place):
                writer = kind(place, task.facts)
            for first, count in shard.batches(task.batch_size):
                batch, lost = self._batch(first, count, call)
                failed |= lost
                with storing(place):
                    writer.write(batch)
                yield first + count - shard.first
            with storing(place):
                writer.close()
                size, sha256 = content_of(place)
        except BaseException:
            if writer is not None:
                with contextlib.suppress(Exception):
                    writer.release()
            removed(place)
            raise
        record = ShardRecord(
            shard.number, shard.first, shard.count, f"{shard.name}{kind.suffix}", size, sha256, task.batch_size,
            _ranges(failed),
        )  # fmt: skip
        return WrittenShard(place, record)

    def _batch(self, first: int, count: int, call: Call) -> tuple[Batch, dict[int, str]]:
        """The finished samples of a batch, and why the others failed, by index."""
        indices = np.arange(first, first + count, dtype=np.int64)
        try:
            condition, written, failed = call(lambda: self._made(indices))
        except Exception as error:
            notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            raise BatchError(f"{type(error).__name__}: {cut(error)}{notes}") from error
        batch = Batch.of(indices, written, condition)
        return (batch.without(set(failed)) if failed else batch), {first + i: why for i, why in failed.items()}

    def _made(self, indices: npt.NDArray[np.int64]) -> Made:
        condition = self.task.conditions.rows(indices)
        samples, failed = self._run(arguments_of(self.task, self._model, indices, condition))
        return condition, samples if self.task.decode is None else _decoded(self.task.decode, samples), failed

    def _run(self, arguments: dict[str, Any]) -> FiniteSamples:
        try:
            return FiniteSamples(self.task.pipeline.sample(**arguments), {})
        except (ModelOutputError, NumericsError):  # perhaps of some samples alone; a wrong shape is raised again
            return finite_samples(self.task.pipeline, **arguments)


def model_of(task: Task) -> Any:
    """The model itself; one that the task only names is put on the device of the run.

    Raises:
        ConfigurationError: no such model.
        DeviceError: the device is not available.
    """
    if not isinstance(task.model, str):
        return task.model
    return named_model(task.model).on(task.run.get("device", "auto")).model


def arguments_of(
    task: Task, model: Any, indices: npt.NDArray[np.int64], condition: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of ``pipeline.sample`` for samples with consecutive indices.

    Args:
        task: of the set.
        model: the model itself, which the task may only name.
        indices: of the samples.
        condition: of these samples.
    """
    run = dict(task.run)
    if model is None and task.pipeline.has_own_model:
        own = {name: run.pop(name) for name in ("guidance_scale", "guidance") if name in run}
        count = {} if condition else {"num_images_per_prompt": len(indices)}
        inputs = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in condition.items()}
        if all(run.get(name) is None for name in ("plan", "grid", "timesteps", "start")):  # else they say the levels
            inputs["num_inference_steps"] = run.pop("num_inference_steps", 50)
        run |= task.pipeline.inputs(**inputs, **count, **own)  # type: ignore[attr-defined]
    else:
        assert task.shape is not None
        run |= {"model": model, "shape": (len(indices), *task.shape), "condition": dict(condition) or None}
    return {**run, "seed": task.facts.seed, "first_index": int(indices[0])}


def _decoded(decode: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    decoded = decode(samples)
    if not isinstance(decoded, Tensor) or not decoded.ndim or len(decoded) != len(samples):
        raise ConfigurationError(
            f"returned {shown(decoded)} for {len(samples)} samples",
            where="decode",
            suggestion="return a tensor with a row a sample",
        )
    return decoded


def _ranges(failed: Mapping[int, str]) -> tuple[tuple[int, int, str], ...]:
    """(first, last, reason) of consecutive samples that failed for the same reason."""
    ranges: list[tuple[int, int, str]] = []
    for index, reason in sorted(failed.items()):
        if ranges and ranges[-1][1] == index - 1 and ranges[-1][2] == reason:
            ranges[-1] = (ranges[-1][0], index, reason)
        else:
            ranges.append((index, index, reason))
    return tuple(ranges)
