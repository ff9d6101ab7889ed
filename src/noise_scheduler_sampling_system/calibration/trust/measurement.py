"""The errors of a plan on some trajectories with their standard errors, and the share that changes its basin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor

from ...analysis.solution import each_error
from ...plans.plan import SamplingPlan
from ..trajectories import Errors

__all__ = ["Measurement", "changed", "measured_of", "rms_and_median", "standard_errors"]

#: The distances to compute at a time.
_AT_A_TIME: Final = 64
#: The keys of a measurement as plain data.
_KEYS: Final = (
    "rms", "rms_standard_error", "median", "median_standard_error", "basin_changes", "basin_changes_standard_error",
    "trajectories",
)  # fmt: skip


@final
class Measurement(NamedTuple):
    """Errors of a plan, in units of one number of a sample, and how uncertain they are.

    A standard error is NaN where too few trajectories tell.

    Attributes:
        rms, rms_error: the root mean square over trajectories, and its standard error.
        median, median_error: the median over trajectories, and its standard error.
        moved, moved_error: the share of trajectories that change their basin: they end nearer to the reference end of
            another trajectory than to their own. It counts no change to a place where no other trajectory ends, so
            few trajectories find fewer changes than many.
        trajectories: their number.
    """

    rms: float
    rms_error: float
    median: float
    median_error: float
    moved: float
    moved_error: float
    trajectories: int

    @classmethod
    def of(cls, ends: Tensor, solution: Tensor) -> Measurement:
        """Measure samples of a plan against the reference ends of the same trajectories, both of shape (n, ...)."""
        each = each_error(ends, solution)
        errors, (of_rms, of_median) = Errors.of(each), standard_errors(each)
        count = len(each)
        changes = int(changed(ends, solution).sum())
        # Agresti and Coull: two more of each kind, so that no change among few is not a certain 0
        smooth = (changes + 2.0) / (count + 4.0)
        moved = changes / count if count > 1 else math.nan
        spread = math.sqrt(smooth * (1.0 - smooth) / (count + 4.0)) if count > 1 else math.nan
        return cls(errors.rms, of_rms, errors.median, of_median, moved, spread, count)

    def to_dict(self) -> dict[str, Any]:
        """The measurement as plain data, with None for NaN."""
        plain = (None if isinstance(value, float) and math.isnan(value) else value for value in self)
        return dict(zip(_KEYS, plain, strict=True))

    @classmethod
    def from_dict(cls, data: Any) -> Measurement | None:
        """Read plain data; None where it is not that of a measurement."""
        if not isinstance(data, Mapping) or not set(_KEYS) <= set(data):
            return None
        values = [data[key] for key in _KEYS]
        if not all(isinstance(v, int | float | None) and not isinstance(v, bool) for v in values):
            return None
        numbers = [math.nan if value is None else float(value) for value in values]
        rms, rms_error, median, median_error, moved, moved_error, count = numbers
        if not math.isfinite(count):
            return None
        return cls(rms, rms_error, median, median_error, moved, moved_error, int(count))


def standard_errors(each: Tensor) -> tuple[float, float]:
    """Return the standard errors of the root mean square and of the median of errors, shape (n,).

    The first follows from the variance of the squared errors (the delta method). The second is half the distance of
    the two errors whose ranks lie √n/2 below and above the middle, where the binomial law expects the true median
    within one standard error. Both take the trajectories as independent. NaN: fewer than 4 trajectories.
    """
    count = len(each)
    if count < 4:
        return math.nan, math.nan
    squares = each.double().square()
    rms = float(squares.mean().sqrt())
    of_rms = float(squares.std()) / (2.0 * rms * math.sqrt(count)) if rms > 0.0 else 0.0
    ordered = each.double().sort().values
    low = max(0, math.floor((count - math.sqrt(count)) / 2.0))
    high = min(count - 1, math.ceil((count + math.sqrt(count)) / 2.0) - 1)
    return of_rms, float(ordered[high] - ordered[low]) / 2.0


def measured_of(plan: SamplingPlan) -> Mapping[str, Any]:
    """Return what a plan's provenance holds of measurements; empty for plans of earlier versions."""
    measured = plan.provenance.get("measured")
    return measured if isinstance(measured, Mapping) else {}


def rms_and_median(errors: Any) -> Errors | None:
    """Read {"rms": ..., "median": ...}; None where it is not that."""
    if not isinstance(errors, Mapping):
        return None
    values = [errors.get(key) for key in ("rms", "median")]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return Errors(*numbers) if len(numbers) == len(values) else None


def changed(ends: Tensor, solution: Tensor) -> Tensor:
    """Tell which samples are nearer to the end of another trajectory than to their own, shape (n,), on the CPU."""
    flat, targets = (each.flatten(1).cpu().double() for each in (ends, solution))
    found = torch.zeros(len(flat), dtype=torch.bool)
    for start in range(0, len(flat), _AT_A_TIME) if len(targets) > 1 else ():
        distances = torch.cdist(flat[start : start + _AT_A_TIME], targets)
        rows = torch.arange(len(distances))
        own = distances[rows, start + rows].clone()
        distances[rows, start + rows] = math.inf
        found[start : start + _AT_A_TIME] = distances.amin(1) < own
    return found
