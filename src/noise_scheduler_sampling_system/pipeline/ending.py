"""The end of a run: its callback and its early stopping after each step, and what it took."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple, final

from torch import Tensor

from ..guidance.compile import CompiledGuidance
from ..guidance.evaluate import Memory
from ..plans.base import Plan
from ..running.callbacks import Callback, asks_to_stop
from ..running.early_stopping import EarlyStopping, Settled
from ..running.loop import Reached, Run, StepsFound
from ..schedules.path import Level
from .job import Job
from .request import Request
from .step_view import view

__all__ = ["Ending", "Outcome", "calls_made"]

logger = logging.getLogger(__name__)


@final
class Outcome(NamedTuple):
    """The result of one batch, and what it took, which is counted where it is read.

    It does not hold the job, whose noise and conditions would stay in memory until the last part of a batch is done.

    Attributes:
        samples: shape (B, ...).
        run: what was executed.
        guidance: of the rows of ``run``.
        plan: the last row belongs to it.
        row: after the last row.
        found: the steps of a run that finds them itself; None for the run of a plan.
        stopped: whether the run ended before its last step was due.
    """

    samples: Tensor
    run: Run
    guidance: CompiledGuidance
    plan: Plan
    row: int
    found: StepsFound | None
    stopped: bool

    @property
    def steps(self) -> int:
        """The steps that were made."""
        return int(self.plan.step[self.row - 1]) + 1

    @property
    def nfe(self) -> int:
        """The model calls that were made."""
        return _calls(self.plan, self.row, self.found)

    @property
    def evaluations(self) -> int:
        """The evaluations of a network for each sample."""
        found = self.found
        return sum(self.guidance.evaluations[: self.row]) if found is None else found.evaluations

    @property
    def saved(self) -> int:
        """The model calls that were left when the run was stopped; 0 where the number is not known."""
        return self.run.plan.nfe - self.nfe if self.stopped and self.run.planned else 0

    @property
    def rejected(self) -> int:
        """The failed steps of a run that finds its steps itself."""
        return 0 if self.found is None else self.found.rejected

    @property
    def levels(self) -> tuple[Level, ...] | None:
        """The levels of the other steps of such a run; None for the run of a plan."""
        return None if self.found is None else self.found.levels


@final
@dataclass
class Ending:
    """What may end a run after any of its steps.

    Attributes:
        job: of the run.
        memory: what its guidance remembers.
        callback: of the request.
        settled: the early stopping of the request, begun.
        stopped: whether one of them ended the run.
    """

    job: Job
    memory: Memory
    callback: Callback | None
    settled: Settled | None
    stopped: bool = False

    @classmethod
    def of(cls, job: Job, request: Request, memory: Memory) -> Ending:
        """The ending of a job under the callback and the early stopping of its request."""
        tolerance = request.early_stopping
        return cls(job, memory, request.callback, None if tolerance is None else EarlyStopping(tolerance).start())

    @property
    def inspects(self) -> bool:
        """Whether the states must keep the model's input and output."""
        return self.callback is not None or self.settled is not None

    def is_due(self, reached: Reached) -> bool:
        """Call the callback, and say whether the run ends with this step."""
        ended = self.callback is not None and asks_to_stop(self.callback, view(self.job, reached, self.memory))
        if self.settled is not None:
            clean = reached.run.clean_sample(reached.state)
            self.stopped = self.settled.update(clean, reached.run.plan, reached.state.row)
        self.stopped = self.stopped or ended
        return self.stopped

    def outcome(self, reached: Reached) -> Outcome:
        """The result of a run that ended with this row."""
        (run, state, found), settled = reached, self.settled
        samples = state.x if settled is None else settled.result(state.x)
        job = self.job
        outcome = Outcome(samples, job.run, job.guidance.compiled, run.plan, state.row, found, self.stopped)
        if self.stopped:
            _log_stop(outcome)
        return outcome


def calls_made(reached: Reached) -> int:
    """The model calls that a run made so far."""
    run, state, found = reached
    return _calls(run.plan, state.row, found)


def _calls(plan: Plan, row: int, found: StepsFound | None) -> int:
    """The model calls before a row, or those of a run that finds its steps itself."""
    return plan.calls_before(row) if found is None else found.calls


def _log_stop(outcome: Outcome) -> None:
    run = outcome.run
    if outcome.saved:
        logger.info(
            "stopped after step %d of %d: %d of %d model calls saved",
            outcome.steps, run.plan.steps, outcome.saved, run.plan.nfe,
        )  # fmt: skip
    elif not run.planned:
        logger.info("stopped after step %d and %d model calls", outcome.steps, outcome.nfe)
