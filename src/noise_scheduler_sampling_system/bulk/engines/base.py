"""What all engines do: make shards, repeat those that fail, and tell what happens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

from ..layout import Shard
from ..worker import Task, WrittenShard

__all__ = ["Engine", "Event", "ShardFailed", "ShardProgress"]


@final
class ShardProgress(NamedTuple):
    """Samples of a shard that are done, and not yet stored."""

    shard: Shard
    done: int


@final
class ShardFailed(NamedTuple):
    """An attempt at a shard failed.

    Attributes:
        shard: that failed.
        reason: why.
        last: whether it will not be tried again.
    """

    shard: Shard
    reason: str
    last: bool


Event = ShardProgress | ShardFailed | WrittenShard


@dataclass(frozen=True)
class Engine(ABC):
    """Runs workers.

    Attributes:
        retries: how often a shard that failed is tried again.
        timeout: seconds that a batch may take; None: no limit.
    """

    retries: int
    timeout: float | None

    @abstractmethod
    def run(self, task: Task, shards: Iterable[Shard]) -> Iterator[Event]:
        """Make shards, in any order, and yield what happens. Closing the iterator stops the workers.

        Raises:
            FileError: a shard cannot be written; the others are not begun.
        """
