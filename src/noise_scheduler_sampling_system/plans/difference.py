"""How two plans differ: in words and in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from ..support.errors import ConfigurationError
from .plan import SamplingPlan
from .plan_rows import Array

__all__ = ["PlanDifference", "difference"]

#: Levels are the same below this difference of log SNR; coefficients below this fraction of a row's largest.
_SAME_LEVEL, _SAME_NUMBER = 1e-9, 1e-9


@final
@dataclass(frozen=True, eq=False)
class PlanDifference:
    """The differences between two plans, a and b.

    Attributes:
        counts: (name, of a, of b) of each count that differs: model calls, steps, rows, history.
        settings: (name, of a, of b) of each field that differs: sampler, options, space, order.
        levels: the rows whose level differs, of the rows that both have.
        log_snr: the largest difference of log SNR over rows that both have, infinite where one has no signal or noise.
        coefficients: the largest difference of a coefficient of the canonical form, as a fraction of its state's
            largest coefficient; NaN where the plans have other numbers of rows, or combine another quantity.
        noise: the standard deviation of the noise that a row adds, as a fraction of σ of the next level, root mean
            square over rows: of a and of b.
        moments: (standard deviation of the data, of a's result, of b's) for Gaussian data and the exact model.
    """

    counts: tuple[tuple[str, int, int], ...]
    settings: tuple[tuple[str, Any, Any], ...]
    levels: tuple[int, ...]
    log_snr: float
    coefficients: float
    noise: tuple[float, float]
    moments: tuple[tuple[float, float, float], ...]

    @property
    def same_numbers(self) -> bool:
        """Whether both compute the same result from the same noise and model, up to rounding."""
        return not self.levels and self.coefficients <= _SAME_NUMBER

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.counts or self.settings) or not self.same_numbers

    def __str__(self) -> str:
        if not self:
            return "the plans are the same"
        lines = [f"{name}: {one} and {other}" for name, one, other in (*self.counts, *self.settings)]
        if self.same_numbers:
            return "\n".join([*lines, "both compute the same result from the same noise and model"])
        if self.levels:
            shown = ", ".join(map(str, self.levels[:8])) + (", ..." if len(self.levels) > 8 else "")
            lines.append(f"levels differ in {len(self.levels)} rows ({shown}), by up to {self.log_snr:.3g} in log SNR")
        elif not any(name == "rows" for name, _, _ in self.counts):
            lines.append("both evaluate the model at the same levels")
        if math.isfinite(self.coefficients):
            lines.append(f"coefficients differ by up to {self.coefficients:.3g} of the largest")
        if any(self.noise):
            lines.append(f"noise added by a row, over σ: {self.noise[0]:.3g} and {self.noise[1]:.3g}")
        lines += [
            f"Gaussian data of standard deviation {std:g} come out with {one:.3g} and {other:.3g}"
            for std, one, other in self.moments
        ]
        return "\n".join(lines)


def difference(a: SamplingPlan, b: SamplingPlan) -> PlanDifference:
    """The differences between two plans.

    Raises:
        ConfigurationError: ``b`` is not a plan.
    """
    if not isinstance(b, SamplingPlan):
        raise ConfigurationError(f"got {type(b).__name__}", where="other", suggestion="give a SamplingPlan")
    counts = [
        (name, one, other)
        for name, one, other in (
            ("model calls", a.nfe, b.nfe), ("steps", a.steps, b.steps), ("rows", len(a), len(b)),
            ("predictions kept", a.history, b.history),
        )
        if one != other
    ]  # fmt: skip
    settings = [
        (name, getattr(a, name), getattr(b, name))
        for name in ("sampler", "space", "order")
        if getattr(a, name) != getattr(b, name)
    ]
    for name in sorted({*a.options, *b.options}):
        one, other = a.options.get(name, "not set"), b.options.get(name, "not set")
        if one != other:
            settings.append((f"option {name}", one, other))
    shared = min(len(a), len(b))
    apart = np.abs(_log_snr(a)[:shared] - _log_snr(b)[:shared])
    apart = np.where(np.isnan(apart), 0.0, apart)  # both without signal, or both without noise
    levels = tuple(int(i) for i in np.flatnonzero(apart > _SAME_LEVEL))
    stds = (0.1, 0.3, 1.0)
    moments = zip(stds, a.gaussian_moments(np.array(stds)).std, b.gaussian_moments(np.array(stds)).std, strict=True)
    return PlanDifference(
        tuple(counts), tuple(settings), levels, float(apart.max(initial=0.0)), _coefficients(a, b),
        (_noise(a), _noise(b)), tuple((std, float(one), float(other)) for std, one, other in moments),
    )  # fmt: skip


def _log_snr(plan: SamplingPlan) -> Array:
    with np.errstate(divide="ignore"):
        result: Array = 2.0 * (np.log(plan.alpha[:-1]) - np.log(plan.sigma[:-1]))
    return result


def _coefficients(a: SamplingPlan, b: SamplingPlan) -> float:
    """The largest difference of a state's coefficients, over the state's largest one."""
    if len(a) != len(b) or a.space != b.space:
        return math.nan
    one, other = _states(a), _states(b)
    largest = np.maximum(np.abs(one).max(axis=1), np.abs(other).max(axis=1))
    return float((np.abs(one - other).max(axis=1) / largest).max())


def _states(plan: SamplingPlan) -> Array:
    """Every state by initial noise, predictions and noise: shape (M + 1, 1 + 2M)."""
    of_start, of_predictions, of_noise = plan.canonical()
    return np.concatenate([of_start[:, None] * plan.prior_scale, of_predictions, of_noise], axis=1)


def _noise(plan: SamplingPlan) -> float:
    """The standard deviation of all noise that rows add, each measured in the state it enters, over σ there."""
    levels = np.maximum(plan.sigma[1:], 1e-12)
    return float(np.sqrt(np.square(np.abs(plan.c).sum(axis=1) / levels)[plan.sigma[1:] > 0.0].mean()))
