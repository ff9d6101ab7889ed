"""The guidance of a run, compiled: for each row of a plan, which branches are evaluated and how they are combined."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from ..plans.linear_form import Form, Symbol
from ..plans.plan import SamplingPlan
from ..running.kernels import pair
from ..schedules.path import Level
from ..support.errors import ConfigurationError, shown
from .base import Branch, Formula, Given, Guidance, Moment, TensorFunction

__all__ = ["RowGuidance", "checked_sequence", "compile_guidance", "evaluations", "follows_the_run", "guidance_of_rows"]

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


def compile_guidance(
    sequence: Sequence[Guidance], plan: SamplingPlan, prediction_type: str, *, opposed: bool, learned: bool = False
) -> tuple[tuple[Branch, ...], tuple[RowGuidance | None, ...]]:
    """Write a sequence of guidance for every row of a plan.

    Args:
        sequence: from left to right.
        plan: the rows.
        prediction_type: what the network returns.
        opposed: whether there is an unconditional branch of its own.
        learned: whether a variance is needed from every call.

    Returns:
        The branches (0: the condition, 1: its absence), and the guidance of each row, None where the
        row asks no model.

    Raises:
        ConfigurationError: a scale that is no number somewhere, or a level at which a guidance cannot act.
    """
    branches = [Branch(), Branch(null=True)]
    setters: set[int] = set()
    rows = guidance_of_rows(
        plan, sequence=sequence, prediction_type=prediction_type, branches=branches, opposed=opposed, learned=learned,
        setters=setters,
    )  # fmt: skip
    _refuse_silence(sequence, setters)
    if not any(row.evaluated for row in rows if row is not None):
        raise ConfigurationError(
            "the model is never asked",
            where="guidance",
            why=f"the zero-init covers all {plan.steps} steps",
            suggestion="lower zero_steps, or take more steps",
        )
    return tuple(branches), rows


def guidance_of_rows(
    plan: SamplingPlan, moments: Sequence[Moment] | None = None, *, sequence: Sequence[Guidance],
    prediction_type: str, branches: list[Branch], opposed: bool, learned: bool, setters: set[int] | None = None,
) -> tuple[RowGuidance | None, ...]:  # fmt: skip
    """Compile the guidance of a plan's rows; see :func:`compile_guidance`.

    Args:
        moments: what the guidance is told of each row; None: the plan's own levels and steps.
        branches: those known so far; further ones are added.
        setters: the places in the sequence of those that set the value, which are added.
    """
    uniform = all(guidance.uniform for guidance in sequence)
    kept: dict[bool, RowGuidance] = {}
    rows: list[RowGuidance | None] = []
    for i in range(len(plan)):
        if uniform and i == 1 and plan.null is None and plan.asks is None:  # the same in a thousand rows
            rows *= len(plan)
            break
        reads_null = plan.null is not None and bool(plan.null[i])
        if not plan.asked[i]:
            rows.append(None)
        elif uniform and reads_null in kept:
            rows.append(kept[reads_null])
        else:
            level = Level(float(plan.time[i]), float(plan.alpha[i]), float(plan.sigma[i]))
            moment = Moment(level, int(plan.step[i]), plan.steps) if moments is None else moments[i]
            row = _compiled_row(sequence, moment, prediction_type, branches, opposed, reads_null, learned, setters)
            rows.append(kept.setdefault(reads_null, row) if uniform else row)
    return tuple(rows)


def _compiled_row(
    sequence: Sequence[Guidance], moment: Moment, prediction_type: str, branches: list[Branch], opposed: bool,
    reads_null: bool, learned: bool, setters: set[int] | None = None,
) -> RowGuidance:  # fmt: skip
    formula = Formula(moment, prediction_type, opposed, branches)
    further = any(guidance.conditions for guidance in sequence)
    for position, guidance in enumerate(sequence):
        formula.position, formula.is_set, formula.asks_absence = position, False, False
        _write(guidance, formula)
        if formula.asks_absence and not opposed and not further:
            raise ConfigurationError(
                f"{type(guidance).__name__} opposes the condition to its absence, and there is none",
                where="guidance",
                why="without a condition the conditional and the unconditional prediction are one",
                suggestion="give condition={...}, or guidance that needs none",
            )
        if setters is not None and formula.is_set:
            setters.add(position)
    value = _terms(formula.value)
    null = _terms(formula.unconditional) if reads_null else None
    needed = {symbol for form in (value, null or ()) for symbol, _ in form}
    steps: list[CompiledFunction] = []
    for k in range(len(formula.functions) - 1, -1, -1):  # what nothing reads is not made
        if ("made", k) in needed:
            step = _compiled_function(k, formula.functions[k])
            needed |= {symbol for form in step.forms for symbol, _ in form}
            steps.insert(0, step)
    asked = tuple(sorted(i for kind, i in needed if kind == "branch"))
    return RowGuidance(asked or ((0,) if learned else ()), tuple(steps), value, null)


def _write(guidance: Guidance, formula: Formula) -> None:
    """Let a guidance write its formula; what it returns would be lost."""
    returned: Any = guidance.write(formula)
    if returned is not None:
        raise ConfigurationError(
            f"{type(guidance).__name__}.write returns {shown(returned)}",
            where="guidance",
            why="what it returns is not read",
            suggestion="set formula.value, and return nothing",
        )


def _refuse_silence(sequence: Sequence[Guidance], setters: set[int]) -> None:
    """Raise for a guidance that has set the value at no level."""
    for position, guidance in enumerate(sequence):
        if position not in setters:
            raise ConfigurationError(
                f"{type(guidance).__name__} sets formula.value at no level of the run",
                where="guidance",
                why="it would do nothing",
                suggestion="set formula.value in write(), or call formula.keep() where it is not to act",
            )


def _compiled_function(k: int, made: TensorFunction) -> CompiledFunction:
    return CompiledFunction(
        ("made", k), made.function, tuple(_terms(form) for form in made.forms), made.memory, made.tracks
    )


def _terms(form: Form) -> Terms:
    """Without zeros; the state first, whose type is the widest."""
    return tuple(sorted(((s, c) for s, c in form.terms.items() if c != 0.0), key=lambda term: term[0] != X))


def checked_sequence(guidance: Any) -> tuple[Guidance, ...]:
    """One guidance or a sequence of them, as a tuple that makes sense from left to right.

    Raises:
        ConfigurationError: not guidance, two that oppose the condition to its absence, or one that
            has nothing before it to act on.
    """
    sequence = (guidance,) if isinstance(guidance, Guidance) else guidance
    if not isinstance(sequence, list | tuple) or not all(isinstance(each, Guidance) for each in sequence):
        raise ConfigurationError(
            f"got {shown(guidance)}",
            where="guidance",
            suggestion="give guidance objects, e.g. [ClassifierFree(7.5), Interval(0.3, 5.0)]",
        )
    names = [type(each).__name__ for each in sequence]
    contrasting = [name for name, each in zip(names, sequence, strict=True) if each.contrasts]
    if len(contrasting) > 1:
        raise ConfigurationError(
            f"holds {' and '.join(contrasting)}",
            where="guidance",
            why="each opposes the condition to its absence, at a scale of its own",
            suggestion="keep one of them",
        )
    if sequence and sequence[0].follows:
        raise ConfigurationError(
            f"begins with {names[0]}",
            where="guidance",
            why="it changes what stands before it, and there is nothing",
            suggestion=f"put it behind, e.g. [ClassifierFree(7.5), {sequence[0]!r}]",
        )
    return tuple(sequence)


def follows_the_run(sequence: Sequence[Guidance], level: Level, prediction_type: str) -> bool:
    """Whether what a guidance does depends on more than the noise level: on earlier calls, or on the step."""
    rows = [
        _compiled_row(
            sequence, Moment(level, step, 10), prediction_type, [Branch(), Branch(null=True)],
            opposed=True, reads_null=False, learned=False,
        )
        for step in (0, 4, 9)
    ]  # fmt: skip
    told = [(row.evaluated, row.value, [_comparable(step) for step in row.functions]) for row in rows]
    remembers = any(step.memory is not None for row in rows for step in row.functions)
    return remembers or any(each != told[0] for each in told)


def _comparable(step: CompiledFunction) -> tuple[Any, ...]:
    """What a step computes with, as far as it can be compared: its forms, and the numbers given to its function."""
    given = step.function.args if isinstance(step.function, partial) else ()
    return step.forms, tuple(value for value in given if isinstance(value, int | float))


def evaluations(guidance: Guidance | Sequence[Guidance], plan: SamplingPlan) -> tuple[int, ...]:
    """How many evaluations of a model, for each sample, the rows of a plan take under this guidance.

    Args:
        guidance: one, or several from left to right.
        plan: e.g. ``pipeline.plan(20)``.

    Raises:
        ConfigurationError: not guidance, or guidance that cannot act on this plan.
    """
    branches, rows = compile_guidance(checked_sequence(guidance), plan, "v_prediction", opposed=True)
    counted = [not isinstance(branch.model, Given) for branch in branches]
    return tuple(0 if row is None else sum(counted[i] for i in row.evaluated) for row in rows)
