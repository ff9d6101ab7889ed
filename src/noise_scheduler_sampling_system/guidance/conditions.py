"""The conditions of a model's branches: the null condition, and several conditions as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ..running.model_adapter import map_tensors, map_values
from ..support.errors import ConfigurationError
from ..support.registry import did_you_mean
from ..support.values import ByValue

__all__ = [
    "Unbatched", "joined", "merged", "null_counterpart", "numbers_as_rows", "refuse_foreign_labels",
    "unwrapped", "zeros_for",
]  # fmt: skip


@final
@dataclass(frozen=True, eq=False)
class Unbatched(ByValue):
    """A value of a condition without a batch dimension: every model call gets it whole.

    ``condition={"txt_ids": Unbatched(ids)}``. Other tensors have one row for each sample, or one row for all samples.
    They are sliced where the batch is split, and repeated where guidance evaluates two branches in one batch.

    Attributes:
        value: a tensor, an array, or nested mappings, lists and tuples of them.
    """

    value: Any

    def on(self, device: torch.device) -> Unbatched:
        """The same with its tensors on the device; arrays become tensors."""
        tensors = map_values(torch.from_numpy, self.value, np.ndarray)
        return Unbatched(map_tensors(lambda value: value.to(device), tensors))


def unwrapped(condition: Mapping[str, Any]) -> Mapping[str, Any]:
    """A condition as the arguments of the model: without the marks of unbatched values."""
    if not condition:
        return condition
    result: Mapping[str, Any] = map_values(lambda shared: shared.value, condition, Unbatched)
    return result


def merged(condition: Mapping[str, Any], null: Mapping[str, Any]) -> dict[str, Any]:
    """The null condition, completed by the entries of the condition, also in nested mappings.

    Raises:
        ConfigurationError: the null condition is empty, or has an entry that the condition does not have.
    """
    if not null:
        raise ConfigurationError(
            "is empty, so it is the condition itself",
            where="null_condition",
            why="guidance would compare the condition with itself",
            suggestion="give the entries that differ, or leave it out, or set classifier_free_guidance=False",
        )
    odd = [name for name in null if name not in condition]
    if odd:
        raise ConfigurationError(
            "the condition has no such entry",
            where=f"null_condition[{odd[0]!r}]",
            why="both branches run as one batch",
            suggestion=did_you_mean(odd[0], map(str, condition)),
        )

    def over(base: Any, change: Any) -> Any:
        if isinstance(base, Mapping) and isinstance(change, Mapping):
            return {**base, **{name: over(base.get(name), value) for name, value in change.items()}}
        return change

    result: dict[str, Any] = over(condition, null)
    return result


def refuse_foreign_labels(model: Any, condition: Mapping[str, Any], where: str) -> None:
    """Check class labels against the number of classes, which networks of diffusers and the embedded models state.

    Raises:
        ConfigurationError: a label is outside the range.
    """
    labels = condition.get("class_labels")
    if not isinstance(labels, Tensor) or labels.is_floating_point() or not labels.numel():
        return
    count = _classes(model)
    if count is None:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= count:
        raise ConfigurationError(
            f"holds the label {low if low < 0 else high}",
            where=f"{where}['class_labels']",
            suggestion=f"the model has the labels 0 to {count - 1}",
        )


def _classes(model: Any) -> int | None:
    """The number of labels of a model, the null class included; None if it is not stated."""
    config = getattr(model, "config", None)
    table = getattr(config, "num_class_embeds", None)
    if table is not None and getattr(config, "class_embed_type", None) is None:
        return int(table)
    transformer = getattr(config, "num_embeds_ada_norm", None)
    if transformer is not None:
        return int(transformer) + 1  # the table has one more row, for the null class
    null = getattr(model, "null_class", None)
    return int(null) + 1 if isinstance(null, int) else None


def null_counterpart(model: Any, condition: Mapping[str, Any]) -> Mapping[str, Any]:
    """The unconditional branch's condition: that of the model's ``null_condition``, or zeros instead of embeddings.

    Raises:
        ConfigurationError: an entry does not have an evident null value (labels, text).
    """
    return dict(model.null_condition(condition)) if hasattr(model, "null_condition") else zeros_for(condition)


def zeros_for(condition: Mapping[str, Any]) -> dict[str, Any]:
    """A condition with zeros instead of its embeddings.

    Raises:
        ConfigurationError: an entry does not have an evident null value (labels, text).
    """
    return {name: _zeros(name, value) for name, value in condition.items()}


def _zeros(name: str, value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.zeros_like(value)
    if isinstance(value, Mapping):
        return {key: _zeros(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_zeros(f"{name}[{i}]", item) for i, item in enumerate(value))
    if isinstance(value, Unbatched):
        return value
    raise ConfigurationError(
        f"{name!r} does not have an evident null value",
        where="null_condition",
        why="classifier-free guidance compares the condition with its absence",
        suggestion="give null_condition={...} with it, e.g. the index of the null class, or "
        "classifier_free_guidance=False",
    )


def joined(values: Sequence[Any], where: str) -> Any:
    """Several conditions as one batch: tensors are concatenated. A single condition is returned unchanged.

    Raises:
        ConfigurationError: they differ in kind or shape.
    """
    first, *others = values
    if not others:
        return first
    if isinstance(first, Unbatched):
        return _same(values, where)
    if isinstance(first, Tensor):
        if all(isinstance(value, Tensor) and value.shape == first.shape for value in others):
            return torch.cat([value.to(first.device) for value in values]) if first.ndim else first
    elif all(isinstance(value, dict | Mapping) and value.keys() == first.keys() for value in values):
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


def _same(values: Sequence[Any], where: str) -> Unbatched:
    """The unbatched value that all branches share."""
    first = values[0]
    for other in values[1:]:
        if not isinstance(other, Unbatched) or not _equal(first.value, other.value):
            raise ConfigurationError(
                "has no batch dimension, and differs between branches",
                where=where,
                why="all branches of a model run as one batch",
                suggestion="give it a batch dimension, or the same value in every branch",
            )
    return first  # type: ignore[no-any-return]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool((a == b.to(a.device)).all()))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and bool(a == b)


def numbers_as_rows(
    conditions: Mapping[int, Mapping[str, Any]], batch: int, device: torch.device
) -> dict[int, dict[str, Any]]:
    """The conditions with numbers in which they differ replaced by tensors of one row for each sample."""
    result = {i: dict(condition) for i, condition in conditions.items()}
    if not any(_is_number(value) for condition in result.values() for value in condition.values()):
        return result
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
