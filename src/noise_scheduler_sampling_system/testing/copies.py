"""The check that a value survives copies and pickles, so that it can be sent to other processes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

from ..support.errors import ConfigurationError

__all__ = ["check_copies"]


def check_copies(name: str, value: Any) -> None:
    """Raise unless a deep copy and a pickle of a value are equal to it.

    Args:
        name: of the value, for messages.
        value: any value.

    Raises:
        ConfigurationError: it cannot be copied or pickled, or the result differs.
    """
    makers: dict[str, Callable[[], Any]] = {
        "a copy": lambda: copy.deepcopy(value),
        "a pickle": lambda: pickle.loads(pickle.dumps(value)),
    }
    for kind, make in makers.items():
        try:
            again = make()
        except Exception as error:  # pickle lets any exception of the class through
            raise ConfigurationError(
                f"{kind} of it cannot be made",
                where=name,
                why=f"{type(error).__name__}: {error}",
                suggestion="keep its state in plain attributes, as a frozen dataclass does, and define it in a module",
            ) from error
        if type(again) is not type(value) or again != value:
            raise ConfigurationError(
                f"{kind} of it is not equal to it",
                where=name,
                why="its state is not in its attributes, or they do not compare by value",
                suggestion="write a frozen dataclass, or define __eq__",
            )
