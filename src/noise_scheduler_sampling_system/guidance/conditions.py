"""The conditions of a model's branches: the null one, and several as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigurationError

__all__ = ["joined", "null_counterpart", "numbers_as_rows"]


def null_counterpart(model: Any, condition: Mapping[str, Any]) -> Mapping[str, Any]:
    """The unconditional branch's condition: what the model says, or zeros in place of embeddings.

    Raises:
        ConfigurationError: an entry that has no evident null value (labels, text).
    """
    if hasattr(model, "null_condition"):
        return dict(model.null_condition(condition))

    def zeros(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: zeros(f"{name}.{key}", item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(zeros(f"{name}[{i}]", item) for i, item in enumerate(value))
        if isinstance(value, Tensor) and value.is_floating_point():
            return torch.zeros_like(value)
        raise ConfigurationError(
            f"there is no evident null value for {name!r}",
            where="null_condition",
            why="classifier-free guidance compares the condition with its absence",
            suggestion="give null_condition={...}, e.g. the index of the null class, or classifier_free_guidance=False",
        )

    return {name: zeros(name, value) for name, value in condition.items()}


def joined(values: Sequence[Any], where: str) -> Any:
    """Several conditions as one batch of so many times the size; a single one as it is.

    Raises:
        ConfigurationError: they differ in kind or shape.
    """
    first, *others = values
    if not others:
        return first
    if all(isinstance(value, Tensor) and value.shape == first.shape for value in values):
        return torch.cat([value.to(first.device) for value in values]) if first.ndim else first
    if all(isinstance(value, Mapping) and value.keys() == first.keys() for value in values):
        return {name: joined([value[name] for value in values], f"{where}[{name!r}]") for name in first}
    if all(isinstance(value, list | tuple) and len(value) == len(first) for value in values):
        return type(first)(joined(items, f"{where}[{i}]") for i, items in enumerate(zip(*values, strict=True)))
    simple = not isinstance(first, Tensor | Mapping | list | tuple)
    if simple and all(type(value) is type(first) and value == first for value in others):
        return first
    odd = next((v for v in others if _describe(v) != _describe(first)), others[0])
    raise ConfigurationError(
        f"differs in kind or shape from its null counterpart: {_describe(first)} and {_describe(odd)}",
        where=where,
        why="all branches of a model run as one batch",
        suggestion="give tensors with one row a sample, and every condition with the same names and shapes",
    )


def numbers_as_rows(
    conditions: Mapping[int, Mapping[str, Any]], batch: int, device: torch.device
) -> dict[int, dict[str, Any]]:
    """Numbers in which the branches differ, as tensors of one row a sample."""
    result = {i: dict(condition) for i, condition in conditions.items()}
    for name in set.intersection(*(set(condition) for condition in result.values())):
        values = [condition[name] for condition in result.values()]
        numbers = [_is_number(value) for value in values]
        if any(numbers) and not (all(numbers) and all(bool(value == values[0]) for value in values)):
            for condition in result.values():
                if _is_number(condition[name]):
                    condition[name] = torch.as_tensor(condition[name], device=device).expand(batch)
    return result


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, int | float) and not isinstance(value, bool)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    return f"{type(value).__name__} {sorted(value)}" if isinstance(value, Mapping) else repr(value)
