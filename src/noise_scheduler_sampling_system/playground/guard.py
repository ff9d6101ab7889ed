"""Which requests the server answers: those of a page of this machine, and of a size that a page sends."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final, final

__all__ = ["MOST_BYTES", "Guard"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

#: The most bytes of the body of a request.
MOST_BYTES: Final = 64 * 1024
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
#: What the page may load: its own files only.
_POLICY: Final = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@final
class Guard:
    """ASGI middleware that refuses requests of other pages.

    A page of another site can make a browser send requests to this machine. Such a request names the other site as
    its host (DNS rebinding) or as its origin. JSON cannot be sent from there without asking first, and the server
    never agrees; so a body must be said to be JSON.

    Args:
        app: the application.
        hosts: further names that the server may be addressed by.
    """

    def __init__(self, app: Any, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset({*_LOOPBACK, *(f"[{h}]" if ":" in h and h[0] != "[" else h.lower() for h in hosts)})

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._problem(scope["method"], headers)
        body = b""
        if problem is None and scope["method"] == "POST":
            body, too_large = await _read(receive)
            if too_large:
                problem = 413, f"the body is larger than {MOST_BYTES} bytes"
        if problem is not None:
            await _refuse(send, *problem)
            return
        await self._app(scope, _replay(body, receive), _with_policy(send))

    def _problem(self, method: str, headers: MutableMapping[str, str]) -> tuple[int, str] | None:
        """The status and the message for a request that is refused."""
        if _name(headers.get("host", "")) not in self._hosts:
            return 421, "this host is not served; noise-sampling playground --allow-host NAME allows a name"
        origin = headers.get("origin")
        if origin is not None and _name(origin.partition("://")[2]) not in self._hosts:
            return 403, "a page of another site may not use this server"
        if method == "POST" and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "send JSON, with Content-Type: application/json"
        if method not in ("GET", "HEAD", "POST"):
            return 405, "only GET and POST are answered"
        return None


def _name(host: str) -> str:
    """A host without its port."""
    lowered = host.lower()
    if lowered.startswith("["):
        return lowered.partition("]")[0] + "]"
    return lowered.partition(":")[0]


async def _read(receive: _Receive) -> tuple[bytes, bool]:
    """The body of a request, and whether it is too large; it is then read no further."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return b"", True
        if not message.get("more_body", False):
            return body, False


def _replay(body: bytes, receive: _Receive) -> _Receive:
    """A receiver that gives the body first, and then what comes after it."""
    given = False

    async def receiver() -> _Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiver


def _with_policy(send: _Send) -> _Send:
    async def sender(message: _Message) -> None:
        if message["type"] == "http.response.start":
            more = {
                b"content-security-policy": _POLICY.encode(),
                b"x-content-type-options": b"nosniff",
                b"referrer-policy": b"no-referrer",
            }
            message = {**message, "headers": [*message.get("headers", ()), *more.items()]}
        await send(message)

    return sender


async def _refuse(send: _Send, status: int, message: str) -> None:
    data = json.dumps({"error": {"category": "request", "message": message}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": data})
