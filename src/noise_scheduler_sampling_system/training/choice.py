"""What a training objective is put together from: checked frozen dataclasses, chosen by a name or as an object."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ..config.options import checked_options, parameters_of
from ..support.errors import ConfigurationError, shown
from ..support.registry import Registry
from ..support.values import ByValue

__all__ = ["Choice", "chosen"]

C = TypeVar("C", bound="Choice")


class Choice(ByValue, ABC):
    """Base of densities, weightings and noises. A subclass is a frozen dataclass.

    A field declares its range as ``name: Annotated[float, Option(above=0.0)] = 1.0``; the value is checked when the
    object is made.
    """

    def __post_init__(self) -> None:
        given = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        checked = checked_options(given, parameters_of(type(self), 0), type(self).__name__, f"{type(self).__name__}.")
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def chosen(registry: Registry[type[C]], base: type[C], given: Any, where: str) -> C:
    """An entry of a table as an object.

    Args:
        registry: the table.
        base: the class that its entries are derived from.
        given: an object of the class; a name; or a mapping with ``name`` and the options.
        where: the argument, for messages.

    Raises:
        ConfigurationError: something else, an unknown name, an unknown option or a value out of range.
    """
    if isinstance(given, base):
        return given
    name, options = given, {}
    if isinstance(given, Mapping):
        options = {str(key): value for key, value in given.items() if key != "name"}
        name = given.get("name")
    if not isinstance(name, str):
        raise ConfigurationError(
            f"got {shown(given)}",
            where=where,
            suggestion=f"give a name, {{'name': ..., its options}}, or a {base.__name__}: {registry.nearest(name)}",
        )
    entry = registry.get(name, where)
    checked = checked_options(options, parameters_of(entry, 0), entry.__name__, f"{where}.")
    return entry(**checked)
