"""What a search may spend and what it may return, and how much of that is left."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import final

from ..schedules.path import NoisePath
from .student import Student
from .table import LevelRange

__all__ = ["Clock", "Limits"]


@final
@dataclass(frozen=True)
class Limits:
    """What a search may spend and what it may return.

    Attributes:
        passes: runs of all trajectories.
        deadline: in seconds of ``time.monotonic``.
        stages: of ``STAGES``.
        history: of :class:`Table`.
        first: "free", or "noisiest": the first query is at the path's noisiest level.
        max_gain: of :attr:`Table.gain`.
        teacher_calls: of a trajectory that is followed to the levels of a start.
    """

    passes: float
    deadline: float
    stages: tuple[str, ...]
    history: int | None
    first: str
    max_gain: float
    teacher_calls: int

    def levels(self, path: NoisePath) -> LevelRange:
        """The query levels that may be chosen on a path."""
        return LevelRange(path, first_fixed=self.first != "free")


@final
@dataclass(frozen=True)
class Clock:
    """How much of the limits is left."""

    student: Student
    began: int
    started: float
    unit: float
    limits: Limits

    @classmethod
    def start(cls, student: Student, unit: float, limits: Limits) -> Clock:
        return cls(student, student.tally.samples, time.monotonic(), unit, limits)

    def anew(self, share: float) -> Clock:
        """A clock for something that has this share of both budgets to itself."""
        seconds = share * (self.limits.deadline - self.started)
        limits = replace(self.limits, passes=share * self.limits.passes, deadline=time.monotonic() + seconds)
        return Clock.start(self.student, self.unit, limits)

    @property
    def passes(self) -> float:
        return (self.student.tally.samples - self.began) / self.unit

    def out(self, share: float = 1.0) -> bool:
        """Whether this share of the time or of the passes is gone."""
        seconds = self.limits.deadline - self.started
        return time.monotonic() - self.started > share * seconds or self.passes >= share * self.limits.passes

    def room(self, share: float) -> float:
        """How many passes are left of this share of both budgets, at the speed so far."""
        by_passes = share * self.limits.passes - self.passes
        spent = time.monotonic() - self.started
        seconds = share * (self.limits.deadline - self.started) - spent
        return min(by_passes, seconds * self.passes / max(spent, 1e-9) if self.passes else by_passes)
