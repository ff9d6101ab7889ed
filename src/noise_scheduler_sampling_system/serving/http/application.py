"""The routes of the server: samples, health and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from functools import partial
from typing import Any, Final, final

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ...running.results import SamplingResult
from ...support.errors import ConfigurationError, DeadlineError, NoiseSamplingError, RefusedError, StoppedError
from ...support.version import __version__
from ..handle import RequestHandle
from .body import SampleBody, read_body
from .guard import LOOPBACK, Guard
from .measures import Measures
from .replies import Reply, error_reply, event, result_reply, step_fields
from .service import Service

__all__ = ["make_application"]

logger = logging.getLogger(__name__)

#: Seconds between the comments that keep a silent stream open.
_SILENCE: Final = 10.0


class _GoneError(Exception):
    """The client closed its connection."""


def make_application(service: Service, hosts: Collection[str] | None = LOOPBACK) -> FastAPI:
    """The application, ready for any ASGI server.

    Args:
        service: what is served; whoever runs the application closes its batcher.
        hosts: the names by which it may be addressed; None: any.
    """
    application = FastAPI(title="noise-sampling", version=__version__, docs_url=None, redoc_url=None)
    application.add_middleware(Guard, hosts=hosts)
    routes = _Routes(service)
    schema = {"requestBody": {"content": {"application/json": {"schema": SampleBody.model_json_schema()}}}}
    application.post("/v1/samples", openapi_extra=schema, response_model=None)(routes.samples)
    application.get("/health", response_model=None)(routes.health)
    application.get("/ready", response_model=None)(routes.ready)
    application.get("/metrics", response_model=None)(routes.metrics)
    application.get("/", response_model=None)(routes.about)

    @application.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        """An unknown path or method."""
        fields = {
            "category": "http",
            "what": str(error.detail),
            "where": f"{request.method} {request.url.path}"[:200],
            "why": "",
            "suggestion": "POST /v1/samples, or GET /, /health, /ready, /metrics or /openapi.json",
        }
        return _response(Reply.of({"error": fields}, error.status_code, error.headers))

    return application


@final
class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._measures = Measures(service.batcher)
        self._open = 0

    async def samples(self, request: Request) -> Response:
        """Generate samples."""
        began = time.monotonic()
        limits = self._service.limits
        self._open += 1
        handle: RequestHandle | None = None
        streams = False
        try:
            if self._open > limits.connections:
                raise RefusedError(
                    f"{limits.connections} requests are open", where="server", suggestion="try again later"
                )
            data = await asyncio.wait_for(_body(request, limits.body), limits.body_seconds)
            body = read_body(data, limits)
            handle = await asyncio.to_thread(self._service.submit, body)
            if body.stream:
                streams = True
                return _Stream(self._events(handle, body, began), partial(self._ended, handle))
            result = await _or_gone(handle, request)
            reply = await asyncio.to_thread(result_reply, self._service, result, body.format)
            self._measures.answered(reply.status, time.monotonic() - began)
            return _response(reply)
        except _GoneError:
            self._measures.answered(499)
            return Response(status_code=499)  # nobody reads it
        except asyncio.TimeoutError as error:
            late = error if isinstance(error, DeadlineError) else DeadlineError(
                f"did not arrive within {limits.body_seconds:g} s", where="body", suggestion="send it at once"
            )  # fmt: skip
            return await self._failed(late)
        except _TooLargeError as error:
            return await self._failed(error, status=413)
        except Exception as error:
            return await self._failed(error)
        finally:
            if not streams:
                self._ended(handle)

    async def health(self) -> Response:
        """Whether the process is alive."""
        return _response(Reply.of({"status": "ok"}))

    async def ready(self) -> Response:
        """Whether a request would be taken now."""
        now, limits = self._service.batcher.metrics(), self._service.limits
        is_ready = not self._service.batcher.closed and now.queued < limits.queue
        state = "ready" if is_ready else "closing" if self._service.batcher.closed else "full"
        return _response(Reply.of({"status": state, "queued": now.queued}, 200 if is_ready else 503))

    async def metrics(self) -> Response:
        """Metrics for Prometheus."""
        return Response(self._measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def about(self) -> Response:
        """What is served, and the limits."""
        model, limits = self._service.model, self._service.limits
        return _response(
            Reply.of(
                {
                    "model": model.name,
                    "shape": None if model.shape is None else list(model.shape),
                    "num_classes": model.num_classes,
                    "takes_prompts": model.pipe is not None,
                    "limits": {
                        "queue": limits.queue, "samples": limits.samples, "steps": limits.steps,
                        "numbers": limits.numbers, "body": limits.body, "seconds": limits.seconds,
                    },
                    "version": __version__,
                }
            )
        )  # fmt: skip

    async def _events(self, handle: RequestHandle, body: SampleBody, began: float) -> AsyncIterator[bytes]:
        """The steps of a request and its end as server-sent events; a client that leaves cancels it."""
        steps = handle.__aiter__()
        following: asyncio.Task[Any] | None = None
        try:
            yield event("queued", {"request": handle.number})
            following = asyncio.ensure_future(_next(steps))
            while True:
                done, _ = await asyncio.wait({following}, timeout=_SILENCE)
                if not done:
                    yield b": waiting\n\n"
                    continue
                step = following.result()
                if step is None:
                    break
                following = asyncio.ensure_future(_next(steps))
                yield event("step", await asyncio.to_thread(step_fields, self._service, step, body.previews))
            result = await handle
            assert isinstance(result, SamplingResult)
            reply = await asyncio.to_thread(result_reply, self._service, result, body.format)
            self._measures.answered(200, time.monotonic() - began)
            yield event("result", reply.as_data)
        except Exception as error:
            reply = await asyncio.to_thread(self._reply_of, error)
            self._measures.answered(reply.status)
            yield event("error", {**reply.as_data, "status": reply.status})
        finally:
            if following is not None:
                following.cancel()

    def _ended(self, handle: RequestHandle | None) -> None:
        self._open -= 1
        if handle is not None:
            handle.cancel()  # where the client or the server gave up; otherwise it has ended

    async def _failed(self, error: Exception, status: int | None = None) -> Response:
        reply = await asyncio.to_thread(self._reply_of, error)
        if status is not None:
            reply = Reply(status, reply.content, reply.kind, reply.headers)
        self._measures.answered(reply.status)
        return _response(reply)

    def _reply_of(self, error: Exception) -> Reply:
        if not isinstance(error, NoiseSamplingError):
            logger.error("a request failed", exc_info=error)
        resume = self._service.hand_back(error) if isinstance(error, StoppedError) else None
        return error_reply(error, closing=self._service.batcher.closed, resume=resume)


@final
class _Stream(StreamingResponse):
    """Server-sent events.

    Args:
        events: the content.
        ended: is called at the end, also where the client left before the first event.
    """

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class _TooLargeError(ConfigurationError):
    """A body beyond the limit."""


async def _body(request: Request, most: int) -> bytes:
    """The body, of at most this number of bytes.

    Raises:
        _TooLargeError: it is larger.
        _GoneError: the client left before its end.
    """
    parts, size = [], 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _TooLargeError(
                f"has more than {most} bytes", where="body", suggestion="send less, or raise the limit of the server"
            )
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _or_gone(handle: RequestHandle, request: Request) -> SamplingResult:
    """The result.

    Raises:
        _GoneError: the client closed its connection first.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    waits = [asyncio.ensure_future(_result(handle)), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not waits[0].done():
            raise _GoneError
        result = waits[0].result()
        assert isinstance(result, SamplingResult)
        return result
    finally:
        for each in waits:
            each.cancel()


async def _result(handle: RequestHandle) -> Any:
    return await handle


async def _next(steps: AsyncIterator[Any]) -> Any:
    """The next step, or None after the last one."""
    return await anext(steps, None)


def _response(reply: Reply) -> Response:
    return Response(reply.content, reply.status, dict(reply.headers), reply.kind)
