"""What a batcher did: counts, the occupancy of its model calls, and percentiles of latency."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import final

__all__ = ["BatcherMetrics", "Latency", "Meter"]

#: The number of finished requests that percentiles are taken of.
_REMEMBERED = 4096


@final
@dataclass(frozen=True)
class Latency:
    """Percentiles of a time, in seconds, over the last finished requests; NaN before the first one."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Latency:
        """The percentiles of some times, each the smallest time that at least this share does not exceed."""
        times = sorted(seconds)
        if not times:
            return cls(*(float("nan"),) * 3)
        return cls(*(times[-(-share * len(times) // 100) - 1] for share in (50, 95, 99)))


@final
@dataclass(frozen=True)
class BatcherMetrics:
    """A snapshot of a batcher.

    Attributes:
        queued: requests that wait.
        running: requests that have samples in the batch.
        submitted: requests that were taken, of which: finished, failed, cancelled, expired (their deadline passed),
            handed_back (the batcher was closed).
        refused: requests that were not taken, because the queue was full or the batcher closed.
        calls, rows: model calls, and the rows of their batches; a sample under classifier-free guidance takes two.
        room: the most rows that these calls might have had.
        max_batch_size: the most rows of a call now; it gets smaller where memory runs out.
        model_seconds: the time inside model calls.
        latency: from submission to the result.
        wait: from submission to the first model call.
    """

    queued: int = 0
    running: int = 0
    submitted: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    handed_back: int = 0
    refused: int = 0
    calls: int = 0
    rows: int = 0
    room: int = 0
    max_batch_size: int = 0
    model_seconds: float = 0.0
    latency: Latency = field(default_factory=lambda: Latency.of(()))
    wait: Latency = field(default_factory=lambda: Latency.of(()))

    @property
    def occupancy(self) -> float:
        """The share of the rows that the calls might have had; 0 before the first call."""
        return self.rows / self.room if self.room else 0.0

    def __str__(self) -> str:
        return (
            f"requests: {self.queued} queued, {self.running} running, {self.finished} finished, {self.failed} failed, "
            f"{self.cancelled} cancelled, {self.expired} expired, {self.handed_back} handed back, "
            f"{self.refused} refused\n"
            f"model calls: {self.calls}, {self.occupancy:.0%} of {self.max_batch_size} rows filled, "
            f"{self.model_seconds:.2f} s\n"
            f"latency: half within {self.latency.p50:.3g} s, 95 % within {self.latency.p95:.3g} s, "
            f"99 % within {self.latency.p99:.3g} s"
        )


@final
class Meter:
    """Counts what a batcher does; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._so_far = BatcherMetrics()
        self._latencies: deque[float] = deque(maxlen=_REMEMBERED)
        self._waits: deque[float] = deque(maxlen=_REMEMBERED)

    def count(self, name: str) -> None:
        """Count a request under the name of a field."""
        with self._lock:
            self._so_far = replace(self._so_far, **{name: getattr(self._so_far, name) + 1})

    def called(self, rows: int, room: int, seconds: float) -> None:
        """Count a model call of some rows, which might have had ``room`` rows."""
        with self._lock:
            past = self._so_far
            self._so_far = replace(
                past, calls=past.calls + 1, rows=past.rows + rows, room=past.room + max(rows, room),
                model_seconds=past.model_seconds + seconds,
            )  # fmt: skip

    def ended(self, status: str, latency: float, wait: float) -> None:
        """Count the end of a request; with its times in seconds, if it finished."""
        self.count(status)
        if status == "finished":
            with self._lock:
                self._latencies.append(latency)
                self._waits.append(wait)

    def snapshot(self, *, queued: int, running: int, max_batch_size: int) -> BatcherMetrics:
        """The counts so far."""
        with self._lock:
            latencies, waits, past = list(self._latencies), list(self._waits), self._so_far
        return replace(
            past, queued=queued, running=running, max_batch_size=max_batch_size,
            latency=Latency.of(latencies), wait=Latency.of(waits),
        )  # fmt: skip
