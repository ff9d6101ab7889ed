"""Runs that stop before their end, and pipelines that continue from their states: a base and its refiner.

``denoising_end`` cuts the list of timesteps at any number, also inside a step of several model calls.
``denoising_start`` begins another list there, one call early where it takes the sampler for one with two calls a step.
The second pipeline receives a tensor. The values of the tensor tell which run it comes from, and so the predictions
that this run stores.
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
from .call_plan import CallPlan, ModelCall
from .mid_run_entry import entered_at

__all__ = ["UNFINISHED", "SchedulerRun", "UnfinishedRuns", "may_be_inside_a_step", "resumed"]

#: The number of runs that are kept, the latest.
_KEPT = 8


def _no_tensor() -> None:
    """A weak reference whose tensor is gone."""


@final
class SchedulerRun:
    """One run of a scheduler between two model calls.

    Attributes:
        plan: the plan of the run. It differs from that of its list of timesteps if the run began in the middle.
        call: the number of the next model call.
        history: predictions that later rows read.
        drawn: noises that later rows read.
        handed: weak reference to the state that ``step`` returned.
        state: the values of that state.
    """

    __slots__ = ("call", "drawn", "handed", "history", "plan", "state")

    def __init__(self, plan: CallPlan, call: int) -> None:
        self.plan, self.call = plan, call
        self.history: Mapping[int, Tensor] = {}
        self.drawn: dict[tuple[int, int], Tensor] = {}
        self.handed: Callable[[], Tensor | None] = _no_tensor
        self.state: Tensor | None = None


@final
class UnfinishedRuns:
    """The latest runs of this process that have begun and not ended. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: deque[SchedulerRun] = deque(maxlen=_KEPT)

    def add(self, run: SchedulerRun) -> None:
        """Add a run that begins."""
        with self._lock:
            self._runs.append(run)

    def discard(self, run: SchedulerRun) -> None:
        """Remove a run that has ended."""
        with self._lock:
            if run in self._runs:
                self._runs.remove(run)

    def with_state(self, sample: Tensor) -> SchedulerRun | None:
        """The latest run whose state has these values, or has them when its samples are repeated."""
        with self._lock:
            runs = list(self._runs)
        for run in reversed(runs):
            state = run.state
            if state is None or state.shape[1:] != sample.shape[1:] or len(sample) % len(state):
                continue
            if torch.equal(_repeated(state.to(sample.device, sample.dtype), len(sample) // len(state)), sample):
                return run
        return None


#: The two pipelines share only the tensor, and the first one may be deleted: so the runs are kept here.
UNFINISHED = UnfinishedRuns()


def resumed(run: SchedulerRun, plan: CallPlan, call: int, batch: int) -> SchedulerRun:
    """A new run that continues an unfinished one.

    Where the new list of timesteps begins early, the outputs of its first calls are not used.

    Args:
        run: the unfinished run.
        plan: the plan of the new list of timesteps.
        call: the call of that plan at which the pipeline begins.
        batch: the number of samples.

    Raises:
        ConfigurationError: the state is not at a level where this plan can begin.
    """
    due, before = run.call, run.plan
    if due >= call and _same_rest(before, plan, due):
        taken = SchedulerRun(_unused_calls(before, call, due), call)
        assert run.state is not None
        count = batch // len(run.state)
        taken.history = {row: _repeated(y, count) for row, y in run.history.items()}
        taken.drawn = {key: _repeated(noise, count) for key, noise in run.drawn.items()}
        return taken
    here = before.calls[due]
    inside = before.reads_past[due] and before.step_of(due - 1) == before.step_of(due)
    for place in range(call, min(call + 3, len(plan.calls))):
        begins = place == 0 or plan.step_of(place - 1) != plan.step_of(place)
        if not inside and begins and _same_level(here, plan.calls[place]):
            return SchedulerRun(_unused_calls(entered_at(plan, place), call, place), call)
    raise ConfigurationError(
        f"the state was handed out by {before.plan.sampler!r} at t = {here.time:g}"
        + (", inside a step" if inside else "")
        + f", and the run of {plan.plan.sampler!r} begins at t = {plan.calls[call].time:g}",
        where="denoising_start",
        why="the second run must begin where the first one stopped",
        suggestion="give both pipelines the same method and num_inference_steps, and denoising_start=denoising_end",
    )


def may_be_inside_a_step(plan: CallPlan, call: int) -> bool:
    """Whether an unknown state at this call may come from the middle of a step."""
    step = plan.step_of(call)
    return any(plan.step_of(other) == step for other in (call - 1, call + 1) if 0 <= other < len(plan.calls))


def _same_rest(a: CallPlan, b: CallPlan, call: int) -> bool:
    """Whether two plans are the same from this call on."""
    if len(a.calls) != len(b.calls) or a.config != b.config:
        return False
    if (a.plan.sampler, dict(a.plan.options)) != (b.plan.sampler, dict(b.plan.options)):
        return False
    return [_place(c) for c in a.calls[call:]] == [_place(c) for c in b.calls[call:]]


def _place(call: ModelCall) -> tuple[float, float, float]:
    return call.time, call.alpha, call.sigma


def _same_level(a: ModelCall, b: ModelCall) -> bool:
    return abs(math.atan2(a.sigma, a.alpha) - math.atan2(b.sigma, b.alpha)) < 1e-6


def _unused_calls(plan: CallPlan, begin: int, end: int) -> CallPlan:
    """The plan with the outputs of the calls ``begin`` to ``end`` − 1 left unused."""
    if begin == end:
        return plan
    calls = [call._replace(row=-1) if begin <= i < end else call for i, call in enumerate(plan.calls)]
    return replace(plan, calls=tuple(calls))


def _repeated(x: Tensor, count: int) -> Tensor:
    return x if count == 1 else x.repeat(count, *[1] * (x.ndim - 1))
