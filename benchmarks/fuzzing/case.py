"""A kind of input, and one input of it."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

__all__ = ["Case", "Kind", "RefusedInputError"]


@final
class RefusedInputError(Exception):
    """The library refused an input by other means than an exception: by an exit code, or by a status of HTTP."""


@final
@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        parts: what is kept for reproduction, by file name.
        use: gives it to the library, in an empty folder, which is the working directory. It returns at success, and
            raises NoiseSamplingError or :class:`RefusedInputError` where the library refuses it; all else is a fault.
        seconds: of the processor that it may take.
    """

    parts: Mapping[str, bytes]
    use: Callable[[Path], object]
    seconds: float = 2.0


class Kind(ABC):
    """A source of inputs."""

    name: str

    @abstractmethod
    def valid(self) -> list[Case]:
        """Inputs that must succeed; they also import what is imported where it is used."""

    @abstractmethod
    def drawn(self, draw: random.Random) -> Case:
        """An input, determined by the state of the generator."""

    def close(self) -> None:  # noqa: B027  # most kinds hold nothing
        """Give back what the kind holds."""
