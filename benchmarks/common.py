"""What the benchmarks share: fair timing, and tables."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def interleaved(
    candidates: dict[str, Callable[[], object]], rounds: int = 15, budget: float = 0.02
) -> dict[str, float]:
    """Median seconds of one call of each candidate, measured in turn so that drift hits all alike."""
    repeats = {}
    for name, call in candidates.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(budget / max(time.perf_counter() - start, 1e-7)))
    samples: dict[T, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            samples[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in samples.items()}


def machine() -> str:
    """One line on what the figures were taken on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, aligned: bool = True) -> str:
    """A Markdown table."""
    cells = [[str(c) for c in row] for row in [head, *rows]]
    widths = [max(len(row[k]) for row in cells) if aligned else 1 for k in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])
