"""Sequences of guidance: checks, the number of evaluations, and whether they depend on the run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..plans.plan import SamplingPlan
from ..schedules.path import Level
from ..support.errors import ConfigurationError, shown
from .base import Guidance
from .cached import CachedGuidance
from .compile import compile_guidance, compiled_row
from .formula import Branch
from .rows import CompiledFunction
from .scales import Moment

__all__ = ["checked_sequence", "evaluations", "follows_the_run"]


def checked_sequence(guidance: Any) -> tuple[Guidance, ...]:
    """One guidance or a sequence of them, as a tuple.

    Raises:
        ConfigurationError: something else than guidance, two that contrast the condition with its absence, or a first
            one that changes the guidance before it.
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
            why="each contrasts the condition with its absence, at a scale of its own",
            suggestion="keep one of them",
        )
    if sequence and sequence[0].follows:
        raise ConfigurationError(
            f"begins with {names[0]}",
            where="guidance",
            why="it changes the guidance before it, and there is none",
            suggestion=f"put it after another one, e.g. [ClassifierFree(7.5), {sequence[0]!r}]",
        )
    return tuple(sequence)


def follows_the_run(sequence: Sequence[Guidance], level: Level, prediction_type: str) -> bool:
    """Whether the guidance depends on more than the noise level: on earlier calls, or on the step."""
    rows = [
        compiled_row(
            sequence, Moment(level, step, 10), prediction_type, [Branch(), Branch(null=True)],
            opposed=True, reads_null=False, learned=False,
        )
        for step in (0, 4, 9)
    ]  # fmt: skip
    compared = [(row.evaluated, row.value, [_comparable(each) for each in row.functions]) for row in rows]
    remembers = any(each.memory is not None for row in rows for each in row.functions)
    return remembers or any(each != compared[0] for each in compared)


def _comparable(each: CompiledFunction) -> tuple[Any, ...]:
    """The parts of a function that can be compared: its forms, and the numbers among its bound arguments."""
    given = each.function.args if isinstance(each.function, partial) else ()
    return each.forms, tuple(value for value in given if isinstance(value, int | float))


def evaluations(guidance: Guidance | Sequence[Guidance], plan: SamplingPlan) -> tuple[int, ...]:
    """The number of model evaluations for each sample, row by row of a plan, under this guidance.

    Args:
        guidance: one, or several from left to right; of a plan that holds its guidance this decides instead.
        plan: e.g. ``pipeline.plan(20)``.

    Raises:
        ConfigurationError: something else than guidance, or guidance that cannot act on this plan.
    """
    sequence = checked_sequence(guidance)
    if plan.scale is None and len(sequence) == 1 and isinstance(sequence[0], CachedGuidance):
        plan = sequence[0].folded_into(plan)
    if plan.scale is not None:
        return plan.evaluations_by_row
    return compile_guidance(sequence, plan, "v_prediction", opposed=True).evaluations
