"""The next noise of a run, drawn in a thread while the model runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, final

import torch
from torch import Tensor

from .bound_plan import BoundPlan
from .loop import Run
from .noise import NoiseSource

__all__ = ["Ahead", "drawn_ahead"]

_CPU: Final = torch.device("cpu")
_Key = tuple[int, int]
#: Numbers that take about 100 µs to draw.
_WORTH_A_THREAD: Final = 1 << 14


def drawn_ahead(source: NoiseSource, run: Run, row: int, wanted: bool | None) -> NoiseSource | Ahead:
    """The noise of a run from a row on; an :class:`Ahead` must be closed, however the run ends.

    The numbers are those of the source. At most one noise is drawn ahead, on the host.

    Args:
        source: of the noise.
        run: says which noises come.
        row: the first row.
        wanted: whether to draw ahead; None: where the run is on CUDA, so that the host is idle while the model runs,
            and the noise takes longer than to wake a thread.
    """
    if wanted is None:
        wanted = source.device != _CPU and source.device.type == "cuda" and _is_large(source)
    order = noises_of(run, row) if wanted and source.made_on == "cpu" else ()
    return Ahead(source, order) if order else source


def _is_large(source: NoiseSource) -> bool:
    return len(source.keys) * math.prod(source.shape) >= _WORTH_A_THREAD


def noises_of(run: Run, row: int) -> Sequence[_Key]:
    """The (step, stage) of each noise that rows read, from a row on; empty for a run whose noises are not known."""
    if not isinstance(run, BoundPlan):
        return ()
    return [(step, stage) for each in run.rows[row:] for step, stage, _ in each.noise]


@final
class Ahead:
    """(step, stage) ↦ noise, drawn in a thread that ends with :meth:`close`.

    Args:
        source: of the noise; one thread at a time uses it.
        order: the (step, stage) that are asked for, in this order.
    """

    def __init__(self, source: NoiseSource, order: Sequence[_Key]) -> None:
        self._source, self._order = source, order
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="noise")
        self._next = 0
        self._coming: Future[Tensor] | None = self._pool.submit(source.on_host, *order[0])

    def __call__(self, step: int, stage: int) -> Tensor:
        coming, self._coming = self._coming, None
        if coming is None or self._order[self._next] != (step, stage):
            if coming is not None:
                coming.exception()  # the source is in use until then
            return self._source(step, stage)
        drawn = coming.result()
        self._next += 1
        if self._next < len(self._order):
            self._coming = self._pool.submit(self._source.on_host, *self._order[self._next])
        return self._source.placed(drawn)

    def close(self) -> None:
        """Draw no noise that has not begun, and wait for the thread."""
        self._pool.shutdown(cancel_futures=True)
