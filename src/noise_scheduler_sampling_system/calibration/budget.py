"""What a search may spend and return, and how much of it is left."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import final

from ..plans.plan import SamplingPlan
from ..schedules.path import NoisePath
from .level_range import LevelRange
from .student import Student

__all__ = ["FOR_GATE", "Budget", "Clock", "Limits"]

#: The choice after a search may run built-in samplers for this share of the budget.
FOR_GATE = 0.1
#: A recording takes at most this share of the seconds that are left, and a choice of those of its search.
_AT_MOST = 0.25


@final
@dataclass(frozen=True)
class Limits:
    """What a search may spend and what it may return.

    Attributes:
        passes: the most runs of all trajectories.
        deadline: the end, in seconds of ``time.monotonic``; infinite: none.
        stages: the members of ``STAGES`` that may run.
        history: of :class:`Table`.
        first: "free", or "noisiest": the first query is at the path's noisiest level.
        max_gain: the largest :attr:`Table.gain`.
        recording: the evaluations of a recording for which the deadline has time beyond the search's own.
    """

    passes: float
    deadline: float
    stages: tuple[str, ...]
    history: int | None
    first: str
    max_gain: float
    recording: float = 0.0

    def levels(self, path: NoisePath) -> LevelRange:
        """Return the range of the query levels on a path."""
        return LevelRange(path, first_fixed=self.first != "free")

    def allow(self, plan: SamplingPlan, path: NoisePath) -> bool:
        """Return whether a plan on a path remembers no more predictions, and begins where the first query must be."""
        remembers = self.history is None or plan.history <= self.history
        return remembers and (self.first == "free" or bool(plan.asked[0] and plan.time[0] == path.t_max))


@final
@dataclass(frozen=True)
class Clock:
    """The time of a calibration, in seconds of ``time.monotonic``.

    Attributes:
        student: counts the evaluations, which tell the speed.
        began: the start.
        deadline: the end; infinite: none.
    """

    student: Student
    began: float
    deadline: float

    @property
    def _left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    @property
    def _of_one(self) -> float:
        """The seconds of an evaluation; 0 where they are not known, or do not matter."""
        calls = self.student.calls.samples
        return (time.monotonic() - self.began) / calls if calls and math.isfinite(self.deadline) else 0.0

    def granted(self, recording: float) -> float:
        """Return how many evaluations of a recording, which serves all budgets, the time that is left allows."""
        return min(recording, _AT_MOST * self._left / self._of_one) if self._of_one else 0.0

    def search_ends(self, share: float, *, recording: float, gate: float) -> float:
        """Return the deadline of a search, so that its recording serves all budgets and the choice after it has time.

        Args:
            share: the search's share of the seconds that are left.
            recording: the evaluations that were granted for a recording.
            gate: the least evaluations of the choice.
        """
        if not math.isfinite(self.deadline):
            return math.inf
        shared = self._of_one * recording
        own = share * (self._left - shared)
        reserved = min(max(self._of_one * gate, FOR_GATE * own), _AT_MOST * own) if self._of_one else 0.0
        return time.monotonic() + shared + own - reserved


@final
@dataclass(frozen=True)
class Budget:
    """The part of the limits that is left.

    Attributes:
        student: counts the evaluations of the model.
        spent_before: the evaluations before this budget began.
        began: the time at which it began, in seconds of ``time.monotonic``.
        of_a_pass: the evaluations of one pass, which is a run of all trajectories.
        limits: what may be spent.
    """

    student: Student
    spent_before: int
    began: float
    of_a_pass: float
    limits: Limits

    @classmethod
    def start(cls, student: Student, of_a_pass: float, limits: Limits) -> Budget:
        """Return a budget that begins now."""
        return cls(student, student.calls.samples, time.monotonic(), of_a_pass, limits)

    def another(self, share: float) -> Budget:
        """Return a budget that begins now and has a share of the limits of this one."""
        seconds = share * (self.limits.deadline - self.began)
        limits = replace(self.limits, passes=share * self.limits.passes, deadline=time.monotonic() + seconds)
        return Budget.start(self.student, self.of_a_pass, limits)

    @property
    def passes(self) -> float:
        """The number of passes spent so far."""
        return (self.student.calls.samples - self.spent_before) / self.of_a_pass

    def spent(self, share: float = 1.0) -> bool:
        """Return whether this share of the time or of the passes is spent."""
        seconds = self.limits.deadline - self.began
        return time.monotonic() - self.began > share * seconds or self.passes >= share * self.limits.passes

    @property
    def total(self) -> float:
        """The number of passes that both limits allow, by the speed so far for the time; 0 while that is not known."""
        if not self.passes and math.isfinite(self.limits.deadline):
            return 0.0
        return self.passes + self.left()

    def left(self, share: float = 1.0) -> float:
        """Return the number of passes that are left of a share of both limits, by the speed so far for the time."""
        by_passes = share * self.limits.passes - self.passes
        elapsed = time.monotonic() - self.began
        seconds = share * (self.limits.deadline - self.began) - elapsed
        return min(by_passes, seconds * self.passes / max(elapsed, 1e-9) if self.passes else by_passes)
