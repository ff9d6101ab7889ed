"""The end of a run whose predictions no longer change."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from ..plans.base import Plan
from ..support.errors import ConfigurationError, shown

__all__ = ["EarlyStopping"]


@final
@dataclass(frozen=True)
class EarlyStopping:
    """The rule: a sample is done when its predicted clean sample changes by less than a tolerance.

    Each sample is judged alone, so the rest of the batch does not change it. The rule acts from σ < α on. Before that,
    noise outweighs signal, and the prediction rests near the mean of the data without being done.

    Attributes:
        tolerance: of the root-mean-square change from one step to the next.
    """

    tolerance: float

    @classmethod
    def of(cls, tolerance: float | None) -> EarlyStopping | None:
        """The rule with a tolerance; None without one.

        Raises:
            ConfigurationError: the tolerance is not a positive number.
        """
        if tolerance is None:
            return None
        number = isinstance(tolerance, int | float | np.integer | np.floating) and not isinstance(tolerance, bool)
        if not number or not 0 < tolerance <= sys.float_info.max:
            raise ConfigurationError(
                f"got {shown(tolerance)}", where="early_stopping", suggestion="give a tolerance such as 1e-3"
            )
        return cls(float(tolerance))

    def start(self) -> Settled:
        """The record of a new run, in which no sample is done."""
        return Settled(self.tolerance)


@final
class Settled:
    """The samples of one run that are done, and their results."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._previous: Tensor | None = None
        self._done: Tensor | None = None
        self._result: Tensor | None = None

    def update(self, clean: Tensor, plan: Plan, rows_done: int) -> bool:
        """Add the prediction of one step.

        Args:
            clean: the predicted clean samples.
            plan: of the run.
            rows_done: the number of rows that the run has done.

        Returns:
            Whether every sample is done.
        """
        previous, self._previous = self._previous, clean
        _, alpha, sigma = plan.level(rows_done - 1)
        if previous is None or sigma >= alpha:
            return False
        change = (clean - previous).flatten(1).float().square().mean(dim=1).sqrt()
        done = change < self._tolerance
        if self._done is None or self._result is None:
            self._done, self._result = done, clean
        else:
            self._result = torch.where(_per_sample(self._done, clean), self._result, clean)
            self._done = self._done | done
        return bool(self._done.all())

    def result(self, x: Tensor) -> Tensor:
        """The predictions of the samples that are done, and the final states x of the others."""
        if self._done is None or self._result is None:
            return x
        return torch.where(_per_sample(self._done, x), self._result, x)


def _per_sample(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of shape (B,) that broadcasts against a tensor of shape (B, ...)."""
    return mask.reshape(-1, *[1] * (like.ndim - 1))
