"""Where the probability-flow ODE of a model ends: a run of many calls, and the distance of other runs from it."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from ..plans.plan import SamplingPlan
from ..samplers.factory import SamplerFactory
from ..schedules.path import NoisePath

__all__ = ["each_error", "error_by_halving", "fine_plan"]

#: A third-order sampler on the spacing that is best for many calls (docs/accuracy.md).
_SAMPLER: Final = "adams"
_SPACING: Final = "kl_optimal"
_ORDER: Final = 3


def fine_plan(path: NoisePath, calls: int) -> SamplingPlan:
    """The plan of a run that stands for the solution.

    Args:
        path: the noise schedule; its spacing plays no part.
        calls: model calls.
    """
    return SamplerFactory.create(_SAMPLER, path.spaced(_SPACING), order=_ORDER).plan(calls)


def each_error(samples: Tensor, solution: Tensor) -> Tensor:
    """The root-mean-square difference per number of each sample, shape (B,), float64 on the CPU."""
    return (samples - solution).flatten(1).cpu().double().square().mean(1).sqrt()


def error_by_halving(fine: Tensor, coarse: Tensor) -> float:
    """The estimated error of samples of a fine plan, from those of a fine plan with half as many calls.

    When the calls double, the error of a third-order method falls to an eighth, so the samples move by seven times
    the error that is left. The median over samples is taken, because one that changes its mode says nothing about
    the others.
    """
    return float(each_error(fine, coarse).median()) / (2**_ORDER - 1)
