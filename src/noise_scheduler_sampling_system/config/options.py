"""Options of samplers, schedules, spacings and guidance: each declares its default, type and range, and is checked."""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from ..support.errors import ConfigurationError, shown
from ..support.mistakes import Mistakes
from ..support.registry import did_you_mean
from .keyword_advice import advice

__all__ = ["Option", "Options", "checked_options", "declared_by", "parameters_of"]

#: The largest float64.
_LARGEST = sys.float_info.max
_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "a word", Callable: "a function"}


@final
@dataclass(frozen=True)
class Option:
    """One option of a sampler, a noise schedule, a spacing or a guidance.

    Attributes:
        default: the value where none is given. None allows None.
        kind: the type: ``bool``, ``int``, ``float`` (whole numbers are numbers, too), ``str``, ``Callable``
            for a function, any other class, a union of classes, or ``object`` for every type. None: the type of the
            default.
        minimum, maximum: the smallest and the largest allowed number; None: no bound. Numbers must be finite.
        above, below: bounds that are not allowed themselves.
        choices: the values that are allowed; None: all of the kind.
        check: a function of the value for conditions that the other fields cannot express. It raises
            ``ConfigurationError``.

    Examples:
        >>> from collections.abc import Callable
        >>> from noise_scheduler_sampling_system import BaseSampler
        >>> class Mine(BaseSampler):
        ...     declared_options = {
        ...         "shift": Option(0.0, minimum=-1.0, maximum=1.0),
        ...         "warmup": Option(None, kind=int, minimum=0),
        ...         "weight": Option(None, kind=Callable),
        ...         "rule": Option("exact", choices=("exact", "published")),
        ...     }
        >>> Mine.declared_options["shift"].allowed
        'a number from -1 to 1'
    """

    default: Any = None
    kind: Any = None
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] | None = None
    check: Callable[[Any], object] | None = None

    @classmethod
    def of(cls, declaration: Any) -> Option:
        """An option unchanged, or an option with this default: integers ≥ 1 for an integer, numbers ≥ 0 for a float."""
        if isinstance(declaration, Option):
            return declaration
        if isinstance(declaration, bool | str):
            return cls(declaration)
        if isinstance(declaration, int):
            return cls(declaration, minimum=1)
        return cls(declaration, minimum=0.0) if isinstance(declaration, float) else cls(declaration, kind=object)

    def at(self, default: Any) -> Option:
        """A copy of the option with another default."""
        return replace(self, default=default)

    @property
    def type(self) -> Any:
        """The type of a value: ``kind``, or that of the default."""
        if self.kind is not None:
            return self.kind
        return object if self.default is None or self.choices is not None else type(self.default)

    @property
    def names_file(self) -> bool:
        """Whether a text given for it is the name of a file."""
        return os.PathLike in typing.get_args(self.type)

    @property
    def has_range(self) -> bool:
        """Whether a bound is declared."""
        return any(bound is not None for bound in (self.minimum, self.maximum, self.above, self.below))

    @property
    def allowed(self) -> str:
        """What is allowed, for messages."""
        if self.choices is not None:
            text = f"one of {', '.join(str(choice) for choice in self.choices)}"
        else:
            name = _NAMES.get(self.type) or f"a value of type {_type_name(self.type)}"
            text = " ".join([name, *self._bounds()])
        return text + (", or None" if self.default is None and self.type is not object else "")

    def _bounds(self) -> list[str]:
        if self.minimum is not None and self.maximum is not None:
            return [f"from {self.minimum:g} to {self.maximum:g}"]
        texts = (("≥", self.minimum), ("above", self.above), ("≤", self.maximum), ("below", self.below))
        found = [f"{word} {bound:g}" for word, bound in texts if bound is not None]
        return [" and ".join(found)] if found else []

    def checked(self, value: Any, where: str) -> Any:
        """A value, unchanged; numbers of NumPy become Python's.

        Raises:
            ConfigurationError: a value that is not allowed; the message says what is allowed.
        """
        value = _as_python_number(value)
        if value is None and self.default is None:
            return value
        if not self._allows(value):
            near = f"; {did_you_mean(value, self.choices)}" if self._is_misspelt(value) else ""  # type: ignore[arg-type]
            raise ConfigurationError(f"got {shown(value)}", where=where, suggestion=f"give {self.allowed}{near}")
        if self.check is not None:
            self.check(value)
        return value

    def _is_misspelt(self, value: Any) -> bool:
        words = self.choices is not None and all(isinstance(choice, str) for choice in self.choices)
        return words and isinstance(value, str) and did_you_mean(value, self.choices or ()).startswith("did you mean")

    def _allows(self, value: Any) -> bool:
        if self.choices is not None:
            same = (
                c for c in self.choices if isinstance(value, type(c)) and isinstance(value, bool) == isinstance(c, bool)
            )
            return any(value == choice for choice in same)
        kind = self.type
        if kind is object:
            return True
        if kind in (int, float):
            number = isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
            return number and self._inside(value)
        return isinstance(value, kind)

    def _inside(self, value: float) -> bool:
        least = -_LARGEST if self.minimum is None else self.minimum
        most = _LARGEST if self.maximum is None else self.maximum
        inside = least <= value <= most  # False for NaN; exact for whole numbers of any size
        return inside and (self.above is None or value > self.above) and (self.below is None or value < self.below)


