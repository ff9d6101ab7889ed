"""Bound plans whose numbers are entries of a tensor, so that one captured run serves every plan of its form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..config.prediction import IDENTITY, Affine
from .bound_plan import BoundPlan, BoundRow
from .kernels import Factor

__all__ = ["form_of", "table_of", "with_table"]

_NUMBERS = ("a", "of_output", "of_clean", "of_null")


def table_of(bound: BoundPlan) -> Tensor:
    """The coefficients of all rows, one after another, in float64 on the CPU."""
    return torch.tensor([float(value) for row in bound.rows for value in _numbers(row)], dtype=torch.float64)


def form_of(bound: BoundPlan) -> tuple[Any, ...]:
    """What a captured run of a plan fixes: everything but the coefficients. Hashable.

    Plans of one form share a captured run. The form holds which earlier predictions and noises each row reads, which
    predictions are kept, and the clipping.
    """
    fixed = [field.name for field in fields(BoundRow) if field.name not in _NUMBERS]
    rows = tuple(tuple(_without_numbers(name, getattr(row, name)) for name in fixed) for row in bound.rows)
    return rows, repr(bound.clip), bound.split, bound.branches, bound.plan.steps


def with_table(bound: BoundPlan, table: Tensor) -> BoundPlan:
    """The plan with the entries of a table as its coefficients.

    Args:
        bound: the plan, for its form.
        table: a tensor of the size of :func:`table_of`, in the type that the steps compute in.
    """
    entries = iter(table.unbind())
    return replace(bound, rows=tuple(_with_numbers(row, entries) for row in bound.rows))


def _numbers(row: BoundRow) -> Iterator[Factor]:
    """The coefficients of a row, in a fixed order."""
    yield from (getattr(row, name) for name in _NUMBERS)
    yield from (factor for _, factor in row.history)
    yield from (factor for *_, factor in row.noise)
    yield from (factor for _, factor in row.delta)
    for conversion in (row.to_clean, row.to_y):
        yield from () if conversion is IDENTITY else conversion
    yield from row.log_variance or ()


def _with_numbers(row: BoundRow, entries: Iterator[Tensor]) -> BoundRow:
    """The row with the next entries as its coefficients, in the order of :func:`_numbers`."""
    numbers: dict[str, Any] = {name: next(entries) for name in _NUMBERS}
    history: Any = tuple((j, next(entries)) for j, _ in row.history)
    noise: Any = tuple((step, stage, next(entries)) for step, stage, _ in row.noise)
    delta: Any = tuple((j, next(entries)) for j, _ in row.delta)
    conversions: list[Any] = [each if each is IDENTITY else Affine(*_two(entries)) for each in (row.to_clean, row.to_y)]
    bounds = None if row.log_variance is None else _two(entries)
    return replace(
        row,
        **numbers,
        history=history,
        noise=noise,
        delta=delta,
        to_clean=conversions[0],
        to_y=conversions[1],
        log_variance=bounds,
    )


def _two(entries: Iterator[Tensor]) -> tuple[Any, Any]:
    return next(entries), next(entries)


def _without_numbers(name: str, value: Any) -> Any:
    if name in ("history", "delta"):
        return tuple(j for j, _ in value)
    if name == "noise":
        return tuple((step, stage) for step, stage, _ in value)
    if name in ("to_clean", "to_y"):
        return value is IDENTITY
    return value is not None if name == "log_variance" else value
