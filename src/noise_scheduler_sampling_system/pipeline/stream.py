"""A job as an iterator of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from ..guidance.evaluate import Memory
from ..running.callbacks import refuse_changes
from ..running.faults import ModelStoppedError
from ..running.loop import Noise, PlannedRun, Reached, RowState
from ..running.model_adapter import map_tensors
from ..running.noise_ahead import Ahead, drawn_ahead
from ..running.noise_keys import Keys
from ..running.results import RunState, SamplingStep
from ..support.errors import ModelOutputError
from .job import Job
from .step_view import view

__all__ = ["resumed", "steps_of"]


def steps_of(job: Job, resume: RunState | None = None, ahead: bool | None = None) -> Iterator[SamplingStep]:
    """Run a job step by step, from its start or from a stopped run; every step that is handed out is finite.

    ``ahead`` says whether noise is drawn ahead, as for :func:`.drawn_ahead`.
    """
    if resume is None:
        yield from _drawn(job, job.first_state(), {}, ahead)
        return
    job, state, memory = resumed(job, resume)
    if state.row == len(resume.plan) and isinstance(job.run, PlannedRun):  # the run is over: hand out its last step
        yield view(job, Reached(job.run, state), memory)
        return
    yield from _drawn(job, RowState(state.row, state.x, state.history), memory, ahead)


def _drawn(job: Job, state: RowState, memory: Memory, ahead: bool | None) -> Iterator[SamplingStep]:
    """The steps from a state on, with the noise that belongs to them."""
    noise = drawn_ahead(job.noise, job.run, state.row, ahead)
    try:
        yield from _steps(job, state, memory, noise)
    finally:
        if isinstance(noise, Ahead):
            noise.close()


def resumed(job: Job, saved: RunState) -> tuple[Job, RowState, Memory]:
    """The job with the noise of a stopped run, its state, and what its guidance remembers."""
    kept, memory = map_tensors(
        lambda y: y.to(job.noise.device, copy=True),  # the user's state must stay as it is
        (tuple(saved.state), saved.memory),
    )
    return replace(job, noise=replace(job.noise, keys=Keys.of(saved.keys))), RowState(*kept), memory


def _steps(job: Job, state: RowState, memory: Memory, noise: Noise) -> Iterator[SamplingStep]:
    with torch.no_grad():
        rows = job.run.steps(job.model_maker(memory), state, noise, memory, inspect=True, check_every_row=True)
    step = None
    while True:
        try:
            with torch.no_grad():  # not around the yield, where it would act on the caller's own work
                reached = next(rows, None)
        except ModelStoppedError as stopped:  # an iterator that raises StopIteration ends
            raise ModelOutputError(
                "the model raised StopIteration",
                where="the model call after " + ("the start" if step is None else f"step {step.index}"),
                suggestion="end a stream by leaving its loop, and let the model return a prediction",
            ) from stopped.error
        if reached is None:
            return
        if step is not None:  # a change after the last step is harmless
            refuse_changes(step, "stream")
        if reached.ends_step:
            step = view(job, reached, memory)
            yield step
