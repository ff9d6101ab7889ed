"""What one request over HTTP may demand, and how many requests may wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ...support.argument_checks import checked_count, checked_number

__all__ = ["Limits"]

_MOST = 1 << 40


@final
@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
        batch: the most rows of a model call.
        queue: the most requests that wait.
        samples: the most samples of a request.
        steps: the most steps of a request.
        numbers: the most numbers in the samples of a request.
        body: the most bytes of a request.
        seconds: the most seconds that a request may take; its own deadline may be shorter.
        body_seconds: the most seconds in which the body must arrive.

    Raises:
        ConfigurationError: a limit that is not a positive number.
    """

    batch: int = 16
    queue: int = 256
    samples: int = 64
    steps: int = 250
    numbers: int = 1 << 24
    body: int = 1 << 20
    seconds: float = 300.0
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("batch", "queue", "samples", "steps", "numbers", "body"):
            checked_count(getattr(self, name), name, _MOST)
        for name in ("seconds", "body_seconds"):
            checked_number(getattr(self, name), name, 1e-3, 1e9)

    @property
    def calls(self) -> int:
        """The most model calls of a request, for samplers with several calls a step; and the most rows of a plan."""
        return 3 * self.steps

    @property
    def connections(self) -> int:
        """The most requests that are read, prepared, queued or run at the same time."""
        return 2 * self.queue + 64
