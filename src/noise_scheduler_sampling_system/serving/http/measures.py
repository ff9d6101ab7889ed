"""The metrics of a server in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ..batcher import Batcher
from ..metrics import BatcherMetrics

__all__ = ["Measures"]

_NAME: Final = "noise_sampling"
#: Bounds of the histogram of latency, in seconds.
_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_ENDINGS: Final = ("finished", "failed", "cancelled", "expired", "handed_back", "refused")


@final
class Measures:
    """Counts answers, and shows them with the metrics of the batcher."""

    def __init__(self, batcher: Batcher) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_OfBatcher(batcher))
        self._answers = Counter(f"{_NAME}_answers", "Answers over HTTP.", ["status"], registry=self._registry)
        self._seconds = Histogram(
            f"{_NAME}_seconds", "Seconds from the body of a request to its answer.",
            buckets=_BOUNDS, registry=self._registry,
        )  # fmt: skip

    def answered(self, status: int, seconds: float | None = None) -> None:
        """Count an answer; with the seconds that a finished request took."""
        self._answers.labels(status=str(status)).inc()
        if seconds is not None:
            self._seconds.observe(seconds)

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self._registry)


@final
class _OfBatcher:
    """The metrics of a batcher, read when they are asked for."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def collect(self) -> Iterator[Any]:
        now = self._batcher.metrics()
        requests = CounterMetricFamily(f"{_NAME}_requests", "Requests of the batcher by their end.", labels=["end"])
        for name in _ENDINGS:
            requests.add_metric([name], getattr(now, name))
        yield requests
        yield from _numbers(now)
        latency = GaugeMetricFamily(
            f"{_NAME}_latency_seconds", "Percentiles of the last requests, from submission to result.", labels=["share"]
        )
        for share, value in zip(
            ("0.5", "0.95", "0.99"), (now.latency.p50, now.latency.p95, now.latency.p99), strict=True
        ):
            latency.add_metric([share], value)
        yield latency


def _numbers(now: BatcherMetrics) -> Iterator[Any]:
    gauges = {
        "queued_requests": ("Requests that wait.", now.queued),
        "running_requests": ("Requests that have samples in the batch.", now.running),
        "batch_size": ("The most rows of a model call.", now.max_batch_size),
        "batch_occupancy": ("The share of the rows that the calls might have had.", now.occupancy),
    }
    for name, (text, number) in gauges.items():
        yield GaugeMetricFamily(f"{_NAME}_{name}", text, value=number)
    counters = {
        "model_calls": ("Model calls.", now.calls),
        "model_rows": ("Rows of all model calls.", now.rows),
        "model_seconds": ("Seconds inside model calls.", now.model_seconds),
    }
    for name, (text, number) in counters.items():
        yield CounterMetricFamily(f"{_NAME}_{name}", text, value=number)
