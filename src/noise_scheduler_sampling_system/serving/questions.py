"""Questions to a network, and which of them may share a call: the same network, shape, type and kind of condition."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..guidance.conditions import Unbatched, unwrapped
from ..plans.base import Plan
from ..running.faults import place_of_row
from ..running.model_adapter import ModelAdapter, map_tensors

__all__ = ["Asked", "Question", "Slice", "joined_conditions", "sharing_key"]


@final
@dataclass(frozen=True, eq=False)
class Asked:
    """A network under a condition: what stays the same from one question of a run to the next.

    Attributes:
        adapter: the network.
        condition: its keywords, with marks of unbatched values.
        key: :func:`sharing_key`; questions with equal keys may share a call.
    """

    adapter: ModelAdapter
    condition: Mapping[str, Any]
    key: Hashable


def sharing_key(
    adapter: ModelAdapter,
    condition: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    frames: tuple[int, ...] = (),
) -> Hashable:
    """What is equal for questions that may share a call.

    Args:
        adapter: the network.
        condition: its keywords, with marks of unbatched values.
        shape: of one sample.
        dtype: of the network's input.
        device: of the state.
        frames: (T,) for samples whose T frames have times of their own.
    """
    return id(adapter.model), adapter.two_times, tuple(shape), dtype, device, frames, _kind(condition)


@final
@dataclass(eq=False)
class Question:
    """One evaluation of a network.

    Attributes:
        asked: the network and the condition, of R rows.
        x: the network's input, shape (R, ...).
        t: its times, shape (R,); (R, 2) for a network of two times; (R, T) for T frames with times of their own.
        plan, row: what the evaluation is for.
        owns_input: whether nothing else reads x, so that the network may change it.
        is_suspect: whether the input or the output may hold NaN or Inf.
    """

    asked: Asked
    x: Tensor
    t: Tensor
    plan: Plan
    row: int
    owns_input: bool = False
    is_suspect: bool = False

    def __post_init__(self) -> None:
        self._rows = self.x.shape[0]

    def __len__(self) -> int:
        return self._rows

    @property
    def place(self) -> str:
        """The row as errors name it."""
        return place_of_row(self.plan, self.row)


@final
@dataclass(frozen=True, eq=False)
class Slice:
    """Rows start to stop of a question, which share a call with rows of other questions."""

    question: Question
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def is_whole(self) -> bool:
        return self.stop - self.start == len(self.question)

    def halves(self) -> tuple[Slice, Slice]:
        """The slice in two; it has at least two rows."""
        middle = (self.start + self.stop) // 2
        return Slice(self.question, self.start, middle), Slice(self.question, middle, self.stop)

    @property
    def x(self) -> Tensor:
        return self.question.x if self.is_whole else self.question.x[self.start : self.stop]

    @property
    def t(self) -> Tensor:
        return self.question.t if self.is_whole else self.question.t[self.start : self.stop]

    @property
    def condition(self) -> Mapping[str, Any]:
        """The condition of these rows."""
        whole = self.question.asked.condition
        if self.is_whole:
            return whole
        rows: Mapping[str, Any] = map_tensors(
            lambda value: value[self.start : self.stop] if value.ndim else value, whole
        )
        return rows


def joined_conditions(slices: Sequence[Slice]) -> Mapping[str, Any]:
    """The condition of a call, as keywords of the network: the rows of all slices, whose questions have equal keys."""
    conditions = [each.condition for each in slices]
    return unwrapped(conditions[0] if len(conditions) == 1 else _joined(conditions))


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values)) if first.ndim else first
    if isinstance(first, Mapping):
        return {name: _joined([value[name] for value in values]) for name in first}
    if isinstance(first, list | tuple):
        return type(first)(_joined(items) for items in zip(*values, strict=True))
    return first  # the keys are equal, so the values are


def _kind(value: Any) -> Hashable:
    """What must be equal in two conditions that share a call.

    Tensors with a row for each sample may differ in their numbers. All other values must be the same.
    """
    if isinstance(value, Unbatched):
        return "unbatched", _content(value.value)
    if isinstance(value, Tensor):
        return ("rows", value.shape[1:], value.dtype) if value.ndim else ("number", _content(value))
    if isinstance(value, Mapping):
        return "mapping", tuple(sorted((str(name), _kind(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_kind, value))
    return _plain(value)


def _content(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return value.shape, value.dtype, hashlib.sha256(data).digest()
    if isinstance(value, Mapping):
        return "mapping", tuple(sorted((str(name), _content(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_content, value))
    return _plain(value)


def _plain(value: Any) -> Hashable:
    simple = value is None or isinstance(value, bool | int | float | str | bytes)
    return (type(value), value) if simple else ("object", id(value))
