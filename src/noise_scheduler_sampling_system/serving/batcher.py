"""One batch for many requests, each at a row of its own plan."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import weakref
from bisect import insort
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor

from ..pipeline.pipeline import DiffusionPipeline
from ..support.argument_checks import checked_count, checked_flag
from ..support.errors import RefusedError, StoppedError, shown
from .calls import Answer, Calls
from .handle import RequestHandle
from .intake import Intake, checked_seconds
from .metrics import BatcherMetrics, Meter
from .parts import Part
from .questions import Question
from .ticket import Ticket

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .keyword_types import SubmitKeywords

__all__ = ["Batcher"]

logger = logging.getLogger(__name__)

#: The thread ends after this number of seconds without work; the next request starts another one.
_IDLE_SECONDS: Final = 1.0
#: Requests that cannot share calls run at the same time up to this number of groups.
_MOST_GROUPS: Final = 4
#: Seconds that the end of the program waits for a model call.
_PATIENCE: Final = 10.0
_OPEN: weakref.WeakSet[Batcher] = weakref.WeakSet()


@final
class Batcher:
    """Runs many requests at once, in shared model calls.

    One batch holds samples at different steps, of different plans, lengths, samplers, guidance and conditions. Each
    request advances by its own plan with its own noise, so its samples are those of :meth:`DiffusionPipeline.sample`:
    bit for bit with a network whose output for a sample does not depend on the rest of the batch, and to the rounding
    of the network otherwise. New requests join at the next model call. A request starts sample by sample as rows of the
    batch get free, so it may be larger than the batch.

    Requests share calls if they have the same network, shape of a sample, type, and kind of condition. A request whose
    model raises or returns NaN fails alone.

    Args:
        served: a pipeline, or a model, which then runs with the ``pipeline`` of each request (default:
            ``DiffusionPipeline()``).
        max_batch_size: the most rows of a model call. A sample takes a row for each branch: two under classifier-free
            guidance.
        model: the model of requests that bring none.
        max_queue: the most requests that wait; further ones are refused.
        deadline: the seconds that a request has from its submission, unless it brings its own; None: any time.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    def __init__(
        self,
        served: DiffusionPipeline | Callable[..., Any],
        max_batch_size: int = 16,
        *,
        model: Callable[..., Any] | None = None,
        max_queue: int = 1024,
        deadline: float | None = None,
    ) -> None:
        self._intake = Intake.of(served, model, checked_seconds(deadline))
        self._most = checked_count(max_batch_size, "max_batch_size", most=2**31)
        self._max_queue = checked_count(max_queue, "max_queue", most=2**31)
        self._meter = Meter()
        self._calls = Calls(self._most, self._meter)
        self._changed = threading.Condition()
        self._queue: list[tuple[tuple[float, int], Ticket]] = []
        self._running: list[tuple[Part, Ticket]] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self._hands_back = False
        _OPEN.add(self)

    def submit(self, **arguments: Unpack[SubmitKeywords]) -> RequestHandle:
        """Queue a request. It returns at once; the handle waits for the samples.

        Args:
            pipeline: the noise schedule, the sampler and the settings; default: the batcher's.
            priority: a request is treated as if it had come 10 seconds earlier for each unit. None waits for ever.
            deadline: seconds from now; a request that has not ended then ends with a DeadlineError.
            stream: keep the steps for ``handle.steps()``.
            resume: a stopped run to go on from, as for :meth:`DiffusionPipeline.stream`.

        The other keywords are those of :meth:`DiffusionPipeline.sample`, by name. ``callback`` is called in the
        batcher's thread, where all requests wait for it.

        Raises:
            ConfigurationError: an argument that cannot work. Nothing is queued then.
            RefusedError: the queue is full, or the batcher is closed.
        """
        self._refuse()  # before the work of preparing it
        ticket = self._intake.ticket(arguments, self._meter)
        with self._changed:
            self._refuse()
            insort(self._queue, (ticket.order, ticket))
            self._meter.count("submitted")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return RequestHandle(ticket, self._cancel)

    async def asubmit(self, **arguments: Unpack[SubmitKeywords]) -> RequestHandle:
        """:meth:`submit` for asyncio: the request is prepared in another thread. ``await handle`` for the samples."""
        return await asyncio.to_thread(self.submit, **arguments)

    def metrics(self) -> BatcherMetrics:
        """Counts of requests and model calls, the occupancy of the batch, and percentiles of latency."""
        with self._changed:
            queued = sum(ticket.status == "queued" for _, ticket in self._queue)
            running = len({ticket.number for _, ticket in self._running if not ticket.is_settled})
            most = self._calls.most
        return self._meter.snapshot(queued=queued, running=running, max_batch_size=most)

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._closed

    def close(self, finish: bool = True, timeout: float | None = None, patience: float | None = None) -> None:
        """Take no new requests, and end the others. A closed batcher stays closed.

        Args:
            finish: run what was taken to its end. False hands it back at the next model call: the requests end with a
                StoppedError, whose ``states`` go on with ``resume=``.
            timeout: hand back what has not ended after this number of seconds.
            patience: the most seconds to wait for a model call that is under way then. After them the requests end
                without states, and the call is left to itself. None: until it returns.

        Raises:
            ConfigurationError: a number of seconds that is not positive.
        """
        seconds, patient = checked_seconds(timeout, "timeout"), checked_seconds(patience, "patience")
        with self._changed:
            self._closed = True
            self._hands_back |= not checked_flag(finish, "finish")
            self._changed.notify_all()
            if not self._hands_back and self._changed.wait_for(lambda: self._thread is None, seconds):
                return
            self._hands_back = True
            if self._changed.wait_for(lambda: self._thread is None, patient):
                return
        self._fail_all("a model call did not return")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(finish=error is None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close, error is None)

    def _refuse(self) -> None:
        """Raise where no request can be taken now."""
        if self._closed:
            self._meter.count("refused")
            raise RefusedError("the batcher is closed", where="submit", suggestion="make another Batcher")
        if len(self._queue) >= self._max_queue:
            self._meter.count("refused")
            raise RefusedError(
                f"the queue is full: {self._max_queue} requests wait",
                where="submit",
                suggestion="try again later, or give a larger max_queue",
            )

    def _cancel(self, ticket: Ticket) -> bool:
        ended = ticket.cancel()
        with self._changed:  # its place in the queue is free at once
            self._queue = [entry for entry in self._queue if entry[1] is not ticket]
        return ended

    def _work(self) -> None:
        """The thread: admit requests, and make one row of each, until there is nothing to do."""
        try:
            with torch.no_grad():
                while self._admit():
                    self._round()
        except BaseException as error:
            logger.exception("the batcher's thread stopped")
            self._fail_all(f"the batcher's thread raised {shown(error)}")

    def _admit(self) -> bool:
        """Wait for work, and start as many samples as there is room for; False if the thread is to end."""
        with self._changed:
            tickets, hands_back = self._tickets(), self._hands_back
        for ticket in tickets:  # without the lock: what owners want to be told of runs here
            ticket.expire_if_due()
            if hands_back:
                ticket.hand_back()
        with self._changed:
            self._drop()
            if not (self._queue or self._running):
                self._changed.wait_for(lambda: self._queue or self._closed, _IDLE_SECONDS)
            if not (self._queue or self._running):
                self._thread = None
                self._changed.notify_all()
                return False
            self._start()
            return True

    def _tickets(self) -> list[Ticket]:
        """The requests that run or wait; the lock is held."""
        return list({ticket.number: ticket for _, ticket in (*self._running, *self._queue)}.values())

    def _drop(self) -> None:
        """Remove what ended: by its owner, by its deadline, or with an error. The lock is held."""
        for part, ticket in self._running:
            if ticket.is_settled:
                part.abandon()
        self._running = [entry for entry in self._running if not entry[1].is_settled]
        self._queue = [entry for entry in self._queue if not entry[1].is_settled]

    def _start(self) -> None:
        """Start samples in the order of the queue, where their group has room. The lock is held."""
        used: dict[Hashable, int] = {}
        for part, ticket in self._running:
            used[ticket.group] = used.get(ticket.group, 0) + part.job.batch * ticket.rows_of_a_sample
        waiting, full = [], set[Hashable]()
        for place, (order, ticket) in enumerate(self._queue):
            if ticket.group not in used and len(used) >= _MOST_GROUPS:
                waiting += self._queue[place:]  # none behind it starts, so a group will end
                break
            taken, rows = used.get(ticket.group, 0), ticket.rows_of_a_sample
            room = (self._calls.most - taken) // rows
            count = min(room, ticket.left) if ticket.is_divisible else ticket.left if room >= ticket.left else 0
            if not taken and count <= 0:  # it never fits: it runs alone, in several calls
                count = 1 if ticket.is_divisible else ticket.left
            if ticket.group in full or count <= 0:
                full.add(ticket.group)  # those behind it do not overtake it
                waiting.append((order, ticket))
                continue
            self._running.append((ticket.begin(count), ticket))
            used[ticket.group] = taken + count * rows
            if ticket.left:
                full.add(ticket.group)
                waiting.append((order, ticket))
        self._queue = waiting

    def _round(self) -> None:
        """One row of every request that runs: all questions, their answers, and the steps."""
        asking = [(part, ticket, self._questions(part, ticket)) for part, ticket in self._running]
        answers = iter(self._calls.answers([each for *_, questions in asking for each in questions]))
        for part, ticket, questions in asking:
            self._advance(part, ticket, questions, [next(answers) for _ in questions])
        if any(part.outcome is not None for part, _ in self._running):
            with self._changed:
                self._running = [entry for entry in self._running if entry[0].outcome is None]

    def _questions(self, part: Part, ticket: Ticket) -> list[Question]:
        try:
            return part.questions()
        except Exception as error:
            ticket.fail(error)
            return []

    def _advance(self, part: Part, ticket: Ticket, questions: list[Question], answers: list[Answer]) -> None:
        """One row of a part, from the answers to its questions."""
        if ticket.is_settled:
            return
        try:
            outputs = [_output(answer) for answer in answers]
            if questions:
                part.answer(questions, outputs)
            if part.outcome is not None:
                ticket.end_part(part)
        except Exception as error:
            ticket.fail(error)

    def _fail_all(self, why: str) -> None:
        """End every request, where the thread cannot go on."""
        stopped = StoppedError(
            "the batcher stopped", where="batcher", why=why, suggestion="submit the request again"
        )  # fmt: skip
        with self._changed:
            tickets, running = self._tickets(), self._running
            self._queue, self._running = [], []
            self._thread = None  # with the same hold of the lock: a request that comes now starts a new one
        for part, _ in running:
            part.abandon()
        for ticket in tickets:
            ticket.fail(stopped)
        with self._changed:
            self._changed.notify_all()

    def __repr__(self) -> str:
        return f"<Batcher of {self._intake.pipeline!r}, max_batch_size={self._most}, {len(self._queue)} queued>"


def _output(answer: Answer) -> Tensor:
    if isinstance(answer, Exception):
        raise answer
    return answer


@atexit.register
def _close_all() -> None:
    """Stop the threads before the interpreter does, which would end them within a call of PyTorch."""
    for batcher in list(_OPEN):
        batcher.close(finish=False, patience=_PATIENCE)
