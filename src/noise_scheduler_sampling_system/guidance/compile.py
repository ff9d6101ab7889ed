"""Compile the guidance of a run: which branches each row of a plan evaluates, and how it combines them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from ..plans.base import Plan
from ..support.errors import ConfigurationError, shown
from .base import Guidance
from .formula import Branch, Formula, TensorAsModel, TensorFunction
from .rows import CompiledFunction, RowGuidance, terms_of
from .scales import Moment

__all__ = ["CompiledGuidance", "compile_guidance", "compiled_row"]


@final
@dataclass(frozen=True, eq=False)
class CompiledGuidance:
    """The guidance of a plan's rows, for every condition.

    Attributes:
        sequence: what it was compiled from, from left to right.
        prediction_type: the type of the network's output.
        opposed: whether the unconditional prediction is a branch of its own.
        learned: whether every call has to return a variance.
        branches: 0: under the condition, 1: under the null condition, and those that the sequence adds.
        rows: the guidance of each row; None for a row without a model call.
    """

    sequence: tuple[Guidance, ...]
    prediction_type: str
    opposed: bool
    learned: bool
    branches: tuple[Branch, ...]
    rows: tuple[RowGuidance | None, ...]

    def on(self, plan: Plan, moments: Sequence[Moment]) -> CompiledGuidance:
        """The same guidance for the rows of another plan, at the given moments.

        Raises:
            ConfigurationError: it uses a branch that it did not use before.
        """
        branches = list(self.branches)
        rows = _guidance_of_rows(
            plan, moments, sequence=self.sequence, prediction_type=self.prediction_type, branches=branches,
            opposed=self.opposed, learned=self.learned,
        )  # fmt: skip
        if any(i >= len(self.branches) for row in rows if row is not None for i in row.evaluated):
            raise ConfigurationError(
                "uses a condition or a model that it used at no level of the grid",
                where="guidance",
                suggestion="write every branch at every level, with weight 0 where it does not act",
            )
        return replace(self, rows=rows)

    @functools.cached_property
    def distinct(self) -> tuple[RowGuidance, ...]:
        """The guidance of the rows with a model call, each once."""
        return tuple(row for row in dict.fromkeys(self.rows) if row is not None)

    @functools.cached_property
    def evaluated(self) -> frozenset[int]:
        """The numbers of the branches that some row evaluates."""
        return frozenset(i for row in self.distinct for i in row.evaluated)

    @functools.cached_property
    def evaluations(self) -> tuple[int, ...]:
        """The number of network evaluations for each sample, row by row."""
        counted = [not isinstance(branch.model, TensorAsModel) for branch in self.branches]
        return tuple(0 if row is None else sum(counted[i] for i in row.evaluated) for row in self.rows)

    @functools.cached_property
    def further(self) -> Mapping[str, Any] | None:
        """The first condition that the sequence adds to the run's."""
        return next((condition for each in self.sequence for condition in each.conditions), None)

    @functools.cached_property
    def largest_factor(self) -> float:
        """The largest coefficient of a tensor; NaN if one is not finite."""
        factors = [row.largest_factor for row in self.distinct]
        return math.nan if any(map(math.isnan, factors)) else max(factors, default=0.0)

    @functools.cached_property
    def acts_on_clean(self) -> bool:
        """Whether a row calls a function of tensors, which acts on the expected clean sample."""
        return any(row.functions for row in self.distinct)


def compile_guidance(
    sequence: Sequence[Guidance], plan: Plan, prediction_type: str, *, opposed: bool, learned: bool = False
) -> CompiledGuidance:
    """Compile a sequence of guidance for every row of a plan.

    Args:
        sequence: the guidance, from left to right.
        plan: the rows.
        prediction_type: the type of the network's output.
        opposed: whether the unconditional prediction is a branch of its own.
        learned: whether every call has to return a variance.

    Raises:
        ConfigurationError: a scale is not a finite number at some level, a guidance cannot act at some level, or one
            never sets its value.
    """
    branches = [Branch(), Branch(null=True)]
    setters: set[int] = set()
    rows = _guidance_of_rows(
        plan, sequence=sequence, prediction_type=prediction_type, branches=branches, opposed=opposed, learned=learned,
        setters=setters,
    )  # fmt: skip
    _refuse_silence(sequence, setters)
    if not any(row.evaluated for row in rows if row is not None):
        raise ConfigurationError(
            "the model is never evaluated",
            where="guidance",
            why=f"the zero-init covers all {plan.steps} steps",
            suggestion="lower zero_steps, or take more steps",
        )
    return CompiledGuidance(tuple(sequence), prediction_type, opposed, learned, tuple(branches), rows)


