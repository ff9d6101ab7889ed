"""What is seen of a calibration while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final, final

from ..support.errors import NoiseSamplingError
from .checkpoint import Checkpoint
from .fit import Fit
from .measure import Errors
from .student import Student, Tally
from .table import Table
from .teacher import Trajectories

__all__ = ["BAR", "Gauge", "Shown"]

#: The held-out error is for the eye only: before the next one so many times as long passes as it took.
_BETWEEN: Final = 10


#: Per cent of the work, with the time that is left.
BAR: Final = "{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]"


@final
class Gauge:
    """How much of a calibration is done: of its model calls, or of its time, whichever is further.

    Args:
        bar: of 100 %.
        tally: counts the model calls.
        work: the model calls of each part, in order; each is the most that it may take.
        seconds: limit on the time of all.
    """

    def __init__(self, bar: Any, tally: Tally, work: Mapping[int, float], seconds: float | None) -> None:
        self._bar, self._tally, self._work, self._seconds = bar, tally, dict(work), seconds
        self._began, self._done, self._start = time.monotonic(), 0.0, tally.samples

    @property
    def share(self) -> float:
        """From 0 to 1."""
        part = next(iter(self._work.values()), 0.0)
        total = self._done + sum(self._work.values())
        by_calls = (self._done + min(self._tally.samples - self._start, part)) / total if total else 1.0
        by_time = (time.monotonic() - self._began) / self._seconds if self._seconds else 0.0
        return min(1.0, max(by_calls, by_time if self._work else 1.0))

    def show(self) -> None:
        """Move the bar, never back."""
        if not self._bar.disable:
            self._bar.update(max(0.0, 100.0 * self.share - self._bar.n))

    def finish(self, part: int) -> None:
        """A part is done, whatever of it was left."""
        self._done += self._work.pop(part, 0.0)
        self._start = self._tally.samples
        self.show()


@final
class Shown:
    """Writes the state of a fit to the bar and to the checkpoint."""

    def __init__(
        self, bar: Any, gauge: Gauge, student: Student, unseen: Trajectories, nfe: int, stored: Checkpoint
    ) -> None:
        self._gauge = gauge
        self._bar, self._student, self._unseen, self._nfe, self._stored = bar, student, unseen, nfe, stored
        self._next = -math.inf

    def __call__(self, stage: str, fit: Fit) -> None:
        if stage != "climb":  # there it is of fewer calls
            self._stored.keep(self._nfe, fit)
        if self._bar.disable:
            return
        self._bar.set_description(f"{self._nfe} calls, {stage}")
        began = time.monotonic()
        if began >= self._next:
            self._bar.set_postfix_str(self._held_out_error(fit.table))
            self._next = time.monotonic() + _BETWEEN * (time.monotonic() - began)
        self._gauge.show()

    def _held_out_error(self, table: Table) -> str:
        try:
            errors = Errors.of(self._unseen.errors(self._student, table))
        except NoiseSamplingError:  # what is on its way may overflow; what is returned does not
            return "held-out error not finite"
        return f"held-out error {errors.rms:.4g} (median {errors.median:.4g})"
