"""What a large set costs: a model of time, files and losses, from figures that this library measures.

    python benchmarks/scale_model.py                              # the table of docs/scale.md
    python benchmarks/scale_model.py --samples 1e9 --gpus 1000 --batch-seconds 2.4 --sample-bytes 12300

The model is the sum of what a set does:

- a worker makes a shard of S samples in S/B batches of ``batch_seconds`` and writes S·b bytes;
- the driver gives each shard its name and appends a line to the journal, and reads a message a batch: it is busy for a
  share of the time, and a bound on the number of workers follows;
- at the end workers are idle until the last shard is done: half a shard on average, more with stragglers;
- a machine that is taken away loses the shard it was at: half a shard on average, and a start;
- Ray's object store sees the task once for each machine, and one small message a batch.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace

from noise_scheduler_sampling_system.support.text_tables import text_table


@dataclass(frozen=True)
class Run:
    """A set and the machines that make it.

    Attributes:
        samples, gpus, shard: N, the number of workers, and samples of a shard.
        batch, batch_seconds: samples of a call of the pipeline, and its seconds.
        sample_bytes: of a stored sample, e.g. 4 · 3 · 32 · 32 + 12 for CIFAR in float32.
        overhead: the time of engine and writing as a share of the model's (benchmarks/bulk.py).
        commit_seconds: of the driver for a shard: rename, journal, two waits for the disk.
        message_seconds: of the driver for a message of a worker, one a batch; assumed, not measured.
        line_bytes: of the journal for a shard.
        start_seconds: of a worker: a process, PyTorch, the model.
        hours_between_losses: of one machine; spot machines are taken away every few hours.
        spread: standard deviation of a shard's time over its mean, for stragglers.
        task_bytes: the pickled task with its model, which each machine fetches once.
        gpus_per_machine: workers that share an object store.
    """

    samples: float = 1e9
    gpus: int = 1000
    shard: int = 8192
    batch: int = 256
    batch_seconds: float = 5.0
    sample_bytes: float = 12_300.0
    overhead: float = 0.01
    commit_seconds: float = 0.012
    message_seconds: float = 0.001
    line_bytes: float = 240.0
    start_seconds: float = 60.0
    hours_between_losses: float = 8.0
    spread: float = 0.05
    task_bytes: float = 4e8
    gpus_per_machine: int = 8


@dataclass(frozen=True)
class Cost:
    """What a run costs; times in seconds, sizes in bytes."""

    seconds: float
    ideal: float
    idle: float
    repeated: float
    shards: float
    journal: float
    stored: float
    driver_share: float
    most_workers: float
    files_per_second: float
    messages_per_second: float
    store: float


def cost(run: Run) -> Cost:
    """The cost of a run by the model of this file."""
    shards = math.ceil(run.samples / run.shard)
    shard_seconds = run.shard / run.batch * run.batch_seconds * (1.0 + run.overhead)
    ideal = run.samples / run.batch * run.batch_seconds / run.gpus
    work = shards * shard_seconds / run.gpus
    # a loss repeats half a shard and a start; losses come at a rate of one each hours_between_losses for each worker
    losses = work / 3600.0 / run.hours_between_losses
    repeated = losses * (0.5 * shard_seconds + run.start_seconds)
    # at the end: half a shard, and the largest of `gpus` deviations of the mean of the shards that one worker makes
    each = max(shards / run.gpus, 1.0)
    straggling = run.spread * shard_seconds * math.sqrt(2.0 * math.log(max(run.gpus, 2)) / each)
    idle = min(0.5, shards / run.gpus) * shard_seconds + straggling + run.start_seconds
    by_workers = work + repeated + idle
    by_driver = shards * run.commit_seconds + run.samples / run.batch * run.message_seconds
    seconds = max(by_workers, by_driver)
    return Cost(
        seconds=seconds, ideal=ideal, idle=idle, repeated=repeated, shards=shards, journal=shards * run.line_bytes,
        stored=run.samples * run.sample_bytes, driver_share=by_driver / seconds,
        most_workers=run.gpus * by_workers / by_driver, files_per_second=shards / seconds,
        messages_per_second=run.samples / run.batch / seconds,
        store=run.task_bytes * math.ceil(run.gpus / run.gpus_per_machine),
    )  # fmt: skip


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000.0:
            return f"{count:.3g} {unit}"
        count /= 1000.0
    return f"{count:.3g} EB"


def _time(seconds: float) -> str:
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"


def rows_of(runs: dict[str, Run]) -> list[tuple[str, ...]]:
    """A table with a row for each run."""
    head = ("workers, samples, shard", "time", "efficiency", "shards", "journal", "data", "driver busy", "most workers",
            "repeated")  # fmt: skip
    rows = [head]
    for name, run in runs.items():
        found = cost(run)
        rows.append((
            name, _time(found.seconds), f"{found.ideal / found.seconds:.1%}", f"{found.shards:,}",
            _size(found.journal), _size(found.stored), f"{found.driver_share:.2%}", f"{found.most_workers:,.0f}",
            f"{found.repeated / found.seconds:.1%}",
        ))  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Run()
    for name, value in vars(default).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    given = {name: type(getattr(default, name))(value) for name, value in vars(parser.parse_args()).items()}
    base = replace(default, **given)
    runs = {"1 GPU, 5e+04, 1,024": replace(base, samples=5e4, gpus=1, shard=1024),
            "8 GPUs, 1e+06, 1,024": replace(base, samples=1e6, gpus=8, shard=1024),
            "100 GPUs, 1e+08, 8,192": replace(base, samples=1e8, gpus=100)}  # fmt: skip
    for shard in (512, 1024, 8192, 65536, 524288):
        runs[f"{base.gpus:,} GPUs, {base.samples:.0e}, {shard:,}"] = replace(base, shard=shard)
    print(text_table(rows_of(runs)))


if __name__ == "__main__":
    main()
