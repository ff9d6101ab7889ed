"""A request inside the batcher: its place in the queue, the samples that run, and those that are finished."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import final

import torch
from torch import Tensor

from ..guidance.evaluate import Memory
from ..pipeline.ending import Outcome
from ..pipeline.execute import result_of
from ..pipeline.job import Job
from ..pipeline.request import Request
from ..running.loop import PlannedRun, RowState
from ..running.results import RunState, SamplingResult, SamplingStep
from ..support.errors import DeadlineError, StoppedError
from .metrics import Meter
from .parts import Part, PlannedPart
from .questions import sharing_key
from .steps_channel import StepsChannel
from .threaded_part import ThreadedPart

__all__ = ["Ticket"]

#: A request is treated as if it had come this number of seconds earlier for each unit of its priority.
_SECONDS_OF_A_PRIORITY = 10.0
_NUMBERS = itertools.count()


@final
class Ticket:
    """A request in the batcher. Only the batcher's thread makes and runs its parts; any thread may settle it.

    Args:
        job: of all samples.
        request: the arguments.
        meter: counts the end.
        start, memory: the state to go on from, for a run that is resumed.
        priority: higher comes first.
        deadline: seconds from now until the request expires.
        stream: whether its steps are read.

    Attributes:
        number: in the order of submission.
        order: requests start in this order. A request is overtaken only by those that come within a fixed time after
            it, so each one starts.
        group: requests of one group share model calls.
        future: gets the result.
        channel: gets the steps; None without ``stream``.
        parts: samples that run.
        status: see :class:`RequestHandle`.
    """

    def __init__(
        self,
        job: Job,
        request: Request,
        meter: Meter,
        *,
        start: RowState | None = None,
        memory: Memory | None = None,
        priority: float = 0.0,
        deadline: float | None = None,
        stream: bool = False,
    ) -> None:
        self.job, self.request, self._meter = job, request, meter
        self._start, self._memory = start, memory
        self.submitted = time.monotonic()
        self.number = next(_NUMBERS)
        self.order = (self.submitted - priority * _SECONDS_OF_A_PRIORITY, self.number)
        self._deadline = deadline
        self.future: Future[Tensor | SamplingResult] = Future()
        self.future.set_running_or_notify_cancel()  # it is settled here alone
        self.channel = StepsChannel() if stream else None
        self.parts: list[Part] = []
        self.status = "queued"
        self.waited = 0.0
        self._settling = threading.Lock()
        self._finished: list[tuple[int, Outcome]] = []
        self._begun = 0
        self._steps_made = 0
        self._keys = _keys(job)
        self.group = frozenset(self._keys.values())
        #: The rows of a model call that a sample takes.
        self.rows_of_a_sample = max((len(row.evaluated) for row in job.guidance.rows if row is not None), default=1)

    @property
    def left(self) -> int:
        """The number of samples that did not start."""
        return self.job.batch - self._begun

    @property
    def is_divisible(self) -> bool:
        """Whether its samples may start one by one: those of adaptive steps share them, and a state is whole."""
        return self._start is None and isinstance(self.job.run, PlannedRun)

    @property
    def is_settled(self) -> bool:
        return self.status not in ("queued", "running")

    @property
    def progress(self) -> float:
        if self.status == "finished":
            return 1.0
        total = self.job.batch * self.job.run.plan.steps
        return min(self._steps_made / total, 1.0) if self.job.run.planned and total else 0.0

    def begin(self, count: int) -> Part:
        """Make a part of the next samples."""
        if self.status == "queued":
            self.waited = time.monotonic() - self.submitted
            with self._settling:
                self.status = "running" if self.status == "queued" else self.status
        part = self._part(self._begun, self._begun + count)
        self._begun += count
        self.parts.append(part)
        return part

    def _part(self, start: int, stop: int) -> Part:
        job, streams = self.job.part(start, stop), self.channel is not None
        if not isinstance(job.run, PlannedRun):
            return ThreadedPart(job, self.request, self._on_step, inspects=streams)
        return PlannedPart(
            job, self.request, self._on_step, self._keys,
            start=self._start, memory=self._memory, inspects=streams,
        )  # fmt: skip

    def _on_step(self, part: Part, step: Callable[[], SamplingStep]) -> None:
        self._steps_made += part.job.batch
        if self.channel is not None and not self.is_settled:
            self.channel.put(step())

    def end_part(self, part: Part) -> bool:
        """Take the samples of a part that is finished; True if it was the last one, which settles the request."""
        assert part.outcome is not None
        self.parts.remove(part)
        self._finished.append((part.job.first, part.outcome))
        if self.left or self.parts:
            return False
        outcomes = [outcome for _, outcome in sorted(self._finished, key=lambda each: each[0])]
        samples = outcomes[0].samples if len(outcomes) == 1 else torch.cat([each.samples for each in outcomes])
        return self._settle(
            "finished", result_of(self.job, outcomes, samples) if self.request.return_result else samples
        )

    def fail(self, error: BaseException) -> bool:
        """End the request with an error of its run; False if it had ended before."""
        return self._settle("failed", error)

    def cancel(self) -> bool:
        """End the request for its owner; False if it had ended before."""
        error = StoppedError(
            f"request {self.number} was cancelled", where="request", suggestion="submit it again to have its samples"
        )
        return self._settle("cancelled", error)

    @property
    def seconds_left(self) -> float | None:
        """The seconds until the deadline, at least 0; None without one."""
        return None if self._deadline is None else max(self.submitted + self._deadline - time.monotonic(), 0.0)

    def expire_if_due(self) -> bool:
        """End the request if its deadline has passed; True if this call ended it."""
        if self.seconds_left != 0.0:
            return False
        error = DeadlineError(
            f"request {self.number} did not end within its {self._deadline:g} s",
            where="deadline",
            why=f"it had made {self.progress:.0%} of its steps",
            suggestion="give a longer deadline or fewer steps, or try again when the queue is shorter",
        )
        return self._settle("expired", error)

    def hand_back(self) -> bool:
        """End the request with the states to go on from; False if it had ended before."""
        states = [] if self.is_settled else self._states()
        error = StoppedError(
            f"request {self.number} was stopped after {self.progress:.0%} of its steps",
            where="request",
            why="the batcher was closed",
            suggestion="go on from each of error.states, by submit(resume=state) or stream(resume=state), on the same "
            "pipeline, model and guidance" if states else "submit it again; a run with adaptive steps starts anew",
        )  # fmt: skip
        error.states = tuple(states)
        return self._settle("handed_back", error)

    def _states(self) -> list[RunState]:
        """The state of each part, in the order of the samples; those that did not start are at row 0."""
        if not isinstance(self.job.run, PlannedRun):
            return []
        parts = [(part.job.first, part.state()) for part in self.parts]
        if self.left:
            rest = self._part(self._begun, self.job.batch)
            parts.append((rest.job.first, rest.state()))
        for first, outcome in self._finished:
            count, plan = len(outcome.samples), self.job.run.plan
            done = PlannedPart(
                self.job.part(first - self.job.first, first - self.job.first + count), self.request, self._on_step,
                self._keys, start=RowState(len(plan), outcome.samples, {}),
            )  # fmt: skip
            parts.append((first, done.state()))
        return [state for _, state in sorted(parts, key=lambda each: each[0]) if state is not None]

    def _settle(self, status: str, result: Tensor | SamplingResult | BaseException) -> bool:
        with self._settling:
            if self.is_settled:
                return False
            self.status = status
        # before the result, so that whoever has it finds it counted
        self._meter.ended(status, time.monotonic() - self.submitted, self.waited)
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)
        if self.channel is not None:
            self.channel.end()
        return True


def _keys(job: Job) -> dict[int, Hashable]:
    """What the questions of each branch must share with others, by the branch's number."""
    evaluated = {i for row in set(job.guidance.rows) if row is not None for i in row.evaluated}
    return {
        i: sharing_key(
            *job.guidance.branches[i],
            job.noise.shape,
            job.calls.dtype_of(job.guidance.branches[i][0]),
            job.noise.device,
            job.run.plan.time.shape[1:],
        )
        for i in sorted(evaluated)
    }
