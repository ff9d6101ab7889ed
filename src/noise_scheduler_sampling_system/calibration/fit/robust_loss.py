"""A loss that a few trajectories in another basin do not dominate, and the draw of those that matter most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from ..trajectories import Errors

__all__ = ["CauchyLoss", "informative"]


@final
@dataclass(frozen=True)
class CauchyLoss:
    """Cauchy's loss ρ(e) = ½c²·log(1 + (e/c)²): quadratic below the scale c, nearly flat above it.

    A trajectory that is about to change basins has an unbounded derivative. The derivative is valid only for steps
    shorter than the distance to the boundary. If such errors counted in full, a few of them would block every step.

    Attributes:
        scale: c > 0. Infinite: the loss is ½e².
    """

    scale: float = math.inf

    @classmethod
    def at(cls, medians: float, errors: Errors, before: CauchyLoss) -> CauchyLoss:
        """Return the loss whose scale is a multiple of the median error.

        Args:
            medians: the multiple.
            errors: the errors at present.
            before: the loss so far. The scale never rises above its scale.
        """
        rounding = 1e-3 * errors.rms  # where the median is below this, most errors are rounding
        return cls(min(before.scale, max(medians * errors.median, rounding)))

    def loss(self, each: Tensor) -> float:
        """Return the mean loss of errors of shape (n,)."""
        if not math.isfinite(self.scale):
            return float(0.5 * each.square().mean())
        return float(0.5 * self.scale**2 * torch.log1p((each / self.scale).square()).mean())

    def weights(self, each: Tensor) -> Tensor:
        """Return ρ'(e)/e of errors of shape (n,): the weight of each error's square, in (0, 1]."""
        return 1.0 / (1.0 + (each / self.scale).square())


def informative(each: Tensor, loss: CauchyLoss, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw some of the trajectories to stand for all. Those with larger errors are more likely to be drawn.

    Args:
        each: the error of each trajectory, shape (n,), on the CPU.
        loss: the loss.
        count: the number to draw; the result may have one more or less.
        seed: of the draw.

    Returns:
        The rising numbers of the drawn trajectories, and their weights. A sum with these weights over the drawn
        trajectories has the mean over all as its expectation.
    """
    total = len(each)
    if count >= total:
        return torch.arange(total), torch.full((total,), 1.0 / total, dtype=torch.float64)
    size = (loss.weights(each).sqrt() * each).clamp(max=loss.scale).numpy()
    score = size + 0.5 * float(np.median(size)) + 1e-300
    share = np.zeros(total)
    certain = np.zeros(total, dtype=bool)
    while True:  # a share above 1 means that the trajectory is drawn for certain; the others then share the rest
        left = count - int(certain.sum())
        share = np.where(certain, 1.0, score * (left / score[~certain].sum()))
        if not (share > 1.0).any():
            break
        certain |= share >= 1.0
    ends = np.cumsum(share)
    marks = np.arange(np.random.default_rng(seed).random(), ends[-1], 1.0)  # systematic: one random number for all
    numbers = np.unique(np.searchsorted(ends, marks).clip(max=total - 1))
    return torch.from_numpy(numbers), torch.from_numpy(1.0 / (share[numbers] * total))
