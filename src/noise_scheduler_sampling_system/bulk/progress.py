"""How far a set is, how fast it is made, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

from tqdm.auto import tqdm

from ..support.errors import ConfigurationError, shown

__all__ = ["Meter", "Progress", "reporter_of"]


@final
class Progress(NamedTuple):
    """The progress of a set.

    Attributes:
        done: samples that are stored, or made and not yet stored; those that failed included.
        total: samples of the set.
        failed: samples that failed.
        samples_per_second: of this run.
        remaining_seconds: at this rate; None before the first batch.
    """

    done: int
    total: int
    failed: int
    samples_per_second: float
    remaining_seconds: float | None


@final
@dataclass
class Meter:
    """Counts samples, by the monotonic clock: a change of the system's time has no effect.

    Args:
        total: samples of the set.
        stored: samples that were stored before.
        failed: of these, those that failed.
    """

    total: int
    stored: int
    failed: int
    _made: int = 0
    _open: dict[int, int] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def begun(self, shard: int, done: int) -> None:
        """Samples of an unfinished shard that are made; 0 where its attempt failed."""
        self._open[shard] = done

    def finished(self, shard: int, count: int, failed: int) -> None:
        """A shard is stored."""
        self._open.pop(shard, None)
        self._made += count
        self.stored += count
        self.failed += failed

    def progress(self) -> Progress:
        """The progress now."""
        waiting, elapsed = sum(self._open.values()), time.monotonic() - self._began
        rate = (self._made + waiting) / elapsed if elapsed > 0.0 else 0.0
        done = self.stored + waiting
        return Progress(done, self.total, self.failed, rate, (self.total - done) / rate if rate > 0.0 else None)


class Reporter(AbstractContextManager["Reporter"]):
    """Does nothing with the progress."""

    def tell(self, progress: Progress) -> None:
        """Show the progress."""

    def __exit__(self, *_: object) -> None:
        """End the display."""


@final
class _Bar(Reporter):
    """A bar in the terminal, with the rate and the time that remains."""

    def __init__(self) -> None:
        self._bar: Any = None

    def tell(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = tqdm(total=progress.total, initial=progress.done, unit="sample")
        self._bar.n = progress.done
        if progress.failed:
            self._bar.set_postfix_str(f"{progress.failed} failed", refresh=False)
        self._bar.update(0)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()


@final
class _Function(Reporter):
    """Calls a function of the user."""

    def __init__(self, function: Callable[[Progress], object]) -> None:
        self._function = function

    def tell(self, progress: Progress) -> None:
        self._function(progress)


def reporter_of(wanted: Any) -> Reporter:
    """What is done with the progress: nothing, a bar, or a function of :class:`Progress`.

    Raises:
        ConfigurationError: neither True, False nor a function.
    """
    if wanted is True:
        return _Bar()
    if wanted is False:
        return Reporter()
    if callable(wanted):
        return _Function(wanted)
    raise ConfigurationError(
        f"got {shown(wanted)}", where="progress", suggestion="give True, False, or a function of a Progress"
    )
