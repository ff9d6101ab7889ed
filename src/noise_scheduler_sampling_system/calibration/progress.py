"""The progress bar of a calibration."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final, final

from ..support.errors import NoiseSamplingError
from .checkpoint import Checkpoint
from .fit.fit import Fit
from .goal import Goal
from .student import CallCounter, Student
from .table import Table
from .trajectories import Errors, Trajectories

__all__ = ["BAR", "FitReport", "WorkGauge"]

#: The held-out error is only shown, so computing it must not take long: the pause before the next one is this many
#: times as long as the last one took.
_PAUSE: Final = 10

#: The format of the bar: per cent of the work, and the time that is left.
BAR: Final = "{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]"


@final
class WorkGauge:
    """Measures how much of a calibration is done: the share of its model calls or of its time, the larger of both.

    Args:
        bar: the bar, from 0 to 100.
        calls: counts the model calls.
        work: the most model calls of each part, in order, by the part's name.
        seconds: the limit on the time of all parts, or None.
    """

    def __init__(self, bar: Any, calls: CallCounter, work: Mapping[int, float], seconds: float | None) -> None:
        self._bar, self._calls, self._work, self._seconds = bar, calls, dict(work), seconds
        self._began, self._done, self._start = time.monotonic(), 0.0, calls.samples

    @property
    def share(self) -> float:
        """The share of the work that is done, from 0 to 1."""
        part = next(iter(self._work.values()), 0.0)
        total = self._done + sum(self._work.values())
        by_calls = (self._done + min(self._calls.samples - self._start, part)) / total if total else 1.0
        by_time = (time.monotonic() - self._began) / self._seconds if self._seconds else 0.0
        return min(1.0, max(by_calls, by_time if self._work else 1.0))

    def show(self) -> None:
        """Move the bar forward to the present share."""
        if not self._bar.disable:
            self._bar.update(max(0.0, 100.0 * self.share - self._bar.n))

    def finish(self, part: int) -> None:
        """Count a part as done, even if it made fewer calls than it could."""
        self._done += self._work.pop(part, 0.0)
        self._start = self._calls.samples
        self.show()


@final
class FitReport:
    """Writes the state of a fit to the bar and to the checkpoint.

    Args:
        bar: the bar.
        gauge: moves it.
        student: the model, to compute the error that is shown.
        unseen: the held-out trajectories of that error.
        goal: the budget of the plan.
        stored: the checkpoint.
    """

    def __init__(
        self, bar: Any, gauge: WorkGauge, student: Student, unseen: Trajectories, goal: Goal, stored: Checkpoint
    ) -> None:
        self._bar, self._gauge, self._student = bar, gauge, student
        self._unseen, self._goal, self._stored = unseen, goal, stored
        self._next = -math.inf

    def __call__(self, stage: str, fit: Fit) -> None:
        self._stored.keep(self._goal.budget, fit)
        if self._bar.disable:
            return
        self._bar.set_description(f"{self._goal}, {stage}")
        began = time.monotonic()
        if began >= self._next:
            self._bar.set_postfix_str(self._held_out_error(fit.table))
            self._next = time.monotonic() + _PAUSE * (time.monotonic() - began)
        self._gauge.show()

    def _held_out_error(self, table: Table) -> str:
        try:
            errors = Errors.of(self._unseen.errors(self._student, table))
        except NoiseSamplingError:  # a table on the way may overflow; the one that is returned does not
            return "held-out error not finite"
        return f"held-out error {errors.rms:.4g} (median {errors.median:.4g})"
