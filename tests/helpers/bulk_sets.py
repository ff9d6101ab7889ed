"""Small sets of samples for the tests of bulk generation, and how they are read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from noise_scheduler_sampling_system import DiffusionPipeline
from noise_scheduler_sampling_system.bulk import GenerationReport, generate_dataset

SHAPE = (1, 4, 4)
STEPS = 3
COUNT = 50


class Shrinking:
    """A model of ε whose output depends on each sample alone, and on its label."""

    fingerprint = "shrinking"

    def __call__(self, x, t, class_labels=None):
        shift = 0.0 if class_labels is None else class_labels.reshape(-1, 1, 1, 1) / 100.0
        return 0.9 * x + shift


class Bad(Shrinking):
    """The same model, which fails where a file says so: the file is its state, because processes may restart."""

    def __init__(self, folder: Path, what: str, times: int) -> None:
        self._what, self._left = what, folder / "left"
        self._left.write_text("x" * times)

    def __call__(self, x, t, class_labels=None):
        import os
        import time

        left = self._left.read_text()
        if left and float(t[0]) < 900:
            self._left.write_text(left[1:])
            if self._what == "raise":
                raise ValueError("a bad day")
            if self._what == "kill":
                os.kill(os.getpid(), 9)
            if self._what == "hang":
                time.sleep(60.0)
        return super().__call__(x, t, class_labels)


class OneBadProcess(Shrinking):
    """The same model, which always fails in the first process that calls it, as on a broken GPU."""

    def __init__(self, folder: Path) -> None:
        self._first = folder / "first"

    def __call__(self, x, t, class_labels=None):
        import contextlib
        import os

        with contextlib.suppress(FileExistsError), open(self._first, "x", encoding="utf-8") as file:
            file.write(str(os.getpid()))
        if self._first.read_text() == str(os.getpid()):
            raise RuntimeError("a broken device")
        return super().__call__(x, t, class_labels)


def labels(indices):
    return {"class_labels": indices % 10}


def made(output: Path, model: Any = None, num_samples: int = COUNT, **more: Any) -> GenerationReport:
    """A small set."""
    asked: dict[str, Any] = {
        "seed": 7, "shape": SHAPE, "batch_size": 4, "shard_size": 8, "num_inference_steps": STEPS,
        "condition": labels, "guidance_scale": 1.0, **more,
    }  # fmt: skip
    pipeline = asked.pop("pipeline", None) or DiffusionPipeline(None, "ancestral")
    return generate_dataset(pipeline, model or Shrinking(), num_samples, output, **asked)


def expected(num_samples: int = COUNT, seed: int = 7) -> torch.Tensor:
    """The samples of :func:`made`, in one batch."""
    return DiffusionPipeline(None, "ancestral").sample(
        Shrinking(), (num_samples, *SHAPE), STEPS, guidance_scale=1.0, seed=seed,
        condition=labels(torch.arange(num_samples)),
    )  # fmt: skip


def read(output: Path) -> tuple[list[int], np.ndarray, Any]:
    """The indices, the samples and the table of a set in Parquet."""
    import pyarrow.parquet

    files = sorted((output / "shards").glob("shard-*.parquet"))
    tables = [pyarrow.parquet.read_table(file) for file in files]
    tables = [table for table in tables if table.num_rows]
    rows = pyarrow.concat_tables(tables)
    arrays = np.array(rows["array"].to_pylist(), dtype=np.float32).reshape(-1, *SHAPE)
    return rows["index"].to_pylist(), arrays, rows
