"""Tables of names. An unknown name raises an error that suggests the nearest valid ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from enum import Enum
from typing import Any, Generic, TypeVar, final, overload

from .errors import ConfigurationError, shown

__all__ = ["Registry", "did_you_mean", "folded"]

#: The most names that a suggestion holds where a command or an expression lists all of them.
_NEAREST, _FEW = 3, 10
#: Held while a table is changed. A change replaces the table, so readers need no lock.
_REGISTERING = threading.Lock()

T = TypeVar("T")
E = TypeVar("E")


def did_you_mean(name: object, valid: Iterable[str], further: Iterable[str] = (), listing: str = "") -> str:
    """A suggestion for an invalid name: the nearest of the ``valid`` and ``further`` ones, or else all valid ones.

    Args:
        name: the invalid name.
        valid: the names that are allowed.
        further: other names that are understood.
        listing: what lists the valid names, e.g. "noise-sampling samplers". The suggestion then holds at most the
            three nearest names and this, if there are more than ten.
    """
    valid = list(valid)
    by_folded = {option.lower(): option for option in (*valid, *further)}
    word, rest = str(name).lower(), ""
    near = get_close_matches(word, by_folded, n=_NEAREST, cutoff=0.6)
    if listing and len(valid) > _FEW:
        near = near or get_close_matches(word, by_folded, n=_NEAREST, cutoff=0.0)
        rest = f" {listing} lists all {len(valid)}"
    if near:
        return "did you mean " + " or ".join(repr(by_folded[n]) for n in near) + "?" + rest
    return "one of: " + ", ".join(sorted(valid)) if valid else "none is registered"


@final
class Registry(Generic[T]):
    """A table from names to entries. A name cannot be registered for two different entries.

    Args:
        kind: what the entries are, for messages ("sampler", "noise schedule", ...).
        listing: what lists the names, for messages ("`noise-sampling samplers`").
    """

    def __init__(self, kind: str, listing: str = "") -> None:
        self.kind, self.listing = kind, listing
        self._entries: dict[str, T] = {}
        self._aliases: dict[str, str] = {}

    @overload
    def register(self, name: str | Enum, entry: T) -> T: ...

    @overload
    def register(self, name: str | Enum) -> Callable[[E], E]: ...

    def register(self, name: str | Enum, entry: Any = None) -> Any:
        """Give ``entry`` a name; without ``entry``, return a decorator that does it.

        Raises:
            ConfigurationError: the name stands for another entry.
        """
        key = self.key(name)

        def add(entry: Any) -> Any:
            with _REGISTERING:
                taken = self._entries.get(key)
                if taken is not None and not _same_definition(taken, entry):
                    raise ConfigurationError(
                        f"the name {key!r} is taken by {taken!r}",
                        where=f"{self.kind} registry",
                        suggestion="register under another name",
                    )
                self._entries = {**self._entries, key: entry}
            return entry

        return add if entry is None else add(entry)

    def alias(self, *names: str, of: str) -> None:
        """Add names for an entry. Case, spaces and punctuation of an alias do not count.

        Raises:
            ConfigurationError: an alias stands for another entry.
        """
        for name in names:
            with _REGISTERING:
                taken = self._aliases.get(folded(name), of)
                if taken != of:
                    raise ConfigurationError(
                        f"the name {name!r} is taken by {taken!r}",
                        where=f"{self.kind} registry",
                        suggestion="use another name",
                    )
                self._aliases = {**self._aliases, folded(name): of}

    def canonical(self, name: str | Enum) -> str:
        """The registered name for a name or an alias; an unknown name is returned unchanged."""
        key = self.key(name)
        if key in self._entries:
            return key
        same = next((entry for entry in self._entries if folded(entry) == folded(key)), key)
        return self._aliases.get(folded(key), same)

    def name_of(self, entry: object) -> str | None:
        """The name of an entry, or None."""
        return next((name for name, known in self._entries.items() if known is entry), None)

    def folded_names(self) -> set[str]:
        """Every name and alias, folded."""
        return {folded(name) for name in (*self._entries, *self._aliases)}

    def names_of(self, name: str) -> list[str]:
        """The aliases of an entry, folded."""
        return [alias for alias, entry in self._aliases.items() if entry == name]

    def get(self, name: str | Enum, where: str = "") -> T:
        """The entry of a name.

        Raises:
            ConfigurationError: an unknown name; the message suggests the nearest ones.
        """
        key = self.canonical(name)
        if key not in self._entries:
            raise ConfigurationError(f"there is no {self.kind} {shown(key)}", where=where, suggestion=self.nearest(key))
        return self._entries[key]

    def nearest(self, name: object, further: Iterable[str] = ()) -> str:
        """A suggestion for an unknown name: the nearest names, ``further`` ones included, and what lists all."""
        aliases = [] if further else list(self._aliases)
        return did_you_mean(name, self._entries, further or aliases, self.listing)

    @staticmethod
    def key(name: str | Enum) -> str:
        """The registered form of a name or enum member."""
        return str(name.value if isinstance(name, Enum) else name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.key(name) in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def folded(name: str) -> str:
    """A name in the form in which names are compared: "DPM++ 2M", "dpmpp_2m" and "DPMpp-2M" are equal."""
    return "".join("p" if c == "+" else c for c in name.lower() if c.isalnum() or c == "+")


def _same_definition(a: object, b: object) -> bool:
    """Whether two entries are one object, or one definition that ran twice (a notebook cell)."""
    return a is b or (
        getattr(a, "__module__", 0) == getattr(b, "__module__", 1)
        and getattr(a, "__qualname__", 0) == getattr(b, "__qualname__", 1)
    )