def _type_name(kind: Any) -> str:
    """The name of a class, or the names of the classes of a union."""
    return " or ".join(_type_name(each) for each in typing.get_args(kind)) or str(getattr(kind, "__name__", kind))


def _as_python_number(value: Any) -> Any:
    """A number of NumPy or another library as a number of Python; any other value unchanged."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def checked_options(
    given: Mapping[str, Any], declared: Mapping[str, Option], owner: str, prefix: str = ""
) -> dict[str, Any]:
    """The given options, checked.

    Args:
        given: values by name.
        declared: the options that exist.
        owner: what has the options, for messages.
        prefix: the text before an option's name in messages, e.g. "spacing_options.".

    Raises:
        ConfigurationError: an unknown name, or a value that is not allowed.
    """
    mistakes, checked = Mistakes(), {}
    for name, value in given.items():
        with mistakes.collected():
            if name not in declared:
                raise ConfigurationError(
                    f"{owner} has no option {shown(name)}",
                    where=f"{prefix}{str(name)[:80]}",
                    suggestion=advice(str(name)[:80], declared),
                )
            checked[name] = declared[name].checked(value, f"{prefix}{name}")
    mistakes.raise_all()
    return checked


def declared_by(cls: type, *, inherits: bool, plain: Callable[[Any], Option] = Option.of) -> dict[str, Option]:
    """The options that a class declares; called when the class is created.

    A class writes ``declared_options``, or ``option_defaults`` with plain values. A plain value is a new default of
    an option of a base, or declares an option of the type of the value.

    Args:
        cls: the class.
        inherits: whether the options of its bases are added to its own.
        plain: makes an option from a plain value.
    """
    own, bases = vars(cls), [base for base in reversed(cls.__mro__[1:]) if "declared_options" in vars(base)]
    known = {name: option for base in bases for name, option in vars(base)["declared_options"].items()}
    if "declared_options" in own:
        mine = {name: Option.of(option) for name, option in own["declared_options"].items()}
    elif "option_defaults" in own:
        mine = {
            name: known[name].at(value) if name in known and not isinstance(value, Option) else plain(value)
            for name, value in own["option_defaults"].items()
        }
        for name, words in own.get("choices", {}).items():
            mine[name] = replace(mine[name], choices=tuple(words))
    else:
        mine = {} if inherits else dict(getattr(cls, "declared_options", {}))
    return {**known, **mine} if inherits else mine


@final
class Options(dict[str, Any]):
    """Options by name, read-only, so that a config can be shared, hashed and pickled. Lists become tuples."""

    def __init__(self, options: Mapping[str, Any] = {}) -> None:
        super().__init__({str(k): tuple(v) if isinstance(v, list) else v for k, v in options.items()})

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise ConfigurationError(
            "a config cannot be changed", where="options", suggestion="config.replace(..._options={...}) makes a copy"
        )

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Options, (dict(self),)


@functools.lru_cache(maxsize=256)
def parameters_of(function: Callable[..., Any], skip: int) -> Mapping[str, Option]:
    """The keyword parameters of a function as options, after the first ``skip`` parameters.

    A parameter declares its range as ``name: Annotated[float, Option(above=0.0)] = 7.0``. Without a range, a parameter
    whose default is a number or None takes any number, and one whose default is a word takes any word.
    """
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # an annotation whose name is imported for type checkers only
        hints = {}
    found = {}
    for name, parameter in list(inspect.signature(function).parameters.items())[skip:]:
        if parameter.kind is not parameter.VAR_KEYWORD:
            notes = getattr(hints.get(name), "__metadata__", ())
            option = next((note for note in notes if isinstance(note, Option)), None)
            default = None if parameter.default is parameter.empty else parameter.default
            number = default is None or (isinstance(default, int | float) and not isinstance(default, bool))
            kind = float if number else None if isinstance(default, bool | str) else object
            found[name] = Option(default, kind=kind) if option is None else option.at(default)
    return found
