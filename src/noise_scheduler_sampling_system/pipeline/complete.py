"""A job run to its end, with callback and early stopping; a run that is not finite is repeated with checks."""

from __future__ import annotations

import logging
from typing import Any

import torch

from ..guidance.evaluate import Memory
from ..running.faults import ModelStoppedError, OutputReusedError, StepControlError
from ..running.loop import PlannedRun, Reached
from ..running.noise_ahead import Ahead, drawn_ahead
from ..running.profiling import Stopwatch
from ..support.errors import NumericsError
from .checkpoint import Checkpoint
from .ending import Ending, Outcome, calls_made
from .job import Job
from .request import Request

__all__ = ["complete"]

logger = logging.getLogger(__name__)


def complete(
    job: Job, request: Request, bar: Any, watch: Stopwatch | None, checkpoint: Checkpoint | None = None
) -> Outcome:
    """Run a job to its end.

    Args:
        job: the batch.
        request: its callback and its early stopping.
        bar: a progress bar, or None.
        watch: measures the time inside model, guidance and noise.
        checkpoint: holds the state that the job goes on from, and keeps those that it reaches.

    Raises:
        ModelOutputError, NumericsError: something is not finite; a second run with checks says where.
    """
    try:
        try:
            return _outcome(job, request, bar, watch, checkpoint)
        except OutputReusedError:
            logger.info("the model returns the same memory at every call: starting again with copies")
            return _outcome(job, request, bar, watch, checkpoint, copy_outputs=True)
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


def _outcome(
    job: Job, request: Request, bar: Any, watch: Stopwatch | None, checkpoint: Checkpoint | None,
    copy_outputs: bool = False,
) -> Outcome:  # fmt: skip
    saved = None if checkpoint is None else checkpoint.begin(job)
    memory: Memory = {}
    if saved is None:
        state = job.first_state()
    else:
        state, memory = saved.placed(job)
    ending = Ending.of(job, request, memory)
    if state.row and isinstance(job.run, PlannedRun) and state.row == len(job.run.plan):  # a part that was done before
        if bar is not None:
            bar.update(job.run.plan.nfe)
        return ending.outcome(Reached(job.run, state))
    noise = drawn_ahead(job.noise, job.run, state.row, request.noise_ahead)
    try:
        rows = job.run.steps(
            job.model_maker(memory, watch),
            state,
            watch.wrap("noise", noise) if watch else noise,
            memory,
            inspect=ending.inspects,
            copy_outputs=copy_outputs,
            check_every_row=ending.settled is not None,
        )
        del state  # this frame would keep its memory
        counted = 0
        for reached in rows:
            if not reached.ends_step:
                continue
            if bar is not None:
                calls = calls_made(reached)
                bar.update(calls - counted)
                counted = calls
            if ending.is_due(reached):
                break
            if checkpoint is not None:
                checkpoint.reached(job, reached, memory)
    finally:
        if isinstance(noise, Ahead):
            noise.close()
    return ending.outcome(reached)
