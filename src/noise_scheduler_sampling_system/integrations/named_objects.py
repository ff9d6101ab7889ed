"""An object by the name ``module:attribute``."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ..support.errors import ConfigurationError, shown

__all__ = ["named_object"]


def named_object(name: str, where: str) -> Any:
    """The attribute of a module. Modules in the current folder are found, as by ``python -m``.

    Args:
        name: "module:attribute", where the attribute may have parts: "models:Holder.net".
        where: the argument, for messages.

    Raises:
        ConfigurationError: it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: not the name of a module
        raise ConfigurationError(
            f"{shown(name)} cannot be imported",
            where=where,
            why=str(error),
            suggestion="check PYTHONPATH and the name",
        ) from None
    return found
