"""What a run needs to know of its plan, whether its rows have one noise level or one for each frame."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..schedules.level import Level
from .plan_rows import Array, Integers

__all__ = ["Plan"]


class Plan(ABC):
    """The rows of a run: :class:`SamplingPlan`, or :class:`FramePlan` with a noise level for each of T frames.

    Attributes:
        time: model times, shape (M,) or (M, T).
        alpha, sigma: noise levels of the M rows and of the end, shape (M + 1,) or (M + 1, T).
        step: the interval of each row, shape (M,).
        sampler: the name of the sampler that wrote it.
        provenance: the origin of a plan that no sampler wrote, as plain data.
        scale: the guidance scale that the plan holds; None: the run brings its guidance.
    """

    time: Array
    alpha: Array
    sigma: Array
    step: Integers
    sampler: str
    provenance: Mapping[str, Any]
    scale: float | None

    @property
    @abstractmethod
    def reads_null(self) -> tuple[bool, ...]:
        """For each row, whether it needs the unconditional branch's prediction."""

    @property
    def two_times(self) -> bool:
        """Whether the rows ask a network of two times."""
        return False

    @property
    @abstractmethod
    def asked(self) -> tuple[bool, ...]:
        """For each row, whether it evaluates the model."""

    @property
    @abstractmethod
    def last_use(self) -> tuple[int, ...]:
        """For each row, the last row that reads its prediction; the row itself, where no later row does."""

    def kept_at(self, row: int) -> set[int]:
        """The keys of what a run holds before a row because that row or a later one reads it."""
        return {j for j in range(row) if self.last_use[j] >= row}

    @abstractmethod
    def level(self, row: int) -> Level:
        """The noise level of a row; of several, that of the noisiest frame that moves."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, with the hash of its content."""

    @property
    @abstractmethod
    def content_hash(self) -> str:
        """SHA-256 of the content, as 64 hexadecimal digits: the same in every process and version of Python."""

    @property
    def fingerprint(self) -> str:
        """The first 16 digits of :attr:`content_hash`."""
        return self.content_hash[:16]

    def __len__(self) -> int:
        """M, the number of rows."""
        return len(self.step)

    @property
    def nfe(self) -> int:
        """The number of model calls; guidance may evaluate several networks in one call."""
        return self._calls[-1]

    def calls_before(self, row: int) -> int:
        """The number of model calls that the rows before this one make."""
        return self._calls[row]

    @functools.cached_property
    def _calls(self) -> tuple[int, ...]:
        return (0, *np.cumsum(self.asked).tolist())

    @functools.cached_property
    def has_whole_times(self) -> bool:
        """Whether every time is a whole number."""
        return bool((self.time % 1 == 0).all())

    @property
    def steps(self) -> int:
        """N, the number of intervals of the grid."""
        return int(self.step[-1]) + 1
