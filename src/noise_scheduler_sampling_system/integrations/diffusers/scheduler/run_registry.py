"""Which list of timesteps an entry comes from, where threads and nested loops share a scheduler."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef as _StorageWeakRef

from ....support.errors import ConfigurationError
from .timestep_list import TimestepList

__all__ = ["RunRegistry"]

#: Tells whether anybody still holds a tensor's memory.
StorageWeakRef: Any = _StorageWeakRef
_KEPT_THREADS = 64


@final
class RunRegistry:
    """The lists of timesteps of a scheduler: the latest of every thread, and older ones that a loop still holds.

    Args:
        default: makes the list that holds before the first ``set_timesteps``: every training time.
    """

    def __init__(self, default: Callable[[], TimestepList]) -> None:
        self._default = default
        self._lock = threading.Lock()
        self._of_thread: dict[int, TimestepList] = {}
        self._latest: TimestepList | None = None
        self._older: list[tuple[TimestepList, Any]] = []

    @property
    def current(self) -> TimestepList | None:
        """This thread's latest list; in a thread that did not set timesteps, the latest of all threads."""
        return self._of_thread.get(threading.get_ident(), self._latest)

    @property
    def current_or_default(self) -> TimestepList:
        """The current list; before the first ``set_timesteps``, that of every training time, as in diffusers."""
        current = self.current
        if current is None:
            current = self._default()
            self.add(current)
        return current

    def add(self, times: TimestepList) -> None:
        """Make a list the current one of this thread."""
        thread = threading.get_ident()
        with self._lock:
            before = self._of_thread.get(thread)
            if before is not None:
                self._older = [(old, memory) for old, memory in self._older if not memory.expired()]
                self._older.append((before, StorageWeakRef(before.timesteps.untyped_storage())))
                before.release()
            if len(self._of_thread) > _KEPT_THREADS:
                alive = {thread.ident for thread in threading.enumerate()}
                self._of_thread = {ident: kept for ident, kept in self._of_thread.items() if ident in alive}
            self._of_thread[thread] = self._latest = times

    def find(
        self, timestep: Any, sample: Tensor | None = None,
        single_step: Callable[[float], TimestepList | None] | None = None,
    ) -> tuple[TimestepList, int]:  # fmt: skip
        """The list and the call that a timestep belongs to: told by its memory, else by the sample, else by its value.

        Args:
            timestep: the entry of ``timesteps``, or its value.
            sample: the state.
            single_step: makes a list of one step from a time that is in no list, or returns None.

        Raises:
            ConfigurationError: no list has this time, or it is the time of the end.
        """
        times, call = self._found(timestep, sample, single_step)
        if call == len(times.plan.calls):
            raise ConfigurationError(
                "the last entry of timesteps is the end of the run, where the network is not called",
                where="timestep",
                suggestion="loop over scheduler.timesteps[:-1], as the pipelines of the replaced class do",
            )
        return times, call

    def _found(
        self, timestep: Any, sample: Tensor | None, single_step: Callable[[float], TimestepList | None] | None
    ) -> tuple[TimestepList, int]:
        """:meth:`find`, where the end of a run counts as a call."""
        current = self.current_or_default
        call = current.call_at(timestep)
        if call is not None:
            return current, call
        for other in [*self._of_thread.values(), *(old for old, memory in self._older if not memory.expired())]:
            call = other.call_at(timestep)
            if call is not None:
                return other, call
        time = float(timestep.reshape(-1)[0] if isinstance(timestep, Tensor) else timestep)
        call = current.call_by_value(time, sample)
        single = single_step(time) if call is None and single_step is not None else None
        if single is not None:
            return single, 0
        if call is None:
            raise ConfigurationError(
                f"t = {time:g} is none of the times of the run",
                where="timestep",
                suggestion="give step() the entries of scheduler.timesteps, after set_timesteps()",
            )
        return current, call
