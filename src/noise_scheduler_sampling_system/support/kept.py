"""Values that are made once for equal keys."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar, final

__all__ = ["Kept", "Same"]

V = TypeVar("V")
#: Values of a table that are kept where nothing else is said.
_MOST: Final = 64


@final
class Kept(Generic[V]):
    """A bounded table of values by key, for values that nobody changes; None is not kept.

    It is thread-safe. Two threads may make the value of one key at once; both get the same. Copies and pickles of a
    table are empty.

    Args:
        most: values that are kept; one more empties the table.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._values: dict[Hashable, V] = {}

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key; it is made where the table does not hold it."""
        known = self._values.get(key)
        if known is not None:
            return known
        value = make()
        if len(self._values) >= self._most:
            self._values.clear()
        return self._values.setdefault(key, value)  # of two threads, the first one's

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, (self._most,)


@final
class Same:
    """A key, or a part of one, that is equal to those of the same object; an equal object has another key."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)
