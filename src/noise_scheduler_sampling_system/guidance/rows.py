"""The guidance of one row of a plan, compiled: numbers, and functions of tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, final

import torch
from torch import Tensor

from ..plans.linear_form import Form, Symbol
from ..running.kernels import pair

__all__ = ["CompiledFunction", "RowGuidance", "terms_of"]

#: A linear form as (symbol, coefficient) pairs, without zeros.
Terms = tuple[tuple[Symbol, float], ...]
X: Symbol = ("x", 0)


@final
@dataclass(frozen=True)
class CompiledFunction:
    """A :class:`TensorFunction` whose forms are compiled, with the symbol of its result."""

    symbol: Symbol
    function: Callable[..., Any]
    forms: tuple[Terms, ...]
    memory: str | None
    tracks: bool


@final
@dataclass(frozen=True, eq=False)
class RowGuidance:
    """The guidance of one row.

    Attributes:
        evaluated: the numbers of the branches to evaluate.
        functions: the functions to call, in order.
        value: the guided output.
        null: the unconditional output; None where the plan's row does not read it.
    """

    evaluated: tuple[int, ...]
    functions: tuple[CompiledFunction, ...]
    value: Terms
    null: Terms | None

    @functools.cached_property
    def plain(self) -> bool:
        """Whether the output is that of a single branch, unchanged."""
        only = ((("branch", self.evaluated[0]), 1.0),) if len(self.evaluated) == 1 else None
        return not self.functions and self.value == only and self.null in (None, only)

    @functools.cached_property
    def weight(self) -> float | None:
        """w, if the output is the mixture w·first + (1 − w)·second of two branches; else None."""
        mixes = [symbol for symbol, _ in self.value] == [("branch", i) for i in self.evaluated]
        mixes = mixes and _is_mixture([factor for _, factor in self.value])
        return self.value[0][1] if mixes and not self.functions and self.null is None else None

    @property
    def largest_factor(self) -> float:
        """The largest coefficient of a tensor; NaN if one is not finite."""
        forms = (self.value, self.null or (), *(form for each in self.functions for form in each.forms))
        factors = [abs(factor) for form in forms for _, factor in form]
        return max(factors, default=0.0) if all(map(math.isfinite, factors)) else math.nan

    @property
    def tracks(self) -> bool:
        """Whether a function differentiates the branches by x."""
        return any(each.tracks for each in self.functions)

    def combined(
        self, x: Tensor, branches: Mapping[int, Tensor], memory: dict[str, Tensor], *, create_graph: bool
    ) -> tuple[Tensor, Tensor]:
        """The guided and the unconditional output; where the row does not read the second, it is the guided one."""
        values: dict[Symbol, Tensor] = {X: x, **{("branch", i): output for i, output in branches.items()}}
        for each in self.functions:
            arguments = [linear(form, values, x).to(x.dtype) for form in each.forms]
            function = partial(each.function, create_graph=create_graph) if each.tracks else each.function
            if each.memory is None:
                values[each.symbol] = function(*arguments)
            else:
                values[each.symbol], memory[each.memory] = function(memory.get(each.memory), *arguments)
        value = linear(self.value, values, x)
        return value, value if self.null is None else linear(self.null, values, x)


def linear(form: Terms, values: Mapping[Symbol, Tensor], x: Tensor) -> Tensor:
    """The tensor that a linear form stands for; not a copy if the form is one term with coefficient 1."""
    if not form:
        return torch.zeros_like(x)
    terms = [(values[symbol], factor) for symbol, factor in form]
    (first, a), *rest = terms
    if not rest:
        return first if a == 1.0 else first * a
    if len({tensor.dtype for tensor, _ in terms}) > 1:
        first = first.to(reduce(torch.promote_types, (tensor.dtype for tensor, _ in terms)))
    second, b = rest[0]
    if _is_mixture([factor for _, factor in form]) and first.dtype == second.dtype:
        return torch.lerp(second, first, a)
    total = pair(first, a, second, b)
    for tensor, factor in rest[1:]:
        total = total.add_(tensor, alpha=factor)
    return total


def _is_mixture(factors: Sequence[float]) -> bool:
    return len(factors) == 2 and abs(sum(factors) - 1.0) < 1e-12


def terms_of(form: Form) -> Terms:
    """The terms of a form without zeros. The state comes first, because its dtype is the widest."""
    return tuple(sorted(((s, c) for s, c in form.terms.items() if c != 0.0), key=lambda term: term[0] != X))
