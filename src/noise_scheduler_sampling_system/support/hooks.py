"""Methods of lower packages that higher packages implement.

Imports go one way, from higher packages to lower ones. A method like ``NoiseSchedulerConfig.from_diffusers`` belongs to
a low package, its implementation to a high one. The low package declares a :class:`Hook`. The high package provides the
function when the library is imported. Neither imports the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

__all__ = ["Hook"]

F = TypeVar("F", bound=Callable[..., Any])


@final
class Hook(Generic[F]):
    """A function that a higher package provides.

    Args:
        name: the method that calls it, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._function: F | None = None

    def provide(self, function: F) -> F:
        """Set the function; use it as a decorator where the function is defined."""
        self._function = function
        return function

    @property
    def function(self) -> F:
        """The function that was provided.

        Raises:
            RuntimeError: the package that provides it was not imported. The root of the library imports all of them.
        """
        if self._function is None:
            raise RuntimeError(f"no package provides {self.name}")
        return self._function
