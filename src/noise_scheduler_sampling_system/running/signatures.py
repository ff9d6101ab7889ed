"""The signatures of callables; a function keeps its own for further runs, with the calls that it accepts."""

from __future__ import annotations

import inspect
import weakref
from types import FunctionType
from typing import Any, Final, final

from ..support.kept import Kept

__all__ = ["CallSignature", "signature_of"]


@final
class CallSignature:
    """What a callable can be called with.

    Attributes:
        signature: its parameters.
        time_by_name: whether the second argument is not the time, which is a later one with the name ``timestep``.
        accepted: calls that were checked and fit, by what decides that.
    """

    __slots__ = ("accepted", "signature", "time_by_name")

    def __init__(self, signature: inspect.Signature) -> None:
        self.signature: Final = signature
        self.time_by_name: Final = "timestep" in list(signature.parameters)[2:]
        self.accepted: Final[Kept[bool]] = Kept()


#: Of functions, by whether they are bound and whether the function that they wrap counts.
_KNOWN: Final[weakref.WeakKeyDictionary[FunctionType, dict[tuple[bool, bool], CallSignature]]] = (
    weakref.WeakKeyDictionary()
)


def signature_of(call: Any, *, follow: bool) -> CallSignature | None:
    """The signature of a callable; None where it has none.

    Args:
        call: anything that can be called.
        follow: whether that of the function that it wraps counts.
    """
    function = call if type(call) is FunctionType else getattr(call, "__func__", None) or _of_class(call)
    plain, key = type(function) is FunctionType, (function is call, follow)
    if plain and (known := _KNOWN.get(function, {}).get(key)) is not None:
        return known
    try:
        made = CallSignature(inspect.signature(call, follow_wrapped=follow))
    except (TypeError, ValueError):
        return None
    if plain:
        _KNOWN.setdefault(function, {})[key] = made
    return made


def _of_class(call: Any) -> Any:
    """The function ``__call__`` of an object's class, where it is the object's signature; else None."""
    if isinstance(call, type) or hasattr(call, "__signature__") or hasattr(call, "__wrapped__"):
        return None
    return type(call).__call__
