"""The conditions of a batch: a user's tensors, arrays, lists and numbers as one row a sample, for each branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from ..guidance.conditions import Unbatched, merged, numbers_as_rows, refuse_foreign_labels, zeros_for
from ..guidance.formula import Branch
from ..running.model_adapter import ModelAdapter, map_values
from ..running.placement import resolve_device
from ..support.argument_checks import as_array, checked_condition, refuse_special
from ..support.errors import ConfigurationError, shown

__all__ = ["BatchConditions", "as_rows"]


@final
class BatchConditions(NamedTuple):
    """Turns what a user gave into the conditions of a batch.

    Attributes:
        adapter: the model.
        batch: B, the number of samples.
        device: of the run.
    """

    adapter: ModelAdapter
    batch: int
    device: torch.device

    def fitted(self, condition: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
        """A condition on the device, every tensor with B rows.

        Raises:
            ConfigurationError: not a mapping of texts, or a tensor with neither one row nor B.
        """
        given = checked_condition(condition, where)
        if not given:
            return given

        def fit(value: Any) -> Any:
            if isinstance(value, Unbatched):
                return value.on(self.device)
            refuse_special(value, where)
            rows = value.shape[0] if value.ndim else self.batch
            if rows not in (1, self.batch):
                raise ConfigurationError(
                    f"a tensor of shape {tuple(value.shape)} for a batch of {self.batch}",
                    where=where,
                    suggestion="give one row a sample, or one for all; if it has no batch dimension, "
                    "noise_scheduler_sampling_system.Unbatched(tensor)",
                )
            value = value.to(self.device)
            return value if rows == self.batch else value.expand(self.batch, *value.shape[1:])

        for name, value in given.items():
            rows = as_rows(value, self.batch, f"{where}[{name!r}]")
            given[name] = map_values(fit, rows, (Tensor, Unbatched))
        return given

    def completed(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        """A condition with zeros for the text inputs that the model demands and the condition lacks."""
        return self.adapter.completed(condition, self.batch, self.device)

    def null(self, condition: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
        """The null condition: the given entries over those of the condition, or the counterpart of the condition.

        Args:
            condition: of the other branch, fitted.
            given: by the user.
        """
        if given is not None:
            return self.completed(merged(condition, self.fitted(given, "null_condition")))
        if not hasattr(self.adapter.model, "null_condition"):
            return zeros_for(condition)
        return self.completed(self.fitted(self.adapter.model.null_condition(condition), "null_condition"))

    def of_branches(
        self,
        branches: Sequence[Branch],
        evaluated: frozenset[int],
        base: Mapping[str, Any],
        null: Mapping[str, Any] | None,
    ) -> tuple[tuple[ModelAdapter, Mapping[str, Any]], ...]:
        """The model and the condition of each branch; a branch that is not evaluated has an empty condition.

        Args:
            branches: of the run's guidance.
            evaluated: the numbers of those that are evaluated.
            base: the condition that branches without one of their own have.
            null: the null condition, as the user gave it.
        """
        adapters = self._adapters(branches)
        conditions: list[dict[str, Any]] = [{} for _ in branches]
        for i in sorted(evaluated):
            conditions[i] = self._of_branch(branches[i], adapters[i], base, null)
        if len(evaluated) > 1:
            own = {i: conditions[i] for i in evaluated if adapters[i] is self.adapter}
            for i, condition in numbers_as_rows(own, self.batch, self.device).items():
                conditions[i] = condition
        return tuple(zip(adapters, conditions, strict=True))

    def _of_branch(
        self, branch: Branch, adapter: ModelAdapter, base: Mapping[str, Any], null: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """The condition of a branch, which its model accepts."""
        if branch.condition is not None:
            condition = adapter.completed(self.fitted(branch.condition, "guidance"), self.batch, self.device)
        else:
            condition = self.null(base, null) if branch.null else dict(base)
        where = "null_condition" if branch.null else "condition"
        adapter.refuse_call(condition, where)
        if condition:
            refuse_foreign_labels(adapter.model, condition, where)
        return condition

    def _adapters(self, branches: Sequence[Branch]) -> list[ModelAdapter]:
        """The model of each branch; branches of one further model share its adapter."""
        others: dict[int, ModelAdapter] = {}
        adapters = []
        for branch in branches:
            if branch.model is None:
                adapters.append(self.adapter)
                continue
            known = others.get(id(branch.model))
            if known is None:
                known = others[id(branch.model)] = ModelAdapter(branch.model, two_times=self.adapter.two_times)
                resolve_device(self.device, known.device)
            adapters.append(known)
        return adapters


def as_rows(value: Any, batch: int | None = None, where: str = "condition") -> Any:
    """An array, or a list of one number a sample, as a tensor with a row each; any other value as it is.

    Args:
        value: the value of a condition.
        batch: the length that a list must have; None: any.
        where: the name of the value, for errors.

    Raises:
        ConfigurationError: an array that no tensor can hold, or whole numbers beyond 64 bits.
    """
    if isinstance(value, np.ndarray):
        return as_array(value, where)
    fits = isinstance(value, list | tuple) and len(value) == (batch or len(value)) and bool(value)
    if fits and all(isinstance(v, int | float) for v in value):
        try:
            return torch.tensor(value, device="cpu")
        except (RuntimeError, ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"got {shown(value)}", where=where, why=str(error), suggestion="give numbers of at most 64 bits"
            ) from error
    return value
