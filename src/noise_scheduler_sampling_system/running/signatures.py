"""The signatures of callables; a function keeps its own for further runs, with the calls that it accepts."""

from __future__ import annotations

import inspect
import weakref
from types import CodeType, FunctionType
from typing import Any, Final, NamedTuple, final

from ..support.kept import Kept

__all__ = ["CallSignature", "Signatures", "signatures_of"]


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


@final
class Signatures(NamedTuple):
    """The signatures of a callable; None where it has none.

    Attributes:
        own: of the callable itself.
        wrapped: of the function that it wraps; of itself where it wraps none.
    """

    own: CallSignature | None
    wrapped: CallSignature | None


class _Known(NamedTuple):
    """The signatures of a function, and what they were read from, which a reload (IPython's autoreload) replaces."""

    signatures: Signatures
    code: CodeType
    defaults: tuple[Any, ...] | None
    named_defaults: dict[str, Any] | None


#: Of functions, by whether they are bound.
_KNOWN: Final[weakref.WeakKeyDictionary[FunctionType, dict[bool, _Known]]] = weakref.WeakKeyDictionary()


def signatures_of(call: Any) -> Signatures:
    """The signatures of anything that can be called."""
    function = call if type(call) is FunctionType else getattr(call, "__func__", None) or _of_class(call)
    if type(function) is not FunctionType:
        return Signatures(_signature(call, follow=False), _signature(call, follow=True))
    bound = function is not call
    code, defaults, named = function.__code__, function.__defaults__, function.__kwdefaults__
    known = _KNOWN.get(function, {}).get(bound)
    if known is not None and known.code is code and known.defaults is defaults and known.named_defaults is named:
        return known.signatures
    made = Signatures(_signature(call, follow=False), _signature(call, follow=True))
    _KNOWN.setdefault(function, {})[bound] = _Known(made, code, defaults, named)
    return made


def _signature(call: Any, *, follow: bool) -> CallSignature | None:
    try:
        return CallSignature(inspect.signature(call, follow_wrapped=follow))
    except (TypeError, ValueError):
        return None


def _of_class(call: Any) -> Any:
    """The function ``__call__`` of an object's class, where it is the object's signature; else None."""
    if isinstance(call, type) or hasattr(call, "__signature__") or hasattr(call, "__wrapped__"):
        return None
    return type(call).__call__
