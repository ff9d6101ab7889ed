"""What writing a set costs beside its model, and what a second worker brings.

    python benchmarks/bulk.py [--batches 6] [--steps 10] [--no-ray]

The model is the embedded MNIST U-Net at batch 64, on one thread. "Engine and writing" is the time of
``generate_dataset`` outside of the model, as a share of the time inside it. Two Ray workers of one thread are compared
with one in one run, between the first and the last shards, so that the start of processes does not count. Two workers
need two cores: on a busy machine the ratio says how many there were, so the load is printed, too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from noise_scheduler_sampling_system import DiffusionPipeline
from noise_scheduler_sampling_system.bulk import Progress, generate_dataset
from noise_scheduler_sampling_system.bulk.folder import SetFolder
from noise_scheduler_sampling_system.integrations.named_models import named_model
from noise_scheduler_sampling_system.support.text_tables import text_table

BATCH = 64


class Timed:
    """A model that measures the time inside it, by the clock of the thread's CPU as well."""

    def __init__(self, model: Any) -> None:
        self.model, self.seconds, self.cpu, self.calls = model, 0.0, 0.0, 0
        self.fingerprint = "timed"

    def __call__(self, x, t, **condition):
        wall, cpu = time.perf_counter(), time.thread_time()
        output = self.model(x, t, **condition)
        self.seconds += time.perf_counter() - wall
        self.cpu += time.thread_time() - cpu
        self.calls += 1
        return output


def labels(indices):
    return {"class_labels": indices % 10}


def overhead(folder: Path, batches: int, steps: int, kind: str) -> tuple[float, float, float]:
    """(share of the model's time, the same in CPU time, milliseconds a batch)."""
    known = named_model("mnist")
    pipeline, timed = known.pipeline("dpmpp_2m"), Timed(known.model)
    asked = {"shape": known.shape, "batch_size": BATCH, "num_inference_steps": steps, "guidance_scale": 1.0}
    generate_dataset(pipeline, timed, BATCH, folder / f"warm-{kind}", seed=0, condition=labels, format=kind, **asked)
    timed.seconds = timed.cpu = 0.0
    wall, cpu = time.perf_counter(), time.process_time()
    generate_dataset(
        pipeline, timed, batches * BATCH, folder / kind, seed=0, condition=labels, format=kind, shard_size=2 * BATCH,
        **asked,
    )  # fmt: skip
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return (wall - timed.seconds) / timed.seconds, (cpu - timed.cpu) / timed.cpu, 1e3 * (wall - timed.seconds) / batches


def commit(folder: Path, shards: int = 50) -> float:
    """Milliseconds in which the driver names a shard and adds it to the journal, both of them on disk."""
    spent: list[float] = []
    accept = SetFolder.accept

    def timed(self: SetFolder, *arguments: Any) -> None:
        began = time.perf_counter()
        accept(self, *arguments)
        spent.append(time.perf_counter() - began)

    SetFolder.accept = timed  # type: ignore[method-assign]
    try:
        generate_dataset(
            DiffusionPipeline(None, "ddim"), lambda x, t: x, shards, folder / "commit", seed=0, shape=(1, 8, 8),
            batch_size=1, shard_size=1, num_inference_steps=4,
        )  # fmt: skip
    finally:
        SetFolder.accept = accept  # type: ignore[method-assign]
    return 1e3 * statistics.median(spent)


def rate(folder: Path, workers: int, batches: int, steps: int) -> float:
    """Samples a second with Ray, from the first finished shard of the slowest start on."""
    seen: list[tuple[float, int]] = []

    def tell(progress: Progress) -> None:
        seen.append((time.monotonic(), progress.done))

    known = named_model("mnist")
    generate_dataset(
        known.pipeline("dpmpp_2m"), "mnist", batches * BATCH, folder / f"ray-{workers}", seed=0, shape=known.shape,
        batch_size=BATCH, shard_size=BATCH, num_inference_steps=steps, guidance_scale=1.0, condition=labels,
        engine="ray", workers=workers, progress=tell,
    )  # fmt: skip
    # every worker has finished a shard by then, and none is idle yet
    inner = [(when, done) for when, done in seen if 2 * workers * BATCH <= done <= (batches - workers) * BATCH]
    (first, a), (last, b) = inner[0], inner[-1]
    return (b - a) / (last - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--ray-batches", type=int, default=24)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--no-ray", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, MNIST U-Net, batch {BATCH}, {chosen.steps} calls")
    folder = Path(tempfile.mkdtemp())
    try:
        rows = [("format", "engine and writing / model", "in CPU time", "ms a batch")]
        for kind in ("parquet", "webdataset", "png"):
            share, cpu, cost = overhead(folder, chosen.batches, chosen.steps, kind)
            rows.append((kind, f"{share:.2%}", f"{cpu:.2%}", f"{cost:.1f}"))
        print(text_table(rows))
        print(f"the driver's work for a shard: {commit(folder):.1f} ms (median)")
        if not chosen.no_ray:
            one, two, again = (rate(folder / str(i), n, chosen.ray_batches, chosen.steps)
                               for i, n in enumerate((1, 2, 1)))  # fmt: skip
            mean = (one + again) / 2
            print(f"Ray: 1 worker {one:.1f} and {again:.1f} samples/s, 2 workers {two:.1f}: {two / mean:.2f} times")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
