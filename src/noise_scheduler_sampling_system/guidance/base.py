"""The base class of guidance, and what its subclasses share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ..config.prediction import PREDICTION_ALIASES, PREDICTION_TYPES
from ..support.errors import ConfigurationError
from ..support.registry import did_you_mean
from ..support.values import ByValue
from .formula import Formula, TensorAsModel
from .scales import Moment

__all__ = ["Given", "Guidance", "Moment", "checked_quantity", "per_sample"]

#: The name in pickles of version 1.3, which also name this module for :class:`Moment`.
Given = TensorAsModel


class Guidance(ByValue, ABC):
    """One thing to do with the prediction; a sequence of them acts from left to right.

    A subclass is a frozen dataclass that writes its formula.

    Attributes:
        contrasts: whether it opposes the condition to its absence: it needs a condition, and one
            such object in a sequence is enough.
        follows: whether it changes what others did before it, so that it cannot come first.
    """

    contrasts: ClassVar[bool] = False
    follows: ClassVar[bool] = False

    @abstractmethod
    def write(self, formula: Formula) -> None:
        """Set ``formula.value``, from its value so far and from the branches."""

    @property
    def uniform(self) -> bool:
        """Whether it writes the same at every level."""
        return False

    @property
    def conditions(self) -> tuple[Mapping[str, Any], ...]:
        """The conditions that it brings."""
        return ()

    def refuse_shape(self, shape: tuple[int, ...]) -> None:
        """Raise where it cannot act on samples of a shape (B, ...); before the first model call of a run.

        Raises:
            ConfigurationError: it cannot.
        """


def checked_quantity(name: Any, where: str, *more: str) -> str:
    """A prediction type by its own name, or one of the further words.

    Raises:
        ConfigurationError: neither.
    """
    known = (*PREDICTION_TYPES, *more)
    chosen = PREDICTION_ALIASES.get(name, name) if isinstance(name, str) else name
    if chosen not in known:
        raise ConfigurationError(f"got {name!r}", where=where, suggestion=did_you_mean(str(name), known))
    return str(chosen)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """One number a sample, shaped to multiply a batch."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
