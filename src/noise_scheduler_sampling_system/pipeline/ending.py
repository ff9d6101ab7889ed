"""The end of a run: its callback and its early stopping after each step, and what it took."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple, final

from torch import Tensor

from ..guidance.evaluate import Memory
from ..running.callbacks import Callback, asks_to_stop
from ..running.early_stopping import EarlyStopping, Settled
from ..running.loop import Reached
from ..schedules.path import Level
from .job import Job
from .request import Request
from .step_view import view

__all__ = ["Ending", "Outcome", "calls_made"]

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """The result of one batch.

    Attributes:
        samples: shape (B, ...).
        steps, nfe: steps and model calls that were made.
        evaluations: of a network, for each sample.
        stopped: whether the run ended before its last step was due.
        saved: model calls that were left then; 0 where the number is not known.
        rejected, levels: failed steps, and the levels of the others, of a run that finds its steps itself.
    """

    samples: Tensor
    steps: int
    nfe: int
    evaluations: int
    stopped: bool
    saved: int
    rejected: int = 0
    levels: tuple[Level, ...] | None = None


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
        x = reached.state.x
        return _counted(self.job, reached, self.settled.result(x) if self.settled else x, self.stopped)


def calls_made(reached: Reached) -> int:
    """The model calls that a run made so far."""
    run, state, found = reached
    return run.plan.calls_before(state.row) if found is None else found.calls


def _counted(job: Job, reached: Reached, samples: Tensor, stopped: bool) -> Outcome:
    """The samples with the steps and the calls that they took."""
    (run, state, found), planned = reached, job.run.planned
    steps = int(run.plan.step[state.row - 1]) + 1
    calls = calls_made(reached)
    evaluations = sum(job.guidance.compiled.evaluations[: state.row]) if found is None else found.evaluations
    saved = job.run.plan.nfe - calls if stopped and planned else 0
    if saved:
        logger.info(
            "stopped after step %d of %d: %d of %d model calls saved",
            steps, job.run.plan.steps, saved, job.run.plan.nfe,
        )  # fmt: skip
    elif stopped and not planned:
        logger.info("stopped after step %d and %d model calls", steps, calls)
    rejected, levels = (0, None) if found is None else (found.rejected, found.levels)
    return Outcome(samples, steps, calls, evaluations, stopped, saved, rejected, levels)
