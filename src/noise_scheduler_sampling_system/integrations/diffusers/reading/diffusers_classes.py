"""The scheduler classes of the installed diffusers, and the fields that their constructors read."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from ....support.errors import ConfigurationError

__all__ = ["default_fields", "require_diffusers", "scheduler_class"]


def require_diffusers() -> Any:
    """The module ``diffusers``.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ConfigurationError(
            "needs diffusers, which is not installed",
            where="integrations.diffusers",
            why=str(error),
            suggestion="pip install 'noise-scheduler-sampling-system[diffusers]'",
        ) from None
    return diffusers


def scheduler_class(name: str) -> type[Any]:
    """diffusers' class of this name."""
    found: type[Any] = getattr(require_diffusers(), name)
    return found


@functools.lru_cache(maxsize=256)
def default_fields(name: str) -> dict[str, Any]:
    """The fields that the class of this name reads, with their defaults."""
    parameters = inspect.signature(scheduler_class(name).__init__).parameters
    return {
        key: None if p.default is p.empty else p.default
        for key, p in parameters.items()
        if key != "self" and p.kind is not p.VAR_KEYWORD
    }
