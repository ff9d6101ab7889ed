"""The engine of many processes: workers on a Ray cluster, each of which holds the model once.

The driver hands out one shard at a time to each worker, so that the work in flight is bounded by the number of workers.
Workers write shards themselves. Through Ray go the task, once, a number after each batch, and the name of a finished
shard: the object store stays small, however large the samples are.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import torch

from ...support.errors import ConfigurationError, FileError, WorkerError, cut, shown
from ..layout import Shard
from ..worker import BatchError, Task, Worker
from .base import Engine, Event, ShardFailed, ShardProgress

__all__ = ["RayEngine"]

logger = logging.getLogger(__name__)

#: Seconds that a worker may take to start: to import PyTorch and to load its model.
_START: Final = 600.0
#: Seconds between two looks at the clock while no worker reports.
_TICK: Final = 1.0
#: The least and the spare bytes of the object store of a local cluster.
_STORE_LEAST, _STORE_SPARE = 80 * 2**20, 32 * 2**20


@final
@dataclass(frozen=True)
class RayEngine(Engine):
    """Makes shards in workers on a Ray cluster.

    A worker that dies, or whose batch takes longer than the timeout, is ended and replaced. A worker that raises goes
    on with other shards. A shard is never tried again by the worker at which it failed.

    Attributes:
        workers: their number.
        gpu_fraction: of a GPU for each.
        address: of the cluster; None: the one that this process is connected to, or a local one for this run.
    """

    workers: int = 1
    gpu_fraction: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        _imported()
        if self.address is not None and (not isinstance(self.address, str) or not self.address):
            raise ConfigurationError(
                f"got {shown(self.address)}", where="address", suggestion="give 'auto' or 'ray://host:port'"
            )

    def run(self, task: Task, shards: Iterable[Shard]) -> Iterator[Event]:
        ray = _imported()
        # workers may run in another folder
        packed = _packed(replace(task, folder=Path(os.path.abspath(task.folder))))
        with _connected(ray, self.address, self.workers, len(packed), self.gpu_fraction):
            reference = ray.put(packed)
            kind = ray.remote(num_cpus=1, num_gpus=self.gpu_fraction, max_restarts=0)(_Actor)
            pool = _Pool(ray, lambda: kind.remote(reference, self.gpu_fraction > 0.0), self, shards)
            try:
                yield from pool.events()
            finally:
                pool.close()


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, packed: bytes, on_gpu: bool) -> None:
        from ray import cloudpickle

        task = cloudpickle.loads(packed)
        self._worker = Worker(_on_gpu(task) if on_gpu else task)

    def make(self, shard: Shard) -> Iterator[Any]:
        """0 when the work begins, the number of samples after each batch, and the :class:`WrittenShard`."""
        yield 0
        yield (yield from self._worker.make(shard, lambda function: function()))


def _on_gpu(task: Task) -> Task:
    """The task with its network on the GPU that Ray gave to this process."""
    if isinstance(task.model, str):
        return replace(task, run={**task.run, "device": "cuda"})
    if isinstance(task.model, torch.nn.Module):
        return replace(task, model=task.model.to("cuda"))
    if task.model is None and task.pipeline.has_own_model:
        task.pipeline.backbone.pipe.to("cuda")  # type: ignore[attr-defined]
    return task


@final
class _Turn(NamedTuple):
    """A shard that waits.

    Attributes:
        shard: to make.
        attempt: at it, from 0.
        failed_at: the worker at which the last attempt failed.
    """

    shard: Shard
    attempt: int
    failed_at: Any


@final
@dataclass
class _Busy:
    """A worker at work.

    Attributes:
        worker: the handle of the actor.
        shard: that it makes.
        attempt: at the shard, from 0.
        deadline: when it must have reported again, by the monotonic clock; None: no limit.
    """

    worker: Any
    shard: Shard
    attempt: int
    deadline: float | None


@final
@dataclass
class _Pool:
    """Workers, the shards that wait, and those in flight.

    Attributes:
        ray: the module.
        start: starts a worker.
        engine: its limits.
        shards: to make.
    """

    ray: Any
    start: Callable[[], Any]
    engine: RayEngine
    shards: Iterable[Shard]
    _idle: list[Any] = field(default_factory=list)
    _busy: dict[Any, _Busy] = field(default_factory=dict)
    _again: collections.deque[_Turn] = field(default_factory=collections.deque)

    def events(self) -> Iterator[Event]:
        """What happens, until every shard is made or given up."""
        waiting = iter(self.shards)
        while True:
            self._hand_out(waiting)
            if not self._busy:
                return
            streams = list(self._busy)
            ready, _ = self.ray.wait(streams, num_returns=1, timeout=self._patience())
            if ready:  # all that are ready: with a thousand workers each look at the streams takes milliseconds
                ready, _ = self.ray.wait(streams, num_returns=len(streams), timeout=0)
            for stream in ready:
                yield from self._report(stream)
            now = time.monotonic()
            for stream in [s for s, busy in self._busy.items() if busy.deadline is not None and busy.deadline < now]:
                busy = self._busy.pop(stream)
                self._end(busy.worker)
                yield self._failed(busy, f"the worker hung: a batch took longer than {self.engine.timeout:g} s")

    def close(self) -> None:
        """End the workers."""
        for worker in [*self._idle, *(busy.worker for busy in self._busy.values())]:
            self._end(worker)

    def _hand_out(self, waiting: Iterator[Shard]) -> None:
        """Give shards to free workers: first those that failed, each to a worker at which it did not."""
        while len(self._busy) < self.engine.workers:
            turn = next((each for each in self._again if self._elsewhere(each.failed_at)), None)
            if turn is not None:
                self._again.remove(turn)
            elif len(self._again) >= self.engine.workers:
                return  # a worker that fails at everything must not take all shards before the others can
            else:
                fresh = next(waiting, None)
                if fresh is None:
                    return
                turn = _Turn(fresh, 0, None)
            shard, attempt, failed_at = turn
            worker = next((each for each in self._idle if each is not failed_at), None)
            if worker is None:
                if len(self._idle) + len(self._busy) >= self.engine.workers:  # the worker at which it failed is alone
                    self._end(failed_at)
                worker = self.start()
            self._idle = [each for each in self._idle if each is not worker]
            stream = worker.make.options(num_returns="streaming").remote(shard)
            limit = None if self.engine.timeout is None else time.monotonic() + _START
            self._busy[stream] = _Busy(worker, shard, attempt, limit)

    def _elsewhere(self, failed_at: Any) -> bool:
        """Whether a shard can be tried now by another worker than the one at which it failed.

        It waits for a worker that is busy. Where there is none, a new one is started.
        """
        started = len(self._idle) + len(self._busy)
        return any(each is not failed_at for each in self._idle) or started < self.engine.workers or not self._busy

    def _patience(self) -> float | None:
        """Seconds until a look at the clock is due."""
        return None if self.engine.timeout is None else min(_TICK, self.engine.timeout)

    def _report(self, stream: Any) -> Iterator[Event]:
        busy = self._busy[stream]
        try:
            value = self.ray.get(next(stream))
        except self.ray.exceptions.RayTaskError as error:
            del self._busy[stream]
            cause = error.cause
            if isinstance(cause, BatchError):
                self._idle.append(busy.worker)
                yield self._failed(busy, str(cause))
                return
            if isinstance(cause, FileError):
                raise FileError(cause.what, where=cause.where, why=cause.why, suggestion=cause.suggestion) from None
            self._end(busy.worker)
            yield self._failed(busy, cut(cause))
            return
        except (self.ray.exceptions.RayError, StopIteration) as error:  # its process died
            del self._busy[stream]
            self._end(busy.worker)
            if getattr(error, "actor_init_failed", False):  # the next one would not start either
                raise WorkerError(
                    "a worker cannot be started",
                    where="engine",
                    why=cut(_last_line(error)),
                    suggestion="check that the workers can import the model, the condition and this library",
                ) from error
            yield self._failed(busy, f"the worker died: {_first_line(error)}")
            return
        if isinstance(value, int):
            if self.engine.timeout is not None:
                busy.deadline = time.monotonic() + self.engine.timeout
            yield ShardProgress(busy.shard, value)
            return
        del self._busy[stream]
        self._idle.append(busy.worker)
        yield value

    def _failed(self, busy: _Busy, reason: str) -> ShardFailed:
        last = busy.attempt >= self.engine.retries
        if not last:
            self._again.append(_Turn(busy.shard, busy.attempt + 1, busy.worker))
        return ShardFailed(busy.shard, reason, last)

    def _end(self, worker: Any) -> None:
        self._idle = [each for each in self._idle if each is not worker]
        with contextlib.suppress(self.ray.exceptions.RayError, ValueError):
            self.ray.kill(worker, no_restart=True)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return cut(lines[0] if lines else type(error).__name__)


def _last_line(error: BaseException) -> str:
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]


def _packed(task: Task) -> bytes:
    """The task as bytes, by Ray's own pickler: they stay in this cluster.

    Raises:
        ConfigurationError: a part of it cannot be sent to another process.
    """
    from ray import cloudpickle

    try:
        packed: bytes = cloudpickle.dumps(task)  # type: ignore[no-untyped-call]
    except Exception as error:  # pickling runs code of the model
        raise ConfigurationError(
            "the model, the condition or the decoder cannot be sent to another process",
            where="engine", why=cut(error),
            suggestion="name the model as 'module:attribute', which each worker imports, and use functions of modules",
        ) from error  # fmt: skip
    return packed


@contextlib.contextmanager
def _connected(ray: Any, address: str | None, workers: int, size: int, gpu_fraction: float) -> Iterator[None]:
    """A connection to a cluster; one that was there stays.

    Raises:
        WorkerError: the cluster does not answer, or does not start.
    """
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    local = {
        "num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False,
        "object_store_memory": max(_STORE_LEAST, 2 * size + _STORE_SPARE),
        "_system_config": {"worker_niceness": 0},  # Ray's 15 leaves them little of a machine that does other work, too
    }  # fmt: skip
    try:
        ray.init(address=address, **quiet) if address else ray.init(address="local", **local, **quiet)
    except Exception as error:  # whatever the cluster answers
        raise WorkerError(
            "the Ray cluster cannot be reached" if address else "a local Ray cluster does not start",
            where="engine", why=_first_line(error), suggestion="check the address, and that Ray's ports are free",
        ) from error  # fmt: skip
    try:
        if gpu_fraction > 0.0 and not ray.cluster_resources().get("GPU"):
            raise ConfigurationError(
                f"got {gpu_fraction:g}, and the cluster has no GPU", where="gpu_fraction", suggestion="leave it out"
            )
        yield
    finally:
        ray.shutdown()


def _imported() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigurationError(
            "ray is not installed", where="engine", suggestion="pip install 'noise-scheduler-sampling-system[ray]'"
        ) from None
    return ray
