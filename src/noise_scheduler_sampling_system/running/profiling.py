"""The time that each part of a run takes, and its peak memory."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar, final

import torch
from torch import Tensor

from ..support.files import refuse_missing_folder, replacing

__all__ = ["Profile", "Stopwatch", "measured"]

F = TypeVar("F", bound=Callable[..., Tensor])


@final
@dataclass(frozen=True)
class Profile:
    """Seconds by part, and peak memory.

    Attributes:
        model: seconds inside the network.
        guidance: seconds to join and combine the branches.
        noise: seconds to generate noise.
        sampler: seconds of everything else: the linear steps, clipping, bookkeeping.
        total: seconds of the whole call.
        peak_memory: bytes: the peak of the device's allocated memory (CUDA), or of the process's resident memory
            (CPU).
        device: of the run.
    """

    model: float
    guidance: float
    noise: float
    sampler: float
    total: float
    peak_memory: int
    device: str

    def __str__(self) -> str:
        lines = [f"{'part':10}{'seconds':>10}{'share':>8}"]
        for name in ("model", "guidance", "noise", "sampler", "total"):
            seconds = getattr(self, name)
            lines.append(f"{name:10}{seconds:10.4f}{seconds / (self.total or 1):8.1%}")
        return "\n".join([*lines, f"peak memory {self.peak_memory / 2**20:.1f} MiB on {self.device}"])


@final
@dataclass
class Stopwatch:
    """Adds up the seconds inside wrapped functions. It waits for the device before and after each call."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    def wrap(self, name: str, function: F) -> F:
        """The function, with its seconds added under a name."""

        def timed(*args: object) -> Tensor:
            start = self.now()
            result = function(*args)
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - start
            return result

        return timed  # type: ignore[return-value]

    def now(self) -> float:
        """The time in seconds after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def profile(self, total: float) -> Profile:
        """The report, given the seconds of the whole call; the seconds of "guided" include those of "model"."""
        model, guided, noise = (self.seconds.get(name, 0.0) for name in ("model", "guided", "noise"))
        rest = total - guided - noise
        return Profile(model, guided - model, noise, rest, total, _peak_memory(self.device), str(self.device))


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def measured(trace: bool | str | os.PathLike[str], device: torch.device) -> Iterator[None]:
    """Reset the memory counters. Where ``trace`` is a path, write a torch-profiler trace there (for chrome://tracing).

    Raises:
        FileError: the trace cannot be written. A missing folder raises before the run, other causes after it. No part
            of a trace is left.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if isinstance(trace, bool):
        yield
        return
    refuse_missing_folder(trace)
    with torch.profiler.profile(record_shapes=True) as profiler:
        yield
    with replacing(trace) as temporary:
        try:
            profiler.export_chrome_trace(os.fspath(temporary))
        finally:  # the profiler leaves its own temporary file where the disk is full
            temporary.with_name(f"{temporary.name}.tmp").unlink(missing_ok=True)
        text = temporary.read_bytes()
        if not text.rstrip().endswith(b"}"):  # the profiler does not report a full disk
            raise OSError(errno.ENOSPC, "the trace is incomplete; the disk may be full")
        if os.fspath(trace).endswith(".gz"):
            temporary.write_bytes(gzip.compress(text))
