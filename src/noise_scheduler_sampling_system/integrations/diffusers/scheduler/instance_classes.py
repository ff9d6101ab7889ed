"""Subclasses of a :class:`PlanScheduler` that are instances of the replaced class, too."""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import Any, Final

from ....support.errors import ConfigurationError
from ..reading.diffusers_classes import scheduler_class
from ..reading.scheduler_fields import class_and_fields

__all__ = ["instance_class"]

#: Classes that their pipelines tell by isinstance: those of Stable Cascade hand Würstchen's other times.
_ASKED_FOR: Final = frozenset({"DDPMWuerstchenScheduler"})


def instance_class(cls: type, config: Any) -> type:
    """The class to make an object of.

    Args:
        cls: the class that is called.
        config: a scheduler, or its config; None while an object is unpickled.
    """
    name = ""
    with suppress(ConfigurationError):  # the constructor says what is wrong
        name = class_and_fields(config)[0]
    return _both(cls, name) if name in _ASKED_FOR and not issubclass(cls, scheduler_class(name)) else cls


@functools.cache
def _both(cls: type, name: str) -> type:
    # saved under the name of the first, which makes the second again
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "_called_class": cls}
    return type(cls.__name__, (cls, scheduler_class(name)), names)
