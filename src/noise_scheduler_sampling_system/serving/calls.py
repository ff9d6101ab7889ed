"""The model calls of a round: questions that fit together share a call, and a fault stays with its own question."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from ..pipeline.network_calls import explaining
from ..running.batching import out_of_memory, release_cache
from ..running.faults import changed_input, explained
from ..support.errors import ModelOutputError, OutOfMemoryError
from .metrics import Meter
from .questions import Question, Slice, joined_conditions

__all__ = ["Answer", "Calls"]

logger = logging.getLogger(__name__)

#: The answer to a question: the network's output for all of its rows, or the error that it met.
Answer = Tensor | Exception


class _Kept(NamedTuple):
    """The condition of the last call of one kind; the same questions come again in the next round.

    Attributes:
        parts: the conditions that it was made of, and their rows; they are held, so that no other object gets their id.
        condition: the keywords of the network.
    """

    parts: tuple[tuple[Mapping[str, Any], int, int], ...]
    condition: Mapping[str, Any]


@final
@dataclass
class Calls:
    """Calls networks for many questions at once.

    Attributes:
        most: the most rows of a call; it gets smaller where memory runs out.
        meter: counts calls.
    """

    most: int
    meter: Meter
    _kept: dict[Hashable, _Kept] = field(default_factory=dict)

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """The answer to each question.

        A network that raises is called again for each question alone, and the error belongs to those that raise then.
        """
        by_key: dict[Hashable, list[int]] = {}
        for i, question in enumerate(questions):
            by_key.setdefault(question.asked.key, []).append(i)
        if self._kept.keys() - by_key.keys():
            self._kept = {key: kept for key, kept in self._kept.items() if key in by_key}
        answers: list[Answer | None] = [None] * len(questions)
        for indices in by_key.values():
            given = self._answers_of_a_kind([questions[i] for i in indices])
            for i, answer in zip(indices, given, strict=True):
                answers[i] = answer
        return answers  # type: ignore[return-value]

    def _answers_of_a_kind(self, questions: Sequence[Question]) -> list[Answer]:
        pieces: dict[int, list[Tensor]] = {id(each): [] for each in questions}
        errors: dict[int, Exception] = {}
        for slices in _packed(questions, self.most):
            self._call(slices, pieces, errors)
        return [
            errors.get(id(each)) or (got[0] if len(got := pieces[id(each)]) == 1 else torch.cat(got))
            for each in questions
        ]

    def _call(self, slices: Sequence[Slice], pieces: Mapping[int, list[Tensor]], errors: dict[int, Exception]) -> None:
        """Call the network for some slices, in order, and put the output or the error of each where it belongs."""
        slices = [each for each in slices if id(each.question) not in errors]
        if not slices:
            return
        rows = sum(map(len, slices))
        try:
            output = self._output(slices)
        except Exception as error:
            found, is_memory = error.with_traceback(None), out_of_memory(error)
        else:
            start = 0
            for each in slices:
                pieces[id(each.question)].append(output[start : start + len(each)])
                start += len(each)
            return
        # outside the except block, whose traceback keeps the tensors of the failed call alive
        if is_memory:
            release_cache(slices[0].question.x.device)
            if rows > 1:
                self.most = min(self.most, math.ceil(rows / 2))
                logger.warning("out of memory (%s): going on with calls of at most %d rows", found, self.most)
                for half in _halves(slices):
                    self._call(half, pieces, errors)
                return
            found = OutOfMemoryError(
                "out of memory in a call of a single row",
                where=slices[0].question.place,
                why=str(found),
                suggestion="lower the resolution, use a half-precision model, or free memory on the device",
            )
        if len({id(each.question) for each in slices}) > 1:
            logger.warning("the model raised %s in a call of %d rows: calling it for each alone", found, rows)
            for each in slices:
                self._call([each], pieces, errors)
            return
        question = slices[0].question
        explained(found, f"raised by the model at {question.place}")
        if isinstance(found, StopIteration):  # neither a future nor a generator can raise it
            found = ModelOutputError(
                "the model raised StopIteration",
                where=question.place,
                suggestion="cancel a request by its handle, and let the model return a prediction",
            )
        errors[id(question)] = found

    def _output(self, slices: Sequence[Slice]) -> Tensor:
        first = slices[0]
        if len(slices) == 1:
            # a copy of t, because a network may change it in-place, and another may be asked at the same times
            x, t, is_copy = first.x, first.t.clone(), first.question.owns_input
        else:
            x, t, is_copy = torch.cat([each.x for each in slices]), torch.cat([each.t for each in slices]), True
        network = first.question.asked.adapter.__call__
        if t.is_floating_point():
            network = explaining(network)
        tracked = not (is_copy or x.is_inference())
        version = x._version if tracked else 0
        began = time.perf_counter()
        output = network(x, t, self._condition(slices))
        if tracked and x._version != version:
            raise changed_input(first.question.place)
        if len(slices) > 1 and not _fits(output, x):  # which of them it is for, a call for each alone tells
            raise ModelOutputError(
                f"the model returned shape {tuple(output.shape)}, expected {tuple(x.shape)}",
                where=first.question.place,
                suggestion="return the prediction for every entry of x",
            )
        for i, is_finite in enumerate(_finite(slices, x, output)):
            slices[i].question.is_suspect |= not is_finite
        # after the check, which waits for the device
        self.meter.called(len(x), self.most, time.perf_counter() - began)
        return output

    def _condition(self, slices: Sequence[Slice]) -> Mapping[str, Any]:
        key = slices[0].question.asked.key
        parts = tuple((each.question.asked.condition, each.start, each.stop) for each in slices)
        kept = self._kept.get(key)
        if kept is not None and len(kept.parts) == len(parts):
            same = (a[0] is b[0] and a[1:] == b[1:] for a, b in zip(kept.parts, parts, strict=True))
            if all(same):
                return kept.condition
        condition = joined_conditions(slices)
        self._kept[key] = _Kept(parts, condition)
        return condition


def _packed(questions: Sequence[Question], most: int) -> list[list[Slice]]:
    """The rows of some questions, in order, in as few calls as possible, of as equal sizes as possible."""
    total = sum(map(len, questions))
    size = math.ceil(total / math.ceil(total / most))
    calls: list[list[Slice]] = [[]]
    room = size
    for question in questions:
        start = 0
        while start < len(question):
            if not room:
                calls.append([])
                room = size
            taken = min(room, len(question) - start)
            calls[-1].append(Slice(question, start, start + taken))
            start, room = start + taken, room - taken
    return calls


def _halves(slices: Sequence[Slice]) -> tuple[list[Slice], list[Slice]]:
    """The rows of a call in two."""
    if len(slices) == 1:
        first, second = slices[0].halves()
        return [first], [second]
    middle = len(slices) // 2
    return list(slices[:middle]), list(slices[middle:])


def _fits(output: Tensor, x: Tensor) -> bool:
    """Whether an output has the shape of its input, or that with a variance in a second half of channels."""
    return output.ndim == x.ndim and output.shape in (
        x.shape,
        (*x.shape[:1], *(2 * n for n in x.shape[1:2]), *x.shape[2:]),
    )


def _finite(slices: Sequence[Slice], x: Tensor, output: Tensor) -> list[bool]:
    """Whether the sums over each slice are finite, in one read from the device.

    A sum of finite entries may overflow, so a slice that is not finite here is only suspect.
    """
    sums = _sums(x)
    if output.is_floating_point() and len(output) == len(x):
        sums = sums + _sums(output)
    rows, start, finite = torch.isfinite(sums).tolist(), 0, []
    for each in slices:
        finite.append(all(rows[start : start + len(each)]))
        start += len(each)
    return finite


def _sums(value: Tensor) -> Tensor:
    """The sum over each row, in float32 at least."""
    rows = value.reshape(len(value), math.prod(value.shape[1:]))
    return rows.sum(1, dtype=torch.promote_types(value.dtype, torch.float32))
