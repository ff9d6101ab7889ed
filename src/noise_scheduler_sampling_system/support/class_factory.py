"""The base of the factories: a table of classes by name, all derived from one class."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from enum import Enum
from typing import Any

from .errors import ConfigurationError
from .registry import Registry

__all__ = ["ClassFactory"]


class ClassFactory(ABC):
    """Base of the two factories.

    Attributes:
        registry: the table of names.
        base: the class that every entry is derived from.
    """

    registry: Registry[Any]
    base: type

    @classmethod
    def available(cls) -> list[str]:
        """Every registered name, sorted."""
        return sorted(cls.registry)

    @classmethod
    def register(cls, name: str | Enum, entry: type | None = None) -> Callable[[type], type] | type:
        """Register a class: ``register("mine", Mine)``, or a decorator ``@register("mine")``.

        The name is then accepted wherever an enum member is.

        Raises:
            ConfigurationError: the name is taken, or the class has the wrong base.
        """

        def add(entry: type) -> type:
            cls.registry.register(name, cls._derived(entry, f"register({Registry.key(name)!r})"))
            return entry

        return add if entry is None else add(entry)

    @classmethod
    def _derived(cls, entry: Any, where: str) -> type:
        if isinstance(entry, type) and issubclass(entry, cls.base):
            return entry
        raise ConfigurationError(
            f"{entry!r} is not a class derived from {cls.base.__name__}",
            where=f"{cls.__name__}.{where}",
            suggestion=f"write class Mine({cls.base.__name__}) and give the class itself",
        )
