"""The steps of a request on their way from the batcher to the one who reads them, in a thread or in asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import final

from ..running.results import SamplingStep

__all__ = ["StepsChannel"]


@final
class StepsChannel:
    """A thread-safe queue of steps that ends. Each step is read once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._steps: deque[SamplingStep] = deque()
        self._ended = False
        self._wakers: list[Callable[[], None]] = []

    def put(self, step: SamplingStep) -> None:
        """Add a step."""
        with self._changed:
            self._steps.append(step)
            self._wake()

    def end(self) -> None:
        """No step follows."""
        with self._changed:
            self._ended = True
            self._wake()

    def get(self, timeout: Callable[[], float | None]) -> SamplingStep | None:
        """The next step; blocks until there is one. None after the last one.

        Args:
            timeout: is called before each wait, for the most seconds that it may take.
        """
        while True:
            seconds = timeout()  # without the lock: it may end the channel
            with self._changed:
                if self._changed.wait_for(lambda: self._steps or self._ended, seconds):
                    return self._steps.popleft() if self._steps else None

    async def aget(self, timeout: Callable[[], float | None]) -> SamplingStep | None:
        """:meth:`get` for asyncio: it does not block the event loop."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        while True:
            seconds = timeout()
            with self._changed:
                if self._steps:
                    return self._steps.popleft()
                if self._ended:
                    return None
                arrived.clear()
                self._wakers.append(lambda: _call_soon(loop, arrived.set))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(arrived.wait(), seconds)

    def _wake(self) -> None:
        self._changed.notify_all()
        wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Call a function in an event loop, unless the loop was closed meanwhile."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return
