"""The fields of a scheduler or of its config, and the class that they belong to."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ....support.errors import ConfigurationError
from .class_table import READERS
from .diffusers_classes import default_fields

__all__ = ["OURS", "class_and_fields", "config_fields", "possible_classes"]

#: The field in which a config of diffusers keeps the choices of a ``PlanScheduler``.
OURS = "_plan_scheduler"


def config_fields(scheduler: Any) -> dict[str, Any]:
    """The fields of a scheduler or of its config, unchanged.

    Raises:
        ConfigurationError: the argument is neither.
    """
    plain = isinstance(scheduler, Mapping)
    fields = scheduler if plain else getattr(scheduler, "config", None)
    of_pipeline = "scheduler" in scheduler if plain else hasattr(scheduler, "scheduler")
    if isinstance(scheduler, type) or not isinstance(fields, Mapping) or of_pipeline:
        what = f"the class {scheduler.__name__}" if isinstance(scheduler, type) else f"a {type(scheduler).__name__}"
        raise ConfigurationError(
            "is the config of a pipeline" if plain else f"is {what}, neither a scheduler nor its config",
            where="scheduler",
            suggestion="give pipe.scheduler, or pipe.scheduler.config",
        )
    return dict(fields)


def class_and_fields(scheduler: Any) -> tuple[str, dict[str, Any]]:
    """The name of the scheduler's class, and its fields.

    Raises:
        ConfigurationError: the argument is neither a scheduler nor a config, or its class cannot be told.
    """
    fields = config_fields(scheduler)
    saved = fields.get(OURS)
    # a PlanScheduler's config names the class that it replaced, until diffusers makes another scheduler of it
    if isinstance(saved, Mapping) and fields.get("_class_name", "PlanScheduler") == "PlanScheduler":
        return str(saved["scheduler"]), fields
    if not isinstance(scheduler, Mapping):
        return type(scheduler).__name__, fields
    if "_class_name" in fields:
        return str(fields["_class_name"]), fields
    found = possible_classes(fields)
    if not found:
        raise ConfigurationError(
            "the config does not name its class, and no class has its fields",
            where="scheduler._class_name",
            suggestion="give the scheduler itself: from_config(pipe.scheduler, ...)",
        )
    return found[0], fields


def possible_classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that this may be a config of, the better known first.

    The result has several entries only where the config does not name its class and several have the same fields.
    """
    if "_class_name" in config or OURS in config:
        return (class_and_fields(config)[0],)
    return _classes_with(tuple(key for key in config if not key.startswith("_")))


@functools.lru_cache(maxsize=256)
def _classes_with(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The classes whose config may have these keys, in this order.

    A class writes its own fields first, in order. Fields that it took over from the config of another class follow.
    """
    own = {name: tuple(default_fields(name)) for name in READERS}
    begun = [name for name, fields in own.items() if fields == keys[: len(fields)]]
    longest = max((len(own[name]) for name in begun), default=0)
    first = tuple(name for name in begun if len(own[name]) == longest)
    return first or tuple(name for name, fields in own.items() if set(fields) == set(keys))
