"""How far the ends of trajectories are from where they should be."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Errors", "each_error", "errors_of"]

#: With fewer trajectories than this a single one may rule the root mean square.
_MANY = 256


class Errors(NamedTuple):
    """Errors of the ends of trajectories, root mean square per number of a sample.

    Attributes:
        rms: root mean square over trajectories; a few that end in another basin rule it.
        median: over trajectories.
    """

    rms: float
    median: float

    @classmethod
    def of(cls, each: Tensor) -> Errors:
        """From the error of each trajectory, shape (n,)."""
        return cls(float(each.square().mean().sqrt()), float(each.median()))

    def score(self, count: int) -> float:
        """What to go on with, seen on so many trajectories: a weighed geometric mean.

        On many it is that of :attr:`weighed`. On few it is rms^⅙·median^⅚: whether one of them is lost now says next
        to nothing of where a fit ends.
        """
        return self.weighed if count >= _MANY else float(self.rms ** (1 / 6) * self.median ** (5 / 6))

    @property
    def weighed(self) -> float:
        """rms^⅚·median^⅙, what to return by: a few lost ones must not hide that all others are ten times as good."""
        return float(self.rms ** (5 / 6) * self.median ** (1 / 6))


def errors_of(end: Tensor, solution: Tensor) -> Errors:
    """The errors of ends, both of shape (n, ...)."""
    return Errors.of(each_error(end, solution))


def each_error(end: Tensor, solution: Tensor) -> Tensor:
    """The error of each trajectory, root mean square per number, shape (n,), on the CPU."""
    return (end - solution).flatten(1).cpu().double().square().mean(1).sqrt()
