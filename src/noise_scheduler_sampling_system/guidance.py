"""Guidance: several predictions of a model combined into one. Acts on the network's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigurationError

__all__ = ["classifier_free", "null_counterpart", "plain"]

#: (x, t) ↦ output
Predictor = Callable[[Tensor, Tensor], Tensor]
#: (x, t, condition) ↦ output
Network = Callable[[Tensor, Tensor, Mapping[str, Any]], Tensor]


def plain(model: Network, condition: Mapping[str, Any]) -> Predictor:
    """The model under one condition."""
    return lambda x, t: model(x, t, condition)


def classifier_free(
    model: Network,
    condition: Mapping[str, Any],
    null: Mapping[str, Any],
    scale: float,
    *,
    learned_variance: bool = False,
) -> Predictor:
    """u + scale·(c − u), both branches in one batch (Ho & Salimans 2022, arXiv 2207.12598, with scale = 1 + w).

    Every parametrisation is affine in the others with weights that add up to one, so it does
    not matter which one the network predicts.

    Args:
        model: the network.
        condition, null: what each branch is given; entries of the same names and shapes.
        scale: 1 is the conditional prediction alone, 0 the unconditional one.
        learned_variance: a second half of channels holds a variance; it is the conditional one.

    Raises:
        ConfigurationError: the two do not fit into one batch.
    """
    if scale == 1.0:
        return plain(model, condition)
    if scale == 0.0:
        return plain(model, null)
    both = _joined(condition, null, "condition")

    def predict(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        if not learned_variance:
            return torch.lerp(unconditional, conditional, scale)
        mean, variance = conditional.chunk(2, dim=1)
        return torch.cat([torch.lerp(unconditional.chunk(2, dim=1)[0], mean, scale), variance], dim=1)

    return predict


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


def _joined(first: Any, second: Any, where: str) -> Any:
    """Two conditions as one batch of twice the size."""
    if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape:
        return torch.cat([first, second.to(first.device)]) if first.ndim else first
    if isinstance(first, Mapping) and isinstance(second, Mapping) and first.keys() == second.keys():
        return {name: _joined(first[name], second[name], f"{where}[{name!r}]") for name in first}
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        return type(first)(_joined(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(first, second, strict=True)))
    if type(first) is type(second) and not isinstance(first, Tensor | Mapping | list | tuple) and first == second:
        return first
    raise ConfigurationError(
        f"differs in kind or shape from its null counterpart: {_describe(first)} and {_describe(second)}",
        where=where,
        why="both branches run as one batch",
        suggestion="give tensors with one row a sample, and null_condition with the same names and shapes",
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    return f"{type(value).__name__} {sorted(value)}" if isinstance(value, Mapping) else repr(value)
