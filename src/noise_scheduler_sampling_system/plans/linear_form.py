"""Linear combinations of symbols: a sampler's formula as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import numpy as np

from ..support.errors import ConfigurationError, shown

__all__ = ["Form", "Symbol"]

#: (kind, row): "x" is the state before the row, "y" its prediction, "raw" the same before clipping, "null" the
#: prediction of the unconditional branch. For "noise" the second entry is the number of the noise.
Symbol = tuple[str, int]


@final
class Form:
    """A linear combination Σ coefficient·symbol, with +, −, ``sum``, and · and / by numbers.

    0 is the empty combination. Other numbers cannot be added, and two forms cannot be multiplied, because the result
    would not be linear.

    Raises:
        ConfigurationError: a number other than 0 is added, a factor is not a number, or a divisor is 0.
    """

    __slots__ = ("terms",)
    __array_ufunc__ = None  # NumPy's numbers leave the arithmetic to this class

    def __init__(self, terms: Mapping[Symbol, float] = {}) -> None:
        self.terms = terms

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and dict(self.terms) == dict(other.terms)

    def __hash__(self) -> int:
        return hash(frozenset(self.terms))

    def __add__(self, other: Form | float) -> Form:
        if not isinstance(other, Form):
            return self._with_number(other, "{} is added to a form")
        terms = dict(self.terms)
        for symbol, coefficient in other.terms.items():
            terms[symbol] = terms.get(symbol, 0.0) + coefficient
        return Form(terms)

    def __sub__(self, other: Form | float) -> Form:
        if not isinstance(other, Form):
            return self._with_number(other, "{} is subtracted from a form")
        return self + other * -1.0

    def __rsub__(self, other: float) -> Form:
        return self._with_number(other, "a form is subtracted from {}") * -1.0

    def __mul__(self, factor: float) -> Form:
        number = _factor(factor, "multiplied by")
        return Form({symbol: coefficient * number for symbol, coefficient in self.terms.items()})

    def __neg__(self) -> Form:
        return self * -1.0

    def __pos__(self) -> Form:
        return self

    def __truediv__(self, divisor: float) -> Form:
        number = _factor(divisor, "divided by")
        if number == 0.0:
            raise ConfigurationError(
                "a form is divided by 0",
                where="formula",
                why="α is 0 at a level without signal, and σ at the clean sample: the formula is not defined there",
                suggestion="take a first-order step there: after.alpha * p.sample + after.sigma * p.epsilon",
            )
        return Form({symbol: coefficient / number for symbol, coefficient in self.terms.items()})

    def __rtruediv__(self, other: object) -> Form:
        raise _not_linear(f"{shown(other)} is divided by a form")

    def __pow__(self, exponent: object) -> Form:
        raise _not_linear("a form is raised to a power")

    def _with_number(self, other: object, how: str) -> Form:
        """This form, if the number is 0.

        Args:
            other: the number.
            how: the error, with {} for the number.
        """
        if isinstance(other, int | float | np.number) and not isinstance(other, bool) and other == 0:
            return self
        raise ConfigurationError(
            how.format(shown(other)),
            where="formula",
            why="a form is a linear combination of the state, predictions and noise, and has no constant term",
            suggestion="add forms, multiplied by numbers; 0 may be added",
        )

    def __repr__(self) -> str:
        terms = " + ".join(f"{coefficient:g}·{kind}[{i}]" for (kind, i), coefficient in self.terms.items())
        return f"Form({terms or '0'})"

    __radd__ = __add__
    __rmul__ = __mul__


def _factor(value: object, how: str) -> float:
    """The number that a form is multiplied or divided by."""
    if type(value) is float:
        return value
    if isinstance(value, Form):
        raise _not_linear(f"a form is {how} a form")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if isinstance(value, bool | str) or (math.isnan(number) and not isinstance(value, float | np.floating)):
        raise ConfigurationError(
            f"a form is {how} {shown(value)}", where="formula", suggestion="multiply and divide forms by numbers"
        )
    return number


def _not_linear(what: str) -> ConfigurationError:
    return ConfigurationError(
        what,
        where="formula",
        why="a step of a plan is linear in the state, the predictions and the noise, and this is not",
        suggestion="multiply forms by numbers only; what depends on the data belongs in the model or in guidance",
    )
