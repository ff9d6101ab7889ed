"""Runs that stop before their end, and pipelines that take their states on: a base and its refiner.

``denoising_end`` cuts the list of timesteps wherever a number falls, also inside a step of several model calls, and
``denoising_start`` begins another list there, one call early where it takes the sampler for one of two calls. What the
second pipeline is given is a tensor. Its values tell which run it comes from, and so what that run remembers.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from ....support.errors import ConfigurationError
from .program import Call, Program

__all__ = ["STOPPED", "Run", "Stopped", "may_be_inside", "taken_on"]

#: How many runs that stopped before their end are remembered, the latest.
_KEPT = 8


def _nobody() -> None:
    """A reference to nothing."""


@final
class Run:
    """One run between two model calls.

    Attributes:
        program: what it follows; not the table's where it began in the middle.
        call: the model call to come.
        history: predictions that are still to be read.
        drawn: noises that are still to be read.
        handed: the state that was handed out, as a weak reference.
        state: its values.
    """

    __slots__ = ("call", "drawn", "handed", "history", "program", "state")

    def __init__(self, program: Program, call: int) -> None:
        self.program, self.call = program, call
        self.history: Mapping[int, Tensor] = {}
        self.drawn: dict[tuple[int, int], Tensor] = {}
        self.handed: Callable[[], Tensor | None] = _nobody
        self.state: Tensor | None = None


@final
class Stopped:
    """The latest runs of this process that are under way, or were given up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: deque[Run] = deque(maxlen=_KEPT)

    def add(self, run: Run) -> None:
        """A run that begins."""
        with self._lock:
            self._runs.append(run)

    def discard(self, run: Run) -> None:
        """A run that came to its end."""
        with self._lock:
            if run in self._runs:
                self._runs.remove(run)

    def with_state(self, sample: Tensor) -> Run | None:
        """The latest run whose state has these values, or whose samples, repeated, have."""
        with self._lock:
            runs = list(self._runs)
        for run in reversed(runs):
            state = run.state
            if state is None or state.shape[1:] != sample.shape[1:] or len(sample) % len(state):
                continue
            if torch.equal(_repeated(state.to(sample.device, sample.dtype), len(sample) // len(state)), sample):
                return run
        return None


#: Pipelines share no object but the tensor, and the first one may be gone.
STOPPED = Stopped()


def taken_on(run: Run, program: Program, call: int, batch: int) -> Run:
    """A run that goes on from where another one stopped, and is asked to begin at this call of a program.

    The calls before the one that is due are made in vain.

    Raises:
        ConfigurationError: the state is at no level where this program can begin.
    """
    due, theirs = run.call, run.program
    if due >= call and _goes_on(theirs, program, due):
        taken = Run(_idle(theirs, call, due), call)
        assert run.state is not None
        count = batch // len(run.state)
        taken.history = {row: _repeated(y, count) for row, y in run.history.items()}
        taken.drawn = {key: _repeated(noise, count) for key, noise in run.drawn.items()}
        return taken
    here = theirs.calls[due]
    inside = theirs.remembers[due] and theirs.step_of(due - 1) == theirs.step_of(due)
    for place in range(call, min(call + 3, len(program.calls))):
        other = program.calls[place]
        begins = place == 0 or program.step_of(place - 1) != program.step_of(place)
        if not inside and begins and _same_level(here, other):
            return Run(_idle(program.entered(place), call, place), call)
    raise ConfigurationError(
        f"the state was handed out by {theirs.plan.sampler!r} at t = {here.time:g}"
        + (", inside a step" if inside else "")
        + f", and the run of {program.plan.sampler!r} begins at t = {program.calls[call].time:g}",
        where="denoising_start",
        why="what is left of the run is to begin where the other one stopped",
        suggestion="give both pipelines the same method and num_inference_steps, and denoising_start=denoising_end",
    )


def may_be_inside(program: Program, call: int) -> bool:
    """Whether a state of which nothing is known, at this call, may come from the middle of a step."""
    step = program.step_of(call)
    return any(program.step_of(other) == step for other in (call - 1, call + 1) if 0 <= other < len(program.calls))


def _goes_on(theirs: Program, program: Program, due: int) -> bool:
    """Whether what is left of two programs is the same."""
    if len(theirs.calls) != len(program.calls) or theirs.config != program.config:
        return False
    mine, other = program.plan, theirs.plan
    if (mine.sampler, dict(mine.options)) != (other.sampler, dict(other.options)):
        return False
    return [_place(c) for c in theirs.calls[due:]] == [_place(c) for c in program.calls[due:]]


def _place(call: Call) -> tuple[float, float, float]:
    return call.time, call.alpha, call.sigma


def _same_level(a: Call, b: Call) -> bool:
    return abs(math.atan2(a.sigma, a.alpha) - math.atan2(b.sigma, b.alpha)) < 1e-6


def _idle(program: Program, begin: int, due: int) -> Program:
    """A program whose calls from one on to another are made in vain."""
    if begin == due:
        return program
    calls = [call._replace(row=-1) if begin <= i < due else call for i, call in enumerate(program.calls)]
    return replace(program, calls=tuple(calls))


def _repeated(x: Tensor, count: int) -> Tensor:
    return x if count == 1 else x.repeat(count, *[1] * (x.ndim - 1))
