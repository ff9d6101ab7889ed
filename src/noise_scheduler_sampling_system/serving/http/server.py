"""The process that serves: uvicorn, with an end that finishes or hands back what runs."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Final, final

import uvicorn

from .application import make_application
from .guard import LOOPBACK, is_loopback
from .service import Service

__all__ = ["run_server"]

logger = logging.getLogger(__name__)

#: Seconds to wait for a model call that does not return.
_PATIENCE: Final = 10.0
#: Seconds for the answers of requests that were handed back.
_ANSWERS: Final = 20


@final
class _Server(uvicorn.Server):
    """A server that closes its batcher when it is told to stop, so that no request is cut off."""

    def __init__(self, config: uvicorn.Config, service: Service, grace: float) -> None:
        super().__init__(config)
        self._service, self._grace = service, grace

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        logger.info("stopping: requests have %g s to end", self._grace)
        threading.Thread(
            target=self._service.batcher.close,
            kwargs={"timeout": self._grace, "patience": _PATIENCE},
            name="closing",
            daemon=True,
        ).start()
        super().handle_exit(sig, frame)


def run_server(service: Service, host: str, port: int, *, grace: float) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        service: what is served.
        host, port: where; port 0 chooses a free one, which is printed.
        grace: seconds in which the requests may end after the signal. The others are handed back.
    """
    config = uvicorn.Config(
        make_application(service, LOOPBACK if is_loopback(host) else None),
        host=host,
        port=port,
        log_level="info",
        access_log=False,
        timeout_graceful_shutdown=int(grace) + _ANSWERS,
        server_header=False,
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again after its end, which was a graceful one
        signal.signal(number, lambda *_: None)
    try:
        _Server(config, service, grace).run()
    finally:
        service.batcher.close(finish=False, patience=_PATIENCE)
