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
    """One change of the prediction; a sequence of them acts from left to right.

    A subclass is a frozen dataclass that writes its formula. A guidance that adds a direction goes into directions.py
    (:class:`ClassifierFree` is an example), one that changes the guidance before it into modifiers.py
    (:class:`Interval`).

    Attributes:
        contrasts: whether it compares the conditional with the unconditional prediction. Then the run needs a
            condition, and a sequence may hold one such guidance only.
        follows: whether it changes the result of the guidance before it, so that it cannot be the first.
    """

    contrasts: ClassVar[bool] = False
    follows: ClassVar[bool] = False

    @abstractmethod
    def write(self, formula: Formula) -> None:
        """Set ``formula.value`` from its value so far and from the branches, or call ``formula.keep()``."""

    @property
    def uniform(self) -> bool:
        """Whether it writes the same formula at every level."""
        return False

    @property
    def conditions(self) -> tuple[Mapping[str, Any], ...]:
        """The conditions that it adds to the run's."""
        return ()

    def refuse_shape(self, shape: tuple[int, ...]) -> None:
        """Check the shape (B, ...) of the samples, before the first model call of a run.

        Raises:
            ConfigurationError: the guidance cannot act on this shape.
        """


def checked_quantity(name: Any, where: str, *more: str) -> str:
    """A prediction type, by its name or another library's, or one of the words ``more``.

    Raises:
        ConfigurationError: neither.
    """
    known = (*PREDICTION_TYPES, *more)
    chosen = PREDICTION_ALIASES.get(name, name) if isinstance(name, str) else name
    if chosen not in known:
        raise ConfigurationError(f"got {name!r}", where=where, suggestion=did_you_mean(str(name), known))
    return str(chosen)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """One number for each sample, with the shape and type that multiply a batch."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)
