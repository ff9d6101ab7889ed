"""What is seen of a calibration while it runs."""

from __future__ import annotations

import math
import time
from typing import Any, Final, final

from ..errors import NoiseSamplingError
from .checkpoint import Checkpoint
from .fit import Fit
from .measure import Errors
from .student import Student
from .table import Table
from .teacher import Trajectories

__all__ = ["Shown"]

#: The held-out error is for the eye only: before the next one so many times as long passes as it took.
_BETWEEN: Final = 10


@final
class Shown:
    """Writes the state of a fit to the bar and to the checkpoint."""

    def __init__(self, bar: Any, student: Student, unseen: Trajectories, nfe: int, stored: Checkpoint) -> None:
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
        self._bar.update()

    def _held_out_error(self, table: Table) -> str:
        try:
            errors = Errors.of(self._unseen.errors(self._student, table))
        except NoiseSamplingError:  # what is on its way may overflow; what is returned does not
            return "held-out error not finite"
        return f"held-out error {errors.rms:.4g} (median {errors.median:.4g})"
