"""A job run to its end, with callback and early stopping; a run that is not finite is repeated with checks."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..guidance.evaluate import Memory
from ..running.callbacks import asks_to_stop
from ..running.early_stopping import EarlyStopping
from ..running.faults import ModelStoppedError, OutputReusedError, StepControlError
from ..running.loop import Reached
from ..running.profiling import Stopwatch
from ..schedules.path import Level
from ..support.errors import NumericsError
from .job import Job
from .request import Request
from .step_view import view

__all__ = ["Outcome", "complete"]

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


def complete(job: Job, request: Request, bar: Any, watch: Stopwatch | None) -> Outcome:
    """Run a job to its end.

    Args:
        job: the batch.
        request: its callback and its early stopping.
        bar: a progress bar.
        watch: measures the time inside model, guidance and noise.

    Raises:
        ModelOutputError, NumericsError: something is not finite; a second run with checks says where.
    """
    try:
        try:
            return _outcome(job, request, bar, watch)
        except OutputReusedError:
            logger.info("the model returns the same memory at every call: starting again with copies")
            return _outcome(job, request, bar, watch, copy_outputs=True)
    except ModelStoppedError as stopped:
        error: Exception = stopped.error
    except StepControlError:
        raise
    except NumericsError as hidden:
        logger.warning("the result is not finite; running again with a check after every model call")
        error = _first_fault(job, hidden)
    raise error  # outside of the except blocks, so that it has no other context than its own


def _first_fault(job: Job, hidden: NumericsError) -> Exception:
    """The error of a second run that checks every row."""
    memory: Memory = {}
    with torch.no_grad():
        try:
            for _ in job.run.steps(
                job.model_maker(memory), job.first_state(), job.noise, memory, copy_outputs=True, check_every_row=True
            ):
                pass
        except ModelStoppedError as stopped:
            return stopped.error
    return NumericsError(
        "the result was not finite, but a second run of the same noise was",
        where=hidden.where,
        why="the model does not return the same for the same input (dropout, or faulty hardware)",
        suggestion="call model.eval()",
    )


def _outcome(job: Job, request: Request, bar: Any, watch: Stopwatch | None, copy_outputs: bool = False) -> Outcome:
    callback, tolerance = request.callback, request.early_stopping
    settled = None if tolerance is None else EarlyStopping(tolerance).start()
    memory: Memory = {}
    rows = job.run.steps(
        job.model_maker(memory, watch),
        job.first_state(),
        watch.wrap("noise", job.noise.__call__) if watch else job.noise,
        memory,
        inspect=callback is not None or settled is not None,
        copy_outputs=copy_outputs,
        check_every_row=settled is not None,
    )
    batch, stopped = job.batch, False
    for reached in rows:
        if not reached.ends_step:
            continue
        bar.update(batch)
        ended = callback is not None and asks_to_stop(callback, view(job, reached, memory))
        if settled is not None:
            clean = reached.run.clean_sample(reached.state)
            stopped = settled.update(clean, reached.run.plan, reached.state.row)
        stopped = stopped or ended
        if stopped:
            break
    x = reached.state.x
    return _counted(job, reached, settled.result(x) if settled else x, stopped)


def _counted(job: Job, reached: Reached, samples: Tensor, stopped: bool) -> Outcome:
    """The samples with the steps and the calls that they took."""
    (run, state, found), planned = reached, job.run.planned
    steps = int(run.plan.step[state.row - 1]) + 1
    if found is None:
        calls, evaluations = run.plan.calls_before(state.row), sum(job.guidance.evaluations[: state.row])
    else:
        calls, evaluations = found.calls, found.evaluations
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
