"""Evaluate a model under guidance: the branches of a run, evaluated and combined row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from ..plans.base import Plan
from ..running.loop import Branches, Model
from ..running.model_adapter import ModelAdapter, map_tensors
from ..support.errors import ConfigurationError
from .compile import CompiledGuidance
from .conditions import joined
from .rows import RowGuidance
from .scales import Moment

__all__ = ["Caller", "Memory", "RunGuidance"]

#: (model, condition, copies) ↦ the network as a function of (x, row), for a batch with this number of copies of x.
Caller = Callable[[ModelAdapter, Mapping[str, Any], int], Model]
#: The numbers of branches of one model ↦ the call that evaluates them in one batch.
_JoinedCall = Callable[[tuple[int, ...]], Model]
#: The tensors that guidance keeps from call to call of one run, by name. They are replaced, never changed in-place.
Memory = dict[str, Tensor]


@final
class RunGuidance(NamedTuple):
    """The guidance of one run.

    Attributes:
        branches: the model and the condition of each branch.
        compiled: the guidance of each row of the plan.
        split: whether the model returns a variance in a second half of channels.
        pairs: whether the plan reads the unconditional output beside the guided one.
    """

    branches: tuple[tuple[ModelAdapter, Mapping[str, Any]], ...]
    compiled: CompiledGuidance
    split: bool
    pairs: bool

    @property
    def rows(self) -> tuple[RowGuidance | None, ...]:
        """The guidance of each row of the plan; None for a row without a model call."""
        return self.compiled.rows

    @property
    def evaluations(self) -> tuple[int, ...]:
        """The number of network evaluations for each sample, row by row."""
        return self.compiled.evaluations

    def on(self, plan: Plan, moments: Sequence[Moment]) -> RunGuidance:
        """The same guidance for the rows of another plan."""
        return self._replace(compiled=self.compiled.on(plan, moments))

    def part(self, start: int, stop: int) -> RunGuidance:
        """The same guidance for samples start to stop."""

        def rows(value: Tensor) -> Tensor:
            return value[start:stop] if value.ndim else value

        parts = tuple((adapter, map_tensors(rows, condition)) for adapter, condition in self.branches)
        return self._replace(branches=parts)

    def model(self, caller: Caller, memory: Memory) -> Model:
        """The guided model: (x, row) ↦ the guided output.

        Args:
            caller: makes the calls of a network.
            memory: holds the tensors that the guidance keeps.

        Raises:
            ConfigurationError: conditions that do not fit into one batch.
        """

        calls: dict[tuple[int, ...], Model] = {}

        def joined_call(indices: tuple[int, ...]) -> Model:
            if indices not in calls:  # rows with other scales share the call, and its memory
                condition = joined([self.branches[i][1] for i in indices], "condition")
                calls[indices] = caller(self.branches[indices[0]][0], condition, len(indices))
            return calls[indices]

        made: dict[RowGuidance, Model] = {}
        for guidance in self.compiled.distinct:
            if guidance.plain and not self.pairs:
                made[guidance] = caller(*self.branches[guidance.evaluated[0]], 1)
            else:
                made[guidance] = self._runner(guidance, joined_call, memory)
        if len(made) == 1:
            return next(iter(made.values()))
        rows = [None if guidance is None else made[guidance] for guidance in self.rows]
        return lambda x, row: rows[row](x, row)  # type: ignore[misc]

    def _runner(self, guidance: RowGuidance, call: _JoinedCall, memory: Memory) -> Model:
        weight, own = guidance.weight, {id(self.branches[i][0]) for i in guidance.evaluated}
        if weight is not None and len(own) == 1 and not self.pairs and not self.split:  # the most frequent case
            both = call(guidance.evaluated)

            def mixed(x: Tensor, row: int) -> Tensor:
                first, second = both(x, row).chunk(2)
                return torch.lerp(second, first, weight)

            return mixed
        evaluate = self._evaluator(guidance.evaluated, call)

        def guided(x: Tensor, row: int, create_graph: bool = False) -> Any:
            outputs = evaluate(x, row)
            if guidance.tracks and not all(output.requires_grad for output in outputs.values()):
                raise ConfigurationError(
                    "the model's output has no gradient",
                    where="Energy.through_model",
                    why="the model runs under torch.no_grad, or detaches",
                    suggestion="let it record gradients, or take through_model=False",
                )
            return self._combined(guidance, x, outputs, memory, create_graph)

        if not guidance.tracks:
            return guided

        def tracked(x: Tensor, row: int) -> Any:
            recording = torch.is_grad_enabled()
            with torch.inference_mode(False), torch.enable_grad():
                if not (recording and x.requires_grad):
                    x = (x.clone() if x.is_inference() else x).detach().requires_grad_()
                answer = guided(x, row, create_graph=recording)
            if recording:
                return answer
            return Branches(*(each.detach() for each in answer)) if self.pairs else answer.detach()

        return tracked

    def combine(self, row: int, x: Tensor, outputs: Mapping[int, Tensor], memory: Memory) -> Any:
        """The guided output of a row, from the outputs of its branches.

        Args:
            row: of the plan.
            x: the state, shape (B, ...).
            outputs: of each branch that the row evaluates, by the branch's number.
            memory: holds the tensors that the guidance keeps.

        Returns:
            The guided output, or :class:`Branches` for a plan that reads the unconditional one, too.
        """
        guidance = self.rows[row]
        if guidance is None:
            raise ValueError("the row does not evaluate the model")
        if guidance.plain and not self.pairs:
            return outputs[guidance.evaluated[0]]
        return self._combined(guidance, x, outputs, memory, create_graph=False)

    def _combined(
        self, guidance: RowGuidance, x: Tensor, outputs: Mapping[int, Tensor], memory: Memory, create_graph: bool
    ) -> Any:
        means = {i: self._mean(i, output, x) for i, output in outputs.items()}
        for i, mean in means.items():
            if mean.shape != x.shape:  # the loop raises the error
                return self._answer(outputs[i], outputs[i])
        value, null = guidance.combined(x, means, memory, create_graph=create_graph)
        if self.split:
            variance = next(iter(outputs.values())).chunk(2, dim=1)[1]
            value, null = torch.cat([value, variance], dim=1), torch.cat([null, variance], dim=1)
        return self._answer(value, null)

    def _answer(self, value: Tensor, null: Tensor) -> Any:
        return Branches(value, null) if self.pairs else value

    def _mean(self, i: int, output: Tensor, x: Tensor) -> Tensor:
        """The prediction of a branch without its variance; a weaker model may return one or not."""
        other = self.branches[i][0] is not self.branches[0][0]
        if (self.split or other) and output.ndim > 1 and output.shape[1] == 2 * x.shape[1]:
            return output.chunk(2, dim=1)[0]
        return output

    def _evaluator(self, branches: tuple[int, ...], call: _JoinedCall) -> Callable[[Tensor, int], dict[int, Tensor]]:
        """(x, row) ↦ the outputs of these branches; the branches of one model run in one batch."""
        by_model: dict[int, list[int]] = {}
        for i in branches:
            by_model.setdefault(id(self.branches[i][0]), []).append(i)
        groups = [(call(tuple(indices)), indices) for indices in by_model.values()]

        def evaluate(x: Tensor, row: int) -> dict[int, Tensor]:
            outputs: dict[int, Tensor] = {}
            for network, indices in groups:
                output = network(x, row)
                outputs.update(zip(indices, output.chunk(len(indices)), strict=True))
            return outputs

        return evaluate
