"""Many requests at once: one batch for requests at different steps, of different plans, samplers and conditions."""

from .batcher import Batcher
from .handle import RequestHandle
from .metrics import BatcherMetrics, Latency

__all__ = ["Batcher", "BatcherMetrics", "Latency", "RequestHandle"]
