"""Which requests are answered: those that name this server, and do not come from a page of another site."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final, final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["LOOPBACK", "Guard", "is_loopback"]

#: The names of this machine for itself.
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at this address."""
    return host in LOOPBACK or f"[{host}]" in LOOPBACK


@final
class Guard:
    """ASGI middleware against pages of other sites, which can make a browser send requests to this machine.

    Such a request names the other site as its host (DNS rebinding) or as its origin.

    Args:
        app: the application.
        hosts: the names by which the server may be addressed; None: any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        problem = self._problem(Headers(scope=scope)) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
            return
        status, what = problem
        fields = {
            "category": "http", "what": what, "where": "headers", "why": "a page of another site may have sent it",
            "suggestion": "address the server by its own name, and not from a page of another site",
        }  # fmt: skip
        data = json.dumps({"error": fields}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": data})

    def _problem(self, headers: Headers) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and _name(host) not in self._hosts:
            return 421, "the host of the request is not this server"
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, "the origin of the request is another site"
        return None


def _name(host: str) -> str:
    """A host without its port."""
    lowered = host.lower()
    return lowered.partition("]")[0] + "]" if lowered.startswith("[") else lowered.partition(":")[0]
