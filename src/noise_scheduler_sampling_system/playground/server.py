"""The live page: a server on this machine that compiles plans and runs a model."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Collection, Generator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, final

from ..integrations.named_models import named_model
from ..support.errors import ConfigurationError, NoiseSamplingError, cut
from .build import data_script, page_files
from .catalog import digits_data, noise_data
from .request import PlanRequest, RunRequest, noise_request
from .studio import Studio

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["make_app", "serve"]

logger = logging.getLogger(__name__)

_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
#: Seconds that runs have to end when the server is stopped.
_GRACE: Final = 3


def make_app(model: str = "digits", *, prompt: Sequence[str] | None = None, hosts: Collection[str] = ()) -> FastAPI:
    """The server as an ASGI application.

    Args:
        model: "digits", which runs in the browser, or a name for :func:`.named_models.named_model`.
        prompt: texts for a pipeline of diffusers, one an image.
        hosts: names other than those of this machine by which the server may be addressed.

    Raises:
        ConfigurationError: no such model, or FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse, Response, StreamingResponse
    except ImportError:
        raise ConfigurationError(
            "fastapi is not installed",
            where="playground",
            suggestion="pip install 'noise-scheduler-sampling-system[playground]'",
        ) from None
    from ..serving.http.guard import LOOPBACK, Guard
    from .bounds import Bounds

    studio = Studio(named_model(model), prompt)
    app = FastAPI(title="Sampler playground", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Bounds)
    names = (f"[{name}]" if ":" in name and name[0] != "[" else name.lower() for name in hosts)
    app.add_middleware(Guard, hosts={*LOOPBACK, *names})  # added last, so it sees a request first

    def add_file(name: str, text: str) -> None:
        kind, content = f"{_TYPES[PurePosixPath(name).suffix]}; charset=utf-8", text.encode()

        def answer() -> Response:
            return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

        app.get("/" if name == "index.html" else f"/{name}")(answer)

    files = page_files()
    for name, text in files.items():
        add_file(name, text)
    add_file("data/catalog.js", data_script("catalog", studio.catalog()))
    add_file("data/digits.js", data_script("digits", digits_data()))

    def add_call(name: str, call: Callable[[Any], Any]) -> None:
        async def answer(request: Request) -> Response:
            try:
                return JSONResponse(await asyncio.to_thread(call, await _body(request)))
            except Exception as error:
                status, told = _told(error)
                return JSONResponse(told, status)

        # the annotation is a local name, which FastAPI could not resolve as a text
        answer.__annotations__ = {"request": Request, "return": None}
        app.post(f"/api/{name}", response_model=None)(answer)

    add_call("plan", lambda data: studio.plan(PlanRequest.of(data)))
    add_call("path", lambda data: studio.path(PlanRequest.of(data)))
    add_call("solution", lambda data: studio.solution(RunRequest.of(data)))
    add_call("noise", lambda data: noise_data(*noise_request(data)))

    async def run(request: Request) -> Response:
        try:
            frames = _Frames(studio.run(RunRequest.of(await _body(request))))
            first = await asyncio.to_thread(frames.next)  # an error before the first step has its own status
        except Exception as error:
            status, told = _told(error)
            return JSONResponse(told, status)
        return StreamingResponse(_lines(first, frames), media_type="application/x-ndjson")

    run.__annotations__ = {"request": Request, "return": None}
    app.post("/api/run", response_model=None)(run)
    return app


async def _body(request: Any) -> Any:
    try:
        return json.loads(await request.body(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"is not JSON: {cut(error, 100)}", where="request", suggestion="send one JSON object"
        ) from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


@final
class _Frames:
    """A run whose steps are made in worker threads, one at a time."""

    def __init__(self, frames: Generator[dict[str, Any], None, None]) -> None:
        self._frames, self._lock = frames, threading.Lock()

    def next(self) -> dict[str, Any] | None:
        """The next frame; None at the end."""
        with self._lock:
            return next(self._frames, None)

    def close(self) -> None:
        """End the run, after the step that is being made."""
        with self._lock:
            self._frames.close()


async def _lines(first: dict[str, Any] | None, frames: _Frames) -> AsyncIterator[bytes]:
    """A run as lines of JSON; an error of a later step is the last line. Where the browser leaves, the run ends."""
    frame = first
    try:
        while frame is not None:
            yield json.dumps(frame, allow_nan=False).encode() + b"\n"
            frame = await asyncio.to_thread(frames.next)
    except Exception as error:
        yield json.dumps(_told(error)[1]).encode() + b"\n"
    finally:
        asyncio.get_running_loop().run_in_executor(None, frames.close)  # not awaited: the step may take long


def _told(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of an error; one of the user's model is told by its kind and first line."""
    if isinstance(error, NoiseSamplingError):
        told = {"category": error.category, "message": str(error), "where": error.where, "suggestion": error.suggestion}
        return 422, {"error": told}
    logger.warning("a request failed", exc_info=error)
    first = (str(error).splitlines() or [""])[0]
    message = f"the model raised {type(error).__name__}: {cut(first, 300)}"
    return 422, {
        "error": {"category": "model", "message": message, "where": "model", "suggestion": "see the server's log"}
    }


def serve(
    model: str = "digits",
    *,
    prompt: Sequence[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8321,
    hosts: Collection[str] = (),
    started: Callable[[str], None] = print,
) -> None:
    """Serve the page until the process is told to stop (Ctrl-C or SIGTERM).

    Args:
        model, prompt: as for :func:`make_app`.
        host: the address to listen at.
        port: 0 chooses a free one.
        hosts: as for :func:`make_app`.
        started: is called with the page's address before the first request is answered.

    Raises:
        ConfigurationError: no such model, the address cannot be used, or uvicorn is not installed.
    """
    app = make_app(model, prompt=prompt, hosts=[*hosts, host])
    try:
        import uvicorn
    except ImportError:
        raise ConfigurationError(
            "uvicorn is not installed",
            where="playground",
            suggestion="pip install 'noise-scheduler-sampling-system[playground]'",
        ) from None
    listening = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    started(f"http://{shown}:{listening.getsockname()[1]}/")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=_GRACE
    )
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # a request that comes before the server is ready waits
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigurationError(
            f"{host}, port {port} cannot be used",
            where="port",
            why=getattr(error, "strerror", None) or str(error),
            suggestion="give another port, or 0 for a free one",
        ) from error
    return listening
