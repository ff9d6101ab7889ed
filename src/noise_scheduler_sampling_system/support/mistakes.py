"""Mistakes that are collected, to be raised together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from .errors import ConfigurationError, SeveralMistakesError

__all__ = ["Mistakes"]


@final
class Mistakes:
    """Collects configuration errors.

    Examples:
        >>> mistakes = Mistakes()
        >>> for name in ("steps", "seed"):
        ...     with mistakes.collected():
        ...         raise ConfigurationError("is missing", where=name, suggestion="give one")
        >>> bool(mistakes)
        True
    """

    def __init__(self) -> None:
        self._found: list[ConfigurationError] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, error: ConfigurationError) -> None:
        """Add a mistake, or each of several."""
        self._found.extend(error.errors if isinstance(error, SeveralMistakesError) else [error])

    @contextmanager
    def collected(self, prefix: str = "") -> Iterator[None]:
        """Keep the errors of a block; ``prefix`` is put before where they are."""
        try:
            yield
        except ConfigurationError as error:
            self.add(error.under(prefix))

    def error(self) -> ConfigurationError:
        """The only mistake, or all of them as one error."""
        return self._found[0] if len(self._found) == 1 else SeveralMistakesError(self._found)

    def raise_all(self) -> None:
        """Raise what was collected.

        Raises:
            ConfigurationError: at least one mistake was collected.
        """
        if self._found:
            raise self.error()
