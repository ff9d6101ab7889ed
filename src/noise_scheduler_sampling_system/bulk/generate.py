"""Large sets of samples on disk: made in shards, resumed after a crash, checked and repaired."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..config.keyword_advice import keywords_of, refuse_unknown
from ..integrations.named_models import named_model
from ..pipeline.pipeline import DiffusionPipeline
from ..running.noise_keys import MOST_SAMPLES
from ..support.argument_checks import checked_count, checked_flag, checked_number, checked_shape
from ..support.errors import ConfigurationError, WorkerError, shown
from .conditions import conditions_of
from .engines import Engine, LocalEngine, ShardFailed, ShardProgress
from .folder import SetFolder, reads_content
from .formats import SetFacts, format_of
from .identity import facts_of_run, identity_of, refuse_other_set, versions
from .layout import MOST_SHARDS, Shard, suggested_shard_size
from .progress import Meter, Progress, reporter_of
from .worker import Task, model_of

__all__ = ["GenerationReport", "generate_dataset"]

logger = logging.getLogger(__name__)

#: Arguments of ``sample`` that a set may have beside those of :func:`generate_dataset`.
_OF_SAMPLE: Final = (
    "num_inference_steps", "guidance_scale", "classifier_free_guidance", "guidance", "null_condition", "timesteps",
    "grid", "plan", "context", "device", "dtype", "noise", "noise_device", "noise_ahead", "round_timesteps",
    "max_batch_size",
)  # fmt: skip
#: Shards in a row that may be given up before the run stops.
_IN_A_ROW: Final = 3
_BATCH: Final = 64


@final
@dataclass(frozen=True)
class GenerationReport:
    """What a call of :func:`generate_dataset` did.

    Attributes:
        output: the folder of the set.
        num_samples: of the set.
        written: samples that this call stored.
        found: samples that were there before, and whole.
        num_failed: samples of the set that failed; ``verify_dataset`` says why.
        repaired: shards that were missing or corrupt although the journal lists them.
        retried: attempts at shards that failed and were repeated.
        seconds: of this call.
    """

    output: Path
    num_samples: int
    written: int
    found: int
    num_failed: int
    repaired: int
    retried: int
    seconds: float


def generate_dataset(
    pipeline: DiffusionPipeline,
    model: Callable[..., Any] | str | None,
    num_samples: int,
    output: str | os.PathLike[str],
    *,
    seed: int,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    shard_size: int | None = None,
    format: str = "parquet",  # noqa: A002  # what pandas and Pillow call it
    condition: Callable[[npt.NDArray[np.int64]], Mapping[str, Any]] | Mapping[str, Any] | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    engine: str = "local",
    workers: int = 1,
    gpu_fraction: float = 0.0,
    address: str | None = None,
    timeout: float | None = None,
    retries: int = 2,
    check: str = "full",
    retry_failed: bool = False,
    progress: bool | Callable[[Progress], object] = False,
    **run: Any,
) -> GenerationReport:
    """Write samples 0 to ``num_samples`` − 1 of a seed to a folder, in shards.

    Sample i depends on the seed and on i alone. Batch size, number of workers, order and restarts change no noise.
    They change no sample either where the batches are the same, which begin at multiples of ``batch_size`` in each
    shard; another batch size changes samples by the rounding of the network.

    The same call goes on after a crash, and repairs what is missing or corrupt. A larger ``num_samples`` extends the
    set. Another process that writes the folder is refused.

    Args:
        pipeline: makes the samples.
        model: as for ``sample``; or the name of a model (:func:`~.integrations.named_models.named_model`), which each
            worker loads for itself and puts on the device of the run. None: the pipeline's own, or the embedded digits.
        num_samples: of the set, at most 2⁴⁰.
        output: the folder; it is made where it is missing.
        seed: one whole number.
        shape: of one sample, without the batch. Pipelines of diffusers know their own.
        batch_size: samples of a call; default 64, or that of the set.
        shard_size: samples of a shard, the most that a crash loses for each worker. Default: about 1,000.
        format: "parquet", "png" or "webdataset"; see :mod:`.bulk.formats`.
        condition: what the model is told about each sample: a function of an array of indices, shape (B,), that
            returns keywords with B rows; or a table of keywords with ``num_samples`` rows, or one for all. For a
            pipeline of diffusers the keywords are "prompt", "negative_prompt" or "class_labels".
        decode: (B, ...) ↦ (B, ...), what is written for samples, e.g. the images of latents.
        engine: "local" (this process) or "ray" (workers on a cluster; the extra ``ray``).
        workers: of Ray. Each holds the model once, and makes one shard at a time.
        gpu_fraction: of a GPU for each worker of Ray; 0.5 lets two workers share one. The network is put on it.
        address: of a Ray cluster; default: a local one for this call. All machines must see the folder.
        timeout: seconds that one batch may take before its worker is given up, and the shard tried again.
        retries: how often a shard whose worker raised, hung or died is tried again; with Ray, by another worker.
        check: of the shards that are there: "full" compares SHA-256, "size" compares sizes alone.
        retry_failed: make shards with failed samples again.
        progress: True for a bar, or a function of a :class:`Progress`, called after every batch.
        run: further arguments of ``sample``: ``num_inference_steps``, ``guidance_scale``, ``guidance``, ``plan``, ...

    Returns:
        What was done. A sample whose model output is not finite is left out of its shard and recorded with the reason.

    Raises:
        ConfigurationError: an argument that cannot work, or one that differs from those the set was begun with;
            raised before the first model call.
        FileError: the folder is in use or not a set, or the disk is full. What is finished stays, and the same call
            goes on.
        WorkerError: a shard failed more often than ``retries``. The other shards are made first, except where three
            shards in a row fail.
    """
    refuse_unknown([name for name in run if name not in _OF_SAMPLE], [*keywords_of(generate_dataset), *_OF_SAMPLE])
    began = time.monotonic()
    num_samples = checked_count(num_samples, "num_samples", MOST_SAMPLES)
    hashes = reads_content(check)
    again, reporter = checked_flag(retry_failed, "retry_failed"), reporter_of(progress)
    chosen = _engine(engine, workers, gpu_fraction, address, timeout, retries)
    if decode is not None and not callable(decode):
        raise ConfigurationError(f"got {shown(decode)}", where="decode", suggestion="give a function of a tensor")
    one = _checked_sample_shape(shape, pipeline, model)
    writer = format_of(format)
    if one is not None and decode is None:
        writer.refuse_shape(one)
    task = Task(
        pipeline, model, one, run, conditions_of(condition, num_samples), decode,
        _BATCH if batch_size is None else checked_count(batch_size, "batch_size"), format,
        SetFacts(_checked_seed(seed), ""), Path(),
    )  # fmt: skip
    plan_hash, of_run = facts_of_run(task, model_of(task), min(task.batch_size, num_samples))
    with SetFolder.writing(output) as folder, reporter:
        size = None if shard_size is None else checked_count(shard_size, "shard_size")
        task = _begin(folder, replace(task, facts=SetFacts(task.facts.seed, plan_hash), folder=folder.shards),
                      of_run, num_samples, size, batch_size is None)  # fmt: skip
        due, repaired = _due(folder, hashes=hashes, again=again)
        for shard in due:
            folder.journal.forget(shard.number)
        meter = _meter(folder)
        found = meter.stored
        reporter.tell(meter.progress())
        retried, given_up = _make(chosen, task, due, folder, meter, lambda: reporter.tell(meter.progress()))
        report = GenerationReport(
            folder.path, num_samples, meter.stored - found, found, meter.failed, repaired, retried,
            time.monotonic() - began,
        )  # fmt: skip
    if given_up:
        raise _gave_up(given_up, report, chosen.retries)
    return report


def _make(
    engine: Engine, task: Task, due: Sequence[Shard], folder: SetFolder, meter: Meter, tell: Callable[[], None]
) -> tuple[int, dict[int, str]]:
    """Make the shards that are due: (attempts that were repeated, why shards were given up)."""
    retried, in_a_row = 0, 0
    given_up: dict[int, str] = {}
    events = engine.run(task, due)
    try:
        for event in events:
            if isinstance(event, ShardProgress):
                meter.begun(event.shard.number, event.done)
            elif isinstance(event, ShardFailed):
                meter.begun(event.shard.number, 0)
                logger.warning("shard %d failed: %s", event.shard.number, event.reason)
                if event.last:
                    given_up[event.shard.number], in_a_row = event.reason, in_a_row + 1
                    if in_a_row == _IN_A_ROW:
                        break
                else:
                    retried += 1
            else:
                folder.accept(event.place, event.record)
                meter.finished(event.record.shard, event.record.count, event.record.num_failed)
                in_a_row = 0
            tell()
    finally:
        events.close()  # type: ignore[attr-defined]  # engines are generators
    return retried, given_up


def _begin(
    folder: SetFolder, task: Task, of_run: Mapping[str, Any], num_samples: int, shard_size: int | None, any_size: bool
) -> Task:
    """Describe a new set, or go on with the one that is there: the task with its batch size.

    Raises:
        ConfigurationError: the run would mix other samples into the set.
    """
    there = folder.about
    if not there:
        size = shard_size or suggested_shard_size(num_samples, task.shape or (1,), task.batch_size)
        _refuse_many_shards(num_samples, size)
        folder.describe({
            "num_samples": num_samples, "shard_size": size, "batch_size": task.batch_size,
            "identity": identity_of(task, of_run, num_samples), "config": task.pipeline.config.to_dict(),
            "method": task.pipeline.method, "versions": versions(),
        })  # fmt: skip
        return task
    if num_samples < there["num_samples"]:
        raise ConfigurationError(
            f"the set in {folder.path} has {there['num_samples']} samples",
            where="num_samples", why="a set can be extended, not shortened",
            suggestion=f"give {there['num_samples']} or more, or name a new folder",
        )  # fmt: skip
    refuse_other_set(there["identity"], identity_of(task, of_run, there["num_samples"]), str(folder.path))
    if shard_size not in (None, there["shard_size"]):
        raise ConfigurationError(
            f"the set in {folder.path} has shards of {there['shard_size']} samples",
            where="shard_size", suggestion="leave it out, or name a new folder",
        )  # fmt: skip
    if versions() != there.get("versions"):
        logger.warning("the set was begun with other versions, %s; samples may differ by rounding", there["versions"])
    _refuse_many_shards(num_samples, there["shard_size"])
    if num_samples > there["num_samples"]:
        folder.describe({**there, "num_samples": num_samples, "identity": identity_of(task, of_run, num_samples)})
    return replace(task, batch_size=there["batch_size"]) if any_size else task


def _refuse_many_shards(num_samples: int, size: int) -> None:
    if -(-num_samples // size) > MOST_SHARDS:
        raise ConfigurationError(
            f"{num_samples} samples in shards of {size} are more than {MOST_SHARDS:,} shards",
            where="shard_size", why="the journal is held in memory",
            suggestion=f"give {-(-num_samples // MOST_SHARDS)} or more, in a new folder",
        )  # fmt: skip


def _due(folder: SetFolder, *, hashes: bool, again: bool) -> tuple[list[Shard], int]:
    """The shards to make, and how many of them were finished and are not whole.

    To make are those that are not finished or not whole, and with ``again`` those with failed samples.
    """
    layout, records = folder.layout, folder.journal.records
    due, harmed = [], 0
    for number in range(len(layout)):
        shard, record = layout[number], records.get(number)
        if folder.problem(number, hashes=hashes) is not None:
            due.append(shard)
            harmed += record is not None and record.count == shard.count  # otherwise it is extended
        elif again and records[number].failed:
            due.append(shard)
    return due, harmed


def _meter(folder: SetFolder) -> Meter:
    records = folder.journal.records.values()
    stored, failed = sum(each.count for each in records), sum(each.num_failed for each in records)
    return Meter(folder.about["num_samples"], stored, failed)


def _engine(
    name: Any, workers: Any, gpu_fraction: Any, address: Any, timeout: Any, retries: Any
) -> Engine:  # fmt: skip
    """The engine of a name.

    Raises:
        ConfigurationError: an unknown name, an argument that the engine does not have, or Ray is missing.
    """
    if timeout is not None and checked_number(timeout, "timeout", 0.0) == 0.0:
        raise ConfigurationError("got 0", where="timeout", suggestion="give seconds, or None for no limit")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ConfigurationError(f"got {shown(retries)}", where="retries", suggestion="give a whole number ≥ 0")
    limit = None if timeout is None else float(timeout)
    count = checked_count(workers, "workers")
    fraction = checked_number(gpu_fraction, "gpu_fraction", 0.0)
    if not isinstance(name, str) or name not in ("local", "ray"):
        raise ConfigurationError(f"got {shown(name)}", where="engine", suggestion="give 'local' or 'ray'")
    if name == "local":
        for where, given in (("workers", count != 1), ("gpu_fraction", fraction != 0.0), ("address", address)):
            if given:
                raise ConfigurationError(
                    "is of engine='ray'", where=where, why="the local engine is one process",
                    suggestion="leave it out, or give engine='ray'",
                )  # fmt: skip
        return LocalEngine(retries, limit)
    from .engines.ray import RayEngine

    return RayEngine(retries, limit, count, fraction, address)


def _checked_sample_shape(
    shape: Any, pipeline: DiffusionPipeline, model: Any
) -> tuple[int, ...] | None:  # fmt: skip
    """The shape of one sample; None for a pipeline of diffusers, which knows its own.

    Raises:
        ConfigurationError: a wrong shape, or none where nothing else says it.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        raise ConfigurationError(f"got {shown(pipeline)}", where="pipeline", suggestion="give a DiffusionPipeline")
    if model is None and pipeline.has_own_model:
        if shape is not None:
            raise ConfigurationError("comes from the pipeline of diffusers", where="shape", suggestion="leave it out")
        return None
    if shape is None and isinstance(model, str):
        shape = named_model(model).shape
    if shape is None:
        raise ConfigurationError("is missing", where="shape", suggestion="give that of one sample, e.g. (3, 64, 64)")
    try:
        return checked_shape((1, *shape))[1:]
    except TypeError:
        raise ConfigurationError(
            f"got {shown(shape)}", where="shape", suggestion="give that of one sample, e.g. (3, 64, 64)"
        ) from None


def _checked_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**64:
        raise ConfigurationError(
            f"got {shown(seed)}", where="seed", suggestion="a set has one seed, a whole number from 0 to 2**64 − 1"
        )
    return int(seed)


def _gave_up(given_up: Mapping[int, str], report: GenerationReport, retries: int) -> WorkerError:
    number, reason = next(iter(given_up.items()))
    stored = report.found + report.written
    return WorkerError(
        f"{len(given_up)} shards failed {retries + 1} times each; {stored} of {report.num_samples} samples are stored",
        where=f"shard {number}",
        why=reason,
        suggestion="correct the cause and run the same command again: it makes what is missing",
    )
