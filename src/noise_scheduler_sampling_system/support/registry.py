"""Tables of names. An unknown name raises an error that suggests the nearest valid ones.

A name that is not in a table, and a list of its names, load the plug-ins first (plugins.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from enum import Enum
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar, final, overload

from .errors import ConfigurationError, shown
from .plugins import load_plugins, note, owner_of, taken, why_missing

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
            ConfigurationError: the name stands for another entry, or differs from another name only in case, spaces
                and punctuation.
        """
        key = self.key(name)

        def add(entry: Any) -> Any:
            with _REGISTERING:
                known = self._entries.get(key)
                if known is None:
                    self._refuse_taken(key, of=key)
                elif not _same_definition(known, entry):
                    raise taken(self.kind, key, known, owner_of(self.kind, key, known))
                self._entries = {**self._entries, key: entry}
                if known is None:
                    note(self.kind, key, partial(self._remove, key))
            return entry

        return add if entry is None else add(entry)

    def alias(self, *names: str, of: str) -> None:
        """Add names for an entry. Case, spaces and punctuation of an alias do not count.

        Raises:
            ConfigurationError: an alias stands for another entry.
        """
        for name in names:
            with _REGISTERING:
                self._refuse_taken(name, of=of)
                alias = folded(name)
                if alias not in self._aliases:
                    self._aliases = {**self._aliases, alias: of}
                    note(self.kind, alias, partial(self._remove, alias))

    def _refuse_taken(self, name: str, of: str) -> None:
        """Refuse a name that reads like that of another entry."""
        alias = folded(name)
        other = next((entry for entry in self._entries if folded(entry) == alias and entry != of), None)
        if other is not None:
            raise taken(self.kind, other, self._entries[other], owner_of(self.kind, other, self._entries[other]))
        meant = self._aliases.get(alias, of)
        if meant != of:
            raise taken(self.kind, alias, meant, owner_of(self.kind, alias, self._entries.get(meant)))

    def _remove(self, name: str) -> None:
        """Take away an entry or a folded alias."""
        self._entries = {key: entry for key, entry in self._entries.items() if key != name}
        self._aliases = {key: entry for key, entry in self._aliases.items() if key != name}

    @property
    def entries(self) -> Mapping[str, T]:
        """The entries so far, by name. Reading them loads no plug-in."""
        return MappingProxyType(self._entries)

    @property
    def aliases(self) -> Mapping[str, str]:
        """The names of entries by their folded aliases, so far. Reading them loads no plug-in."""
        return MappingProxyType(self._aliases)

    def canonical(self, name: str | Enum) -> str:
        """The registered name for a name or an alias; an unknown name is returned unchanged."""
        key = self.key(name)
        found = self._find(key)
        if found is None:
            load_plugins()
            found = self._find(key)
        return key if found is None else found

    def _find(self, key: str) -> str | None:
        """The registered name for a name or an alias among what is registered so far, or None."""
        if key in self._entries:
            return key
        alias = folded(key)
        same = next((entry for entry in self._entries if folded(entry) == alias), None)
        return self._aliases.get(alias, same)

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
            raise ConfigurationError(
                f"there is no {self.kind} {shown(key)}",
                where=where,
                why=why_missing(self.kind, key),
                suggestion=self.nearest(key),
            )
        return self._entries[key]

    def nearest(self, name: object, further: Iterable[str] = ()) -> str:
        """A suggestion for an unknown name: the nearest names, ``further`` ones included, and what lists all."""
        own = {folded(entry) for entry in self._entries}  # an entry is suggested as it is written
        aliases = [] if further else [alias for alias in self._aliases if alias not in own]
        return did_you_mean(name, self._entries, further or aliases, self.listing)

    @staticmethod
    def key(name: str | Enum) -> str:
        """The registered form of a name or enum member."""
        return str(name.value if isinstance(name, Enum) else name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if self.key(name) not in self._entries:
            load_plugins()
        return self.key(name) in self._entries

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(self._entries)


@lru_cache(maxsize=4096)
def folded(name: str) -> str:
    """A name in the form in which names are compared: "DPM++ 2M", "dpmpp_2m" and "DPMpp-2M" are equal."""
    return "".join("p" if c == "+" else c for c in name.lower() if c.isalnum() or c == "+")


def _same_definition(a: object, b: object) -> bool:
    """Whether two entries are one object, or one definition that ran twice (a notebook cell)."""
    return a is b or (
        getattr(a, "__module__", 0) == getattr(b, "__module__", 1)
        and getattr(a, "__qualname__", 0) == getattr(b, "__qualname__", 1)
    )
