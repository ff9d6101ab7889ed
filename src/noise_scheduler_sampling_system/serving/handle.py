"""A request as its owner sees it: result, steps, progress, cancellation."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, final

from torch import Tensor

from ..running.results import SamplingResult, SamplingStep
from ..support.errors import ConfigurationError, DeadlineError
from .ticket import Ticket

__all__ = ["RequestHandle"]


@final
class RequestHandle:
    """A request that a :class:`Batcher` took. All methods are thread-safe.

    ``await handle`` returns the result in asyncio, and ``async for step in handle`` the steps. A task that is cancelled
    while it awaits the handle cancels the request.
    """

    def __init__(self, ticket: Ticket, cancel: Callable[[Ticket], bool]) -> None:
        self._ticket, self._cancel = ticket, cancel

    @property
    def number(self) -> int:
        """The number of the request, in the order of submission."""
        return self._ticket.number

    @property
    def status(self) -> str:
        """ "queued", "running", "finished", "failed", "cancelled", "expired" or "handed_back"."""
        return self._ticket.status

    @property
    def progress(self) -> float:
        """The share of the steps that were made, from 0 to 1; for adaptive steps 0 until the end."""
        return self._ticket.progress

    def done(self) -> bool:
        """Whether the request ended, in any way."""
        return self._ticket.future.done()

    def result(self, timeout: float | None = None) -> Tensor | SamplingResult:
        """The samples, shape (B, ...), or a :class:`SamplingResult` with ``return_result=True``.

        Args:
            timeout: the most seconds to wait; None: until the request ends.

        Raises:
            DeadlineError: the request did not end within ``timeout``, and goes on; or its own deadline passed.
            StoppedError: it was cancelled, or handed back (with the states to go on from).
            ModelOutputError, NumericsError, ...: what ``sample`` would raise; exceptions of the model are unchanged.
        """
        result: Tensor | SamplingResult = self._within(self._ticket.future.result, timeout)
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error that the request ended with, or None; it waits as :meth:`result` does."""
        error: BaseException | None = self._within(self._ticket.future.exception, timeout)
        return error

    def cancel(self) -> bool:
        """End the request: it makes no further model call. False if it had ended before."""
        return self._cancel(self._ticket)

    def add_done_callback(self, function: Callable[[RequestHandle], object]) -> None:
        """Call ``function(handle)`` when the request ends, in the thread that ends it; at once if it has ended."""
        self._ticket.future.add_done_callback(lambda _: function(self))

    def steps(self) -> Iterator[SamplingStep]:
        """The steps as they end, each once. The iterator ends with the request, also where that fails.

        A request that was split has steps of each part: ``step.first_sample`` says which samples it has.

        Raises:
            ConfigurationError: the request was not submitted with ``stream=True``.
        """
        channel = self._channel()

        def each() -> Iterator[SamplingStep]:
            while (step := channel.get(self._late)) is not None:
                yield step

        return each()

    def __aiter__(self) -> AsyncIterator[SamplingStep]:
        channel = self._channel()

        async def each() -> AsyncIterator[SamplingStep]:
            while (step := await channel.aget(self._late)) is not None:
                yield step

        return each()

    def __await__(self) -> Generator[Any, None, Tensor | SamplingResult]:
        return self._result().__await__()

    async def _result(self) -> Tensor | SamplingResult:
        ended = asyncio.wrap_future(self._ticket.future)
        try:
            while not (await asyncio.wait({ended}, timeout=self._ticket.seconds_left))[0]:
                self._ticket.expire_if_due()
        except asyncio.CancelledError:
            ended.cancel()  # otherwise asyncio logs that nobody read the error
            self.cancel()
            raise
        return await ended

    def _channel(self) -> Any:
        if self._ticket.channel is None:
            raise ConfigurationError(
                "the request was submitted without them", where="steps", suggestion="give stream=True to submit"
            )
        return self._ticket.channel

    def _late(self) -> float | None:
        """The seconds until the deadline. At the deadline the request is ended, also where a model call hangs."""
        self._ticket.expire_if_due()
        return self._ticket.seconds_left

    def _within(self, wait: Callable[[float | None], Any], timeout: float | None) -> Any:
        """Wait, at most until the deadline or for ``timeout`` seconds."""
        left = self._ticket.seconds_left
        first = min((each for each in (left, timeout) if each is not None), default=None)
        try:
            return wait(first)
        except concurrent.futures.TimeoutError:
            self._ticket.expire_if_due()
            if self.done():  # the error is that of the request
                return wait(None)
            if timeout is None or (left is not None and left < timeout):
                return self._within(wait, timeout if timeout is None or left is None else timeout - left)
            raise DeadlineError(
                f"request {self.number} did not end within {timeout:g} s",
                where="result",
                why=f"it is {self.status}",
                suggestion="wait again, give a longer timeout, or cancel it",
            ) from None

    def __repr__(self) -> str:
        return f"<RequestHandle {self.number}: {self.status}>"
