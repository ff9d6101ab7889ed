"""How two plans differ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..support.errors import ConfigurationError
from .canonical_form import canonical_states
from .plan import DIFF, SamplingPlan
from .plan_difference import PlanDifference
from .plan_rows import Array

__all__ = ["PlanDifference", "difference"]

#: Levels are the same below this difference of log SNR.
_SAME_LEVEL = 1e-9


@DIFF.provide
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
            ("model calls", a.nfe, b.nfe), ("evaluations", a.evaluations, b.evaluations), ("steps", a.steps, b.steps),
            ("rows", len(a), len(b)),
            ("predictions kept", a.history, b.history),
        )
        if one != other
    ]  # fmt: skip
    settings = [
        (name, getattr(a, name), getattr(b, name))
        for name in ("sampler", "space", "order")
        if getattr(a, name) != getattr(b, name)
    ]
    if a.two_times != b.two_times:
        settings.append(("times of the network", 1 + a.two_times, 1 + b.two_times))
    if a.scale != b.scale:
        settings.append(("guidance scale", *_scales(a, b)))
    if a.calls_with_both != b.calls_with_both:
        settings.append(("calls that evaluate both branches", _calls(a), _calls(b)))
    for name in sorted({*a.options, *b.options}):
        one, other = a.options.get(name, "not set"), b.options.get(name, "not set")
        if one != other:
            settings.append((f"option {name}", one, other))
    shared = min(len(a), len(b))
    apart = _apart(_log_snr(a)[:shared], _log_snr(b)[:shared])
    if a.to is not None and b.to is not None:
        one, other = (_log_snr_of(to[:shared, 1], to[:shared, 2]) for to in (a.to, b.to))
        apart = np.maximum(apart, _apart(one, other))
    levels = tuple(int(i) for i in np.flatnonzero(apart > _SAME_LEVEL))
    stds = (0.1, 0.3, 1.0)
    moments = zip(stds, a.gaussian_moments(np.array(stds)).std, b.gaussian_moments(np.array(stds)).std, strict=True)
    return PlanDifference(
        tuple(counts), tuple(settings), levels, float(apart.max(initial=0.0)), _coefficients(a, b),
        (_noise(a), _noise(b)), tuple((std, float(one), float(other)) for std, one, other in moments),
    )  # fmt: skip


def _log_snr(plan: SamplingPlan) -> Array:
    return _log_snr_of(plan.alpha[:-1], plan.sigma[:-1])


def _log_snr_of(alpha: Array, sigma: Array) -> Array:
    with np.errstate(divide="ignore"):
        result: Array = 2.0 * (np.log(alpha) - np.log(sigma))
    return result


def _apart(one: Array, other: Array) -> Array:
    """The differences of log SNR; 0 where both have no signal, or both no noise."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other)
    return np.where(np.isnan(apart), 0.0, apart)


def _coefficients(a: SamplingPlan, b: SamplingPlan) -> float:
    """The largest difference of a state's coefficients, over the state's largest one."""
    if len(a) != len(b) or a.space != b.space or a.two_times != b.two_times:
        return math.nan
    one, other = _states(a), _states(b)
    largest = np.maximum(np.abs(one).max(axis=1), np.abs(other).max(axis=1))
    return float((np.abs(one - other).max(axis=1) / largest).max())


def _states(plan: SamplingPlan) -> Array:
    """Every state by initial noise, predictions, noise and differences of the branches: shape (M + 1, 1 + 3M)."""
    states = canonical_states(plan)
    states[:, 0] *= plan.prior_scale
    return states


def _scales(a: SamplingPlan, b: SamplingPlan) -> tuple[Any, Any]:
    return "none" if a.scale is None else a.scale, "none" if b.scale is None else b.scale


def _calls(plan: SamplingPlan) -> str:
    return ", ".join(map(str, plan.calls_with_both)) or "none"


def _noise(plan: SamplingPlan) -> float:
    """The standard deviation of all noise that rows add, each measured in the state it enters, over σ there."""
    levels = np.maximum(plan.sigma[1:], 1e-12)
    return float(np.sqrt(np.square(np.abs(plan.c).sum(axis=1) / levels)[plan.sigma[1:] > 0.0].mean()))
