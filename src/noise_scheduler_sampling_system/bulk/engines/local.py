"""The engine of one process: shards one after another, with a limit on the time of a batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, final

from ..layout import Shard
from ..worker import BatchError, Call, Task, Worker, WrittenShard
from .base import Engine, Event, ShardFailed, ShardProgress

__all__ = ["LocalEngine"]

R = TypeVar("R")


@final
@dataclass(frozen=True)
class LocalEngine(Engine):
    """Makes shards in this process.

    With a timeout a batch is made in a thread. A call that hangs cannot be ended: its thread is left behind, and the
    batch is tried again in a new one. Processes of the Ray engine are ended.
    """

    def run(self, task: Task, shards: Iterable[Shard]) -> Iterator[Event]:
        worker = Worker(task)
        limited = None if self.timeout is None else _Limited(self.timeout)
        try:
            for shard in shards:
                yield from self._attempts(worker, shard, _unlimited if limited is None else limited)
        finally:
            if limited is not None:
                limited.close()

    def _attempts(self, worker: Worker, shard: Shard, call: Call) -> Iterator[Event]:
        for attempt in range(self.retries + 1):
            outcome = yield from _attempt(worker, shard, call)
            if not isinstance(outcome, BatchError):
                yield outcome
                return
            yield ShardFailed(shard, str(outcome), attempt == self.retries)


def _attempt(worker: Worker, shard: Shard, call: Call) -> Generator[Event, None, WrittenShard | BatchError]:
    """The shard, or why it failed; yields its progress."""
    steps = worker.make(shard, call)
    try:
        while True:
            yield ShardProgress(shard, next(steps))
    except StopIteration as end:
        written: WrittenShard = end.value
        return written
    except BatchError as error:
        return error


def _unlimited(function: Callable[[], R]) -> R:
    return function()


@final
class _Limited:
    """Runs functions in a thread of its own, which is replaced when one takes too long.

    Args:
        seconds: that a function may take, by the monotonic clock.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._jobs: queue.SimpleQueue[Any] | None = None

    def __call__(self, function: Callable[[], R]) -> R:
        """The function's result.

        Raises:
            TimeoutError: it did not end in time. Its own exceptions come through.
        """
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            # a daemon, so that a thread that hangs does not keep the process alive
            threading.Thread(target=_serve, args=(self._jobs,), daemon=True, name="bulk-batches").start()
        answer: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._jobs.put((function, answer))
        try:
            good, value = answer.get(timeout=self._seconds)
        except queue.Empty:
            self._jobs.put(None)  # the thread ends if it ever returns
            self._jobs = None
            raise TimeoutError(f"the batch took longer than {self._seconds:g} s") from None
        if good:
            return value  # type: ignore[no-any-return]
        raise value

    def close(self) -> None:
        """End the thread."""
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None


def _serve(jobs: queue.SimpleQueue[Any]) -> None:
    while (job := jobs.get()) is not None:
        function, answer = job
        try:
            answer.put((True, function()))
        except BaseException as error:  # given to the thread that waits
            answer.put((False, error))
