"""A loss for errors of which a few are in another basin, and which trajectories tell most about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from .measure import Errors

__all__ = ["Robust", "informative"]


@final
@dataclass(frozen=True)
class Robust:
    """Cauchy's loss ρ(e) = ½c²·log(1 + (e/c)²): squares up to about c, next to nothing more beyond.

    A trajectory that is about to change basins has a derivative without bound, which says nothing of a step that is
    longer than its distance to the boundary. Where such errors count much, a few of them block the way for all.

    Attributes:
        scale: c; infinite: ½e².
    """

    scale: float = math.inf

    @classmethod
    def at(cls, medians: float, errors: Errors, before: Robust) -> Robust:
        """With c at so many medians of the errors, but not above what it was, and not where most is rounding."""
        return cls(min(before.scale, max(medians * errors.median, 1e-3 * errors.rms)))

    def loss(self, each: Tensor) -> float:
        """The mean over trajectories, of errors of shape (n,)."""
        if not math.isfinite(self.scale):
            return float(0.5 * each.square().mean())
        return float(0.5 * self.scale**2 * torch.log1p((each / self.scale).square()).mean())

    def weights(self, each: Tensor) -> Tensor:
        """ρ'(e)/e, what the square of each trajectory's error counts, shape (n,)."""
        return 1.0 / (1.0 + (each / self.scale).square())


def informative(each: Tensor, robust: Robust, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Some of the trajectories that stand for all: those with large errors more likely, and weighed for that.

    Args:
        each: the errors of all, shape (n,), on the CPU.
        robust: what they count.
        count: how many to draw, about.
        seed: of the draw.

    Returns:
        Their numbers, rising, and weights with which a sum over them has the mean over all as its expectation.
    """
    total = len(each)
    if count >= total:
        return torch.arange(total), torch.full((total,), 1.0 / total, dtype=torch.float64)
    size = (robust.weights(each).sqrt() * each).clamp(max=robust.scale).numpy()
    score = size + 0.5 * float(np.median(size)) + 1e-300
    share = np.zeros(total)
    certain = np.zeros(total, dtype=bool)
    while True:  # a share above 1 means: certainly, and the rest is for the others
        left = count - int(certain.sum())
        share = np.where(certain, 1.0, score * (left / score[~certain].sum()))
        if not (share > 1.0).any():
            break
        certain |= share >= 1.0
    ends = np.cumsum(share)
    marks = np.arange(np.random.default_rng(seed).random(), ends[-1], 1.0)  # systematic: one draw for all
    numbers = np.unique(np.searchsorted(ends, marks).clip(max=total - 1))
    return torch.from_numpy(numbers), torch.from_numpy(1.0 / (share[numbers] * total))
