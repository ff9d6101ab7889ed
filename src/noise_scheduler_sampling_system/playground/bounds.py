"""What a request to the page's server may be: a read, or JSON of the size that a page sends."""

from __future__ import annotations

import json
from typing import Final, final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["MOST_BYTES", "Bounds"]

#: The most bytes of the body of a request.
MOST_BYTES: Final = 64 * 1024
#: What the page may load: its own files only.
_POLICY: Final = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@final
class Bounds:
    """ASGI middleware that refuses other methods, bodies that are not JSON, and bodies that are too large.

    A page of another site cannot send JSON without asking first, and the server never agrees.
    It also tells the browser what the page may load.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = _problem(scope["method"], Headers(scope=scope))
        body = b""
        if problem is None and scope["method"] == "POST":
            body, too_large = await _read(receive)
            if too_large:
                problem = 413, f"the body is larger than {MOST_BYTES} bytes", "send less"
        if problem is not None:
            await _refuse(send, *problem)
            return
        await self._app(scope, _replay(body, receive), _with_policy(send))


def _problem(method: str, headers: Headers) -> tuple[int, str, str] | None:
    """The status, the message and the advice for a request that is refused."""
    if method not in ("GET", "HEAD", "POST"):
        return 405, "only GET and POST are answered", "send GET or POST"
    if method == "POST" and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return 415, "the body is not declared as JSON", "send JSON, with Content-Type: application/json"
    return None


async def _read(receive: Receive) -> tuple[bytes, bool]:
    """The body of a request, and whether it is too large; it is then read no further."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return b"", True
        if not message.get("more_body", False):
            return body, False


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receiver that gives the body first, and then what comes after it."""
    given = False

    async def receiver() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiver


def _with_policy(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = _POLICY
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
        await send(message)

    return sender


async def _refuse(send: Send, status: int, what: str, suggestion: str) -> None:
    told = {"category": "http", "what": what, "message": f"{what}: {suggestion}", "suggestion": suggestion}
    data = json.dumps({"error": told}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": data})
