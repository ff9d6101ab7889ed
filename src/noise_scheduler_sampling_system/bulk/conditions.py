"""The condition of each sample of a set: none, a function of the sample's index, or a table with a row a sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..guidance import Unbatched
from ..running.digests import digest
from ..support.errors import ConfigurationError, shown

__all__ = ["Conditions", "FunctionConditions", "NoConditions", "TableConditions", "conditions_of"]

Indices = npt.NDArray[np.int64]


class Conditions(ABC):
    """What the model is told about each sample."""

    @abstractmethod
    def rows(self, indices: Indices) -> dict[str, Any]:
        """The condition of a batch, one row a sample.

        Args:
            indices: of the samples, shape (B,).

        Raises:
            ConfigurationError: the user's function returned something else.
        """

    @abstractmethod
    def identity(self, num_samples: int) -> str:
        """A digest by which a set of ``num_samples`` is told from one with other conditions."""


@final
@dataclass(frozen=True)
class NoConditions(Conditions):
    """The model takes no condition."""

    def rows(self, indices: Indices) -> dict[str, Any]:
        return {}

    def identity(self, num_samples: int) -> str:
        return "none"


@final
@dataclass(frozen=True)
class FunctionConditions(Conditions):
    """A function of the indices of a batch, shape (B,), that returns keywords for the model."""

    function: Callable[[Indices], Mapping[str, Any]]

    def rows(self, indices: Indices) -> dict[str, Any]:
        returned = self.function(indices)
        if not isinstance(returned, Mapping) or not all(isinstance(name, str) for name in returned):
            raise ConfigurationError(
                f"the function returned {shown(returned)}",
                where="condition",
                suggestion="return a mapping of keywords for the model, with a row for each index",
            )
        for name, value in returned.items():
            if _length(value) not in (None, len(indices)):
                raise ConfigurationError(
                    f"the function returned {_length(value)} rows for {len(indices)} indices",
                    where=f"condition[{name!r}]",
                    suggestion="return a row for each index; a value for all is Unbatched(tensor)",
                )
        return dict(returned)

    def identity(self, num_samples: int) -> str:
        """The digest of the function's code and of its values for the first, the middle and the last sample."""
        probes = sorted({0, num_samples // 2, num_samples - 1})
        return digest([self.function, [self.rows(np.array([index], dtype=np.int64)) for index in probes]])


@final
@dataclass(frozen=True)
class TableConditions(Conditions):
    """Keywords for the model, each with a row a sample, or one value for all samples."""

    table: Mapping[str, Any]

    @classmethod
    def of(cls, table: Mapping[str, Any], num_samples: int) -> TableConditions:
        """The table, checked.

        Raises:
            ConfigurationError: a name that is no text, or an entry with another number of rows.
        """
        for name, value in table.items():
            if not isinstance(name, str):
                raise ConfigurationError(
                    f"has the key {shown(name)}", where="condition", suggestion="give keywords of the model"
                )
            if _length(value) not in (None, 1, num_samples):
                raise ConfigurationError(
                    f"has {_length(value)} rows for {num_samples} samples",
                    where=f"condition[{name!r}]",
                    suggestion="give a row a sample, or one for all; a function of the index repeats rows",
                )
        return cls(dict(table))

    def rows(self, indices: Indices) -> dict[str, Any]:
        return {name: _taken(value, indices) for name, value in self.table.items()}

    def identity(self, num_samples: int) -> str:
        return digest(self.rows(np.arange(num_samples, dtype=np.int64)))


def conditions_of(condition: Any, num_samples: int) -> Conditions:
    """The conditions that a user gave.

    Raises:
        ConfigurationError: neither a function nor a mapping, or a table of another length.
    """
    if condition is None:
        return NoConditions()
    if isinstance(condition, Mapping):
        return TableConditions.of(condition, num_samples)
    if callable(condition):
        return FunctionConditions(condition)
    raise ConfigurationError(
        f"got {shown(condition)}",
        where="condition",
        suggestion="give a function of an array of indices, or a table: {'class_labels': labels}",
    )


def _length(value: Any) -> int | None:
    """The number of rows; None for a value without rows."""
    if isinstance(value, Unbatched | str | bytes | Mapping):
        return None
    if isinstance(value, Tensor | np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def _taken(value: Any, indices: Indices) -> Any:
    """The rows of these samples; a value for all is repeated, so that every batch has the same kind of entries."""
    length = _length(value)
    if length is None:
        return value
    places = indices if length > 1 else np.zeros_like(indices)
    if isinstance(value, list | tuple):
        return [value[i] for i in places.tolist()]
    return value[places]
