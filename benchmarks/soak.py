"""Many samples and many calls in one process: memory, threads and open files stay as they are.

    python benchmarks/soak.py [--samples 100000] [--calls 2000]

Prints the resident memory, the threads and the open files at ten moments of each part. The last figures are compared
with those after the first tenth, when caches are full.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from noise_scheduler_sampling_system import DiffusionPipeline
from noise_scheduler_sampling_system.bulk import generate_dataset, verify_dataset
from noise_scheduler_sampling_system.support.text_tables import text_table

METHODS = ("ddim", "dpmpp_2m", "ancestral", "unipc", "heun", "dpmpp_2m_sde")


def model(x, t, class_labels=None):
    return 0.9 * x


def resources() -> tuple[float, int, int]:
    """(MiB of resident memory, threads, open files)."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/task")),
        len(os.listdir("/proc/self/fd")),
    )


def watched(name: str, total: int, run: Callable[[Callable[[int], None]], None]) -> list[tuple[str, ...]]:
    """Rows of a table: the resources at each tenth."""
    rows: list[tuple[str, ...]] = []
    due = [total * k // 10 for k in range(1, 11)]

    def tell(done: int) -> None:
        while due and done >= due[0]:
            memory, threads, files = resources()
            rows.append((name, f"{due.pop(0):,}", f"{memory:.1f}", str(threads), str(files)))

    run(tell)
    return rows


def bulk(folder: Path, count: int) -> Callable[[Callable[[int], None]], None]:
    def run(tell: Callable[[int], None]) -> None:
        generate_dataset(
            DiffusionPipeline(None, "ancestral"), model, count, folder, seed=0, shape=(1, 8, 8), batch_size=64,
            shard_size=640, num_inference_steps=5, guidance_scale=1.0, timeout=600.0,
            condition=lambda indices: {"class_labels": indices % 10}, progress=lambda p: tell(p.done),
        )  # fmt: skip

    return run


def calls(folder: Path, count: int) -> Callable[[Callable[[int], None]], None]:
    def run(tell: Callable[[int], None]) -> None:
        pipelines = [DiffusionPipeline(None, method) for method in METHODS]
        for i in range(count):
            more = {"checkpoint": folder / "run.safetensors", "every": 4} if i % 20 == 0 else {}
            pipelines[i % len(pipelines)].sample(
                model, (4 + i % 5, 1, 8, 8), 5 + i % 7, seed=i, first_index=i, max_batch_size=3, **more
            )
            tell(i + 1)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=2_000)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        rows = watched("samples", chosen.samples, bulk(folder / "set", chosen.samples))
        rows += watched("calls", chosen.calls, calls(folder, chosen.calls))
        print(text_table([("part", "done", "MiB", "threads", "open files"), *rows]))
        print(str(verify_dataset(folder / "set")))
        left = [thread.name for thread in threading.enumerate() if thread.name == "bulk-batches"]
        assert not left, "the thread that limits the time of a batch is left"
        for name in ("samples", "calls"):
            first, *_, last = ([float(x) for x in row[2:]] for row in rows if row[0] == name)
            print(f"{name}: memory {last[0] - first[0]:+.1f} MiB, threads {last[1] - first[1]:+.0f}, "
                  f"open files {last[2] - first[2]:+.0f} after the first tenth")  # fmt: skip
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