def _guidance_of_rows(
    plan: Plan, moments: Sequence[Moment] | None = None, *, sequence: Sequence[Guidance],
    prediction_type: str, branches: list[Branch], opposed: bool, learned: bool, setters: set[int] | None = None,
) -> tuple[RowGuidance | None, ...]:  # fmt: skip
    """Compile the guidance of a plan's rows; see :func:`compile_guidance`.

    Args:
        moments: the moment of each row; None: the plan's levels and steps.
        branches: the branches so far; new ones are added.
        setters: a set to which the positions of guidance that sets the value are added.
    """
    uniform = all(guidance.uniform for guidance in sequence)
    kept: dict[bool, RowGuidance] = {}
    rows: list[RowGuidance | None] = []
    all_alike = all(plan.asked) and not any(plan.reads_null)
    for i in range(len(plan)):
        if uniform and i == 1 and all_alike:  # all rows are the same
            rows *= len(plan)
            break
        reads_null = plan.reads_null[i]
        if not plan.asked[i]:
            rows.append(None)
        elif uniform and reads_null in kept:
            rows.append(kept[reads_null])
        else:
            moment = Moment(plan.level(i), int(plan.step[i]), plan.steps) if moments is None else moments[i]
            row = compiled_row(sequence, moment, prediction_type, branches, opposed, reads_null, learned, setters)
            rows.append(kept.setdefault(reads_null, row) if uniform else row)
    return tuple(rows)


def compiled_row(
    sequence: Sequence[Guidance], moment: Moment, prediction_type: str, branches: list[Branch], opposed: bool,
    reads_null: bool, learned: bool, setters: set[int] | None = None,
) -> RowGuidance:  # fmt: skip
    formula = Formula(moment, prediction_type, opposed, branches)
    further = any(guidance.conditions for guidance in sequence)
    for position, guidance in enumerate(sequence):
        formula.position, formula.is_set, formula.reads_unconditional = position, False, False
        _write(guidance, formula)
        if formula.reads_unconditional and not opposed and not further:
            raise ConfigurationError(
                f"{type(guidance).__name__} contrasts the condition with its absence, and there is no condition",
                where="guidance",
                why="without a condition the conditional and the unconditional prediction are the same",
                suggestion="give condition={...}, or guidance that needs none",
            )
        if setters is not None and formula.is_set:
            setters.add(position)
    value = terms_of(formula.value)
    null = terms_of(formula.unconditional) if reads_null else None
    needed = {symbol for form in (value, null or ()) for symbol, _ in form}
    functions: list[CompiledFunction] = []
    for k in range(len(formula.functions) - 1, -1, -1):  # a function whose result nothing reads is left out
        if ("made", k) in needed:
            function = _compiled_function(k, formula.functions[k])
            needed |= {symbol for form in function.forms for symbol, _ in form}
            functions.insert(0, function)
    evaluated = tuple(sorted(i for kind, i in needed if kind == "branch"))
    return RowGuidance(evaluated or ((0,) if learned else ()), tuple(functions), value, null)


def _write(guidance: Guidance, formula: Formula) -> None:
    """Call ``guidance.write``, and raise if it returns something, which would be lost."""
    returned: Any = guidance.write(formula)
    if returned is not None:
        raise ConfigurationError(
            f"{type(guidance).__name__}.write returns {shown(returned)}",
            where="guidance",
            why="the returned value is not read",
            suggestion="set formula.value, and return nothing",
        )


def _refuse_silence(sequence: Sequence[Guidance], setters: set[int]) -> None:
    """Raise if a guidance neither set nor kept the value at any level."""
    for position, guidance in enumerate(sequence):
        if position not in setters:
            raise ConfigurationError(
                f"{type(guidance).__name__} sets formula.value at no level of the run",
                where="guidance",
                why="it would do nothing",
                suggestion="set formula.value in write(), or call formula.keep() where it does not act",
            )


def _compiled_function(k: int, made: TensorFunction) -> CompiledFunction:
    return CompiledFunction(
        ("made", k), made.function, tuple(terms_of(form) for form in made.forms), made.memory, made.tracks
    )
