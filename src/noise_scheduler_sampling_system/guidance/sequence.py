"""Sequences of guidance: checks, the number of evaluations, and whether they depend on the run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..plans.plan import SamplingPlan
from ..schedules.path import Level
from ..support.errors import ConfigurationError, shown
from .base import Guidance
from .compile import compile_guidance, compiled_row
from .formula import Branch
from .rows import CompiledFunction, evaluations_of
from .scales import Moment

__all__ = ["checked_sequence", "evaluations", "follows_the_run"]


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
        compiled_row(
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
    return evaluations_of(rows, [branch.model for branch in branches])
