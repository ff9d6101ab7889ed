"""The guidance of one row of a plan, compiled: numbers, and functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from ..plans.linear_form import Form, Symbol
from ..running.kernels import pair
from .formula import TensorAsModel

__all__ = ["CompiledFunction", "RowGuidance", "evaluations_of", "terms_of"]

#: A linear form, without its zeros.
Terms = tuple[tuple[Symbol, float], ...]
X: Symbol = ("x", 0)


@dataclass(frozen=True)
class CompiledFunction:
    """One function to run; see :class:`TensorFunction`."""

    symbol: Symbol
    function: Callable[..., Any]
    forms: tuple[Terms, ...]
    memory: str | None
    tracks: bool


@dataclass(frozen=True, eq=False)
class RowGuidance:
    """What happens at one row.

    Attributes:
        evaluated: the branches that are evaluated, by number.
        functions: to run, in order.
        value: the guided output.
        null: the unconditional output, where the plan's row reads it.
    """

    evaluated: tuple[int, ...]
    functions: tuple[CompiledFunction, ...]
    value: Terms
    null: Terms | None

    @property
    def plain(self) -> bool:
        """Whether the output is that of a single branch, as it is."""
        only = ((("branch", self.evaluated[0]), 1.0),) if len(self.evaluated) == 1 else None
        return not self.functions and self.value == only and self.null in (None, only)

    @property
    def weight(self) -> float | None:
        """w where the output is the mixture w·first + (1 − w)·second of two branches, and nothing else."""
        mixes = [symbol for symbol, _ in self.value] == [("branch", i) for i in self.evaluated]
        mixes = mixes and _is_mixture([factor for _, factor in self.value])
        return self.value[0][1] if mixes and not self.functions and self.null is None else None

    @property
    def largest_factor(self) -> float:
        """The largest number that a tensor is multiplied by; NaN where one is not finite."""
        forms = (self.value, self.null or (), *(form for step in self.functions for form in step.forms))
        factors = [abs(factor) for form in forms for _, factor in form]
        return max(factors, default=0.0) if all(map(math.isfinite, factors)) else math.nan

    @property
    def tracks(self) -> bool:
        """Whether the branches are differentiated by x."""
        return any(step.tracks for step in self.functions)

    def combined(
        self, x: Tensor, branches: Mapping[int, Tensor], memory: dict[str, Tensor], *, create_graph: bool
    ) -> tuple[Tensor, Tensor]:
        """The guided output and the unconditional one (the guided one, where the row reads none)."""
        values: dict[Symbol, Tensor] = {X: x, **{("branch", i): output for i, output in branches.items()}}
        for step in self.functions:
            arguments = [linear(form, values, x).to(x.dtype) for form in step.forms]
            function = partial(step.function, create_graph=create_graph) if step.tracks else step.function
            if step.memory is None:
                values[step.symbol] = function(*arguments)
            else:
                values[step.symbol], memory[step.memory] = function(memory.get(step.memory), *arguments)
        value = linear(self.value, values, x)
        return value, value if self.null is None else linear(self.null, values, x)


def linear(form: Terms, values: Mapping[Symbol, Tensor], x: Tensor) -> Tensor:
    """The tensor that a linear form stands for; the form of one term alone is that tensor itself."""
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
    """Without zeros; the state first, whose type is the widest."""
    return tuple(sorted(((s, c) for s, c in form.terms.items() if c != 0.0), key=lambda term: term[0] != X))


def evaluations_of(rows: Sequence[RowGuidance | None], models: Sequence[object]) -> tuple[int, ...]:
    """The number of network evaluations in each row, given the model of each branch."""
    counted = [not isinstance(model, TensorAsModel) for model in models]
    return tuple(0 if row is None else sum(counted[i] for i in row.evaluated) for row in rows)
