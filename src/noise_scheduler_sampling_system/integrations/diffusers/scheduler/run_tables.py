"""Which ``set_timesteps`` an entry of ``timesteps`` comes from, where threads and nested loops share a scheduler."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef as _StorageWeakRef

from ....support.errors import ConfigurationError
from .run_registry import Table

__all__ = ["Tables"]

#: Tells whether a tensor's memory is still held by somebody.
StorageWeakRef: Any = _StorageWeakRef
_KEPT_THREADS = 64


@final
class Tables:
    """The tables of a scheduler: every thread's latest, and older ones for as long as a loop holds their timesteps.

    Args:
        default: makes the table that holds before the first ``set_timesteps``: every training time.
    """

    def __init__(self, default: Callable[[], Table]) -> None:
        self._default = default
        self._lock = threading.Lock()
        self._of_thread: dict[int, Table] = {}
        self._latest: Table | None = None
        self._older: list[tuple[Table, Any]] = []

    @property
    def current(self) -> Table | None:
        """This thread's latest; in a thread that set no timesteps, the latest of all."""
        return self._of_thread.get(threading.get_ident(), self._latest)

    @property
    def needed(self) -> Table:
        """The current one.

        Before the first ``set_timesteps`` it is that of every training time, as in diffusers.
        """
        table = self.current
        if table is None:
            table = self._default()
            self.add(table)
        return table

    def add(self, table: Table) -> None:
        """Make a table the current one."""
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
            self._of_thread[thread] = self._latest = table

    def found(
        self, timestep: Any, sample: Tensor | None = None, otherwise: Callable[[float], Table | None] | None = None
    ) -> tuple[Table, int]:
        """The table and the call that a timestep is of: by its memory, else by the sample, else by its value.

        Args:
            timestep: the entry of ``timesteps``, or its value.
            sample: the state.
            otherwise: makes a table of one step from a time that is in none.

        Raises:
            ConfigurationError: no such time.
        """
        table = self.needed
        call = table.call_at(timestep)
        if call is not None:
            return table, call
        for other in [*self._of_thread.values(), *(old for old, memory in self._older if not memory.expired())]:
            call = other.call_at(timestep)
            if call is not None:
                return other, call
        time = float(timestep.reshape(-1)[0] if isinstance(timestep, Tensor) else timestep)
        call = table.call_by_value(time, sample)
        single = otherwise(time) if call is None and otherwise is not None else None
        if single is not None:
            return single, 0
        if call is None:
            raise ConfigurationError(
                f"t = {time:g} is none of the times of the run",
                where="timestep",
                suggestion="give step() the entries of scheduler.timesteps, after set_timesteps()",
            )
        return table, call
