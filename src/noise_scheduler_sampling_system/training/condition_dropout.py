"""Conditions that are dropped at random, so that one network learns both branches of classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..guidance.conditions import Unbatched, merged, null_counterpart
from ..support.errors import ConfigurationError

__all__ = ["null_of", "with_dropped"]


def null_of(model: Any, condition: Mapping[str, Any], null: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The null condition as a sampler's guidance has it: the given entries, those of the model, or zeros.

    Raises:
        ConfigurationError: an entry has no evident null value (labels), or the condition has no such entry.
    """
    return null_counterpart(model, condition) if null is None else merged(condition, null)


def with_dropped(condition: Mapping[str, Any], null: Mapping[str, Any], dropped: Tensor) -> dict[str, Any]:
    """The condition with its null counterpart for the dropped samples.

    Args:
        condition, null: of the same names and kinds; tensors have one row a sample, or one row for all.
        dropped: shape (B,), bool.

    Raises:
        ConfigurationError: an entry that cannot differ between samples.
    """

    def choose(where: str, given: Any, instead: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(instead, Mapping):
            return {name: choose(f"{where}[{name!r}]", given[name], instead[name]) for name in given}
        if isinstance(given, list | tuple) and isinstance(instead, list | tuple) and len(given) == len(instead):
            pairs = enumerate(zip(given, instead, strict=True))
            return type(given)(choose(f"{where}[{i}]", one, other) for i, (one, other) in pairs)
        if given is instead or isinstance(given, Unbatched | str) or given is None:
            return given
        fits = isinstance(given, Tensor) and given.ndim and len(given) in (1, len(dropped))
        other = torch.as_tensor(instead)
        if not fits or other.shape[1:] != given.shape[1:] or len(other) not in (1, len(dropped)):
            raise ConfigurationError(
                "cannot be dropped for single samples",
                where=where,
                why=f"the batch has {len(dropped)}, and its null value must have the same shape",
                suggestion="give tensors with one row a sample, or condition_dropout=0",
            )
        mask = dropped.to(given.device).reshape(-1, *[1] * (given.ndim - 1))
        return torch.where(mask, other.to(given.device, given.dtype), given)

    return {name: choose(f"condition[{name!r}]", value, null[name]) for name, value in condition.items()}
