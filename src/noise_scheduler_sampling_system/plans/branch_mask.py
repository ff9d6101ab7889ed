"""Guidance folded into a plan, with the unconditional branch evaluated in some of its rows only.

Classifier-free guidance of scale s replaces a prediction c by u + s·(c − u) = c + (s − 1)·δ, where u is the
unconditional prediction and δ = c − u. This is linear, so it is part of the table. δ changes slowly from row to row:
where u is not evaluated, δ is that of the last row that evaluated it, or is extrapolated from the last two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..config.prediction import conversion
from ..support.errors import ConfigurationError
from .plan import SamplingPlan
from .plan_rows import Integers

__all__ = ["with_folded_guidance"]

#: The longest extrapolation, in distances of the last two rows that evaluated both branches.
_FARTHEST = 1.0


def with_folded_guidance(
    plan: SamplingPlan, scale: float, both: Sequence[bool], *, order: int = 0, space: str = "epsilon"
) -> SamplingPlan:
    """The plan of a run under classifier-free guidance that evaluates the unconditional branch in some rows.

    With ``both`` true in every row, a run of it equals a guided run of ``plan``, up to rounding. What the provenance
    says of the numbers of ``plan`` (a calibration, a design) does not hold for the new ones, so it moves to the entry
    "before_guidance". A provenance that names a scheduler says where the levels come from, and stays.

    Args:
        plan: any plan without folded guidance; that of CFG++ included.
        scale: s.
        both: for each model call of the plan, whether it evaluates the unconditional branch, too. Before the first
            such call the prediction is not guided.
        order: 0: δ is kept; 1: δ is extrapolated linearly in log-SNR.
        space: the quantity whose δ is kept or extrapolated.

    Raises:
        ConfigurationError: the plan holds guidance already, or ``both`` has another length than its model calls.
    """
    if plan.delta is not None:
        raise ConfigurationError("the plan holds guidance already", where="plan", suggestion="give the plan before it")
    if len(both) != plan.nfe:
        raise ConfigurationError(
            f"has {len(both)} entries for {plan.nfe} model calls", where="both", suggestion="give one for each call"
        )
    count, calls = len(plan), iter(both)
    evaluated = np.array([asked and bool(next(calls)) for asked in plan.asked], dtype=np.int64)
    shares = _shares(plan, evaluated, order, space)
    b = plan.b.copy()
    b[:, 0] += plan.raw + (0.0 if plan.null is None else plan.null)
    delta = np.zeros((count, count))
    for i in range(count):
        read = {i - k: float(plan.b[i, k]) for k in range(min(i + 1, plan.b.shape[1])) if plan.b[i, k]}
        read[i] = read.get(i, 0.0) + float(plan.raw[i])
        for j, factor in read.items():
            for m, share in shares[j].items():
                delta[i, i - m] += factor * (scale - 1.0) * share
        if plan.null is not None:
            for m, share in shares[i].items():
                delta[i, i - m] -= float(plan.null[i]) * share
    used = np.flatnonzero(delta.any(axis=0))
    width = int(used[-1]) + 1 if len(used) else 1
    told = plan.provenance
    return replace(
        plan, b=b, raw=np.zeros(count), null=None, delta=delta[:, :width], both=evaluated, scale=float(scale),
        provenance=told if not told or "scheduler" in told else {"before_guidance": dict(told)},
    ).checked()  # fmt: skip


def _shares(plan: SamplingPlan, evaluated: Integers, order: int, space: str) -> list[Mapping[int, float]]:
    """For each row, δ of its prediction as a combination of the δ of rows that evaluate both branches."""
    found: list[Mapping[int, float]] = []
    known: list[int] = []
    for i in range(len(plan)):
        if evaluated[i]:
            known.append(i)
            found.append({i: 1.0})
        elif not known or not plan.asked[i]:
            found.append({})
        else:
            weights = {known[-1]: 1.0}
            reach = _reach(plan, i, known) if order and len(known) > 1 else 0.0
            if reach:
                weights = {known[-1]: 1.0 + reach, known[-2]: -reach}
            own = _to(plan, i, space)
            found.append({m: weight * _to(plan, m, space) / own for m, weight in weights.items()})
    return found


def _reach(plan: SamplingPlan, i: int, known: Sequence[int]) -> float:
    """How far a row lies beyond the last known one, in distances of the last two."""
    here, last, before = (_log_snr(plan, j) for j in (i, known[-1], known[-2]))
    if not all(map(math.isfinite, (here, last, before))) or last == before:
        return 0.0
    return min((here - last) / (last - before), _FARTHEST)


def _log_snr(plan: SamplingPlan, i: int) -> float:
    alpha, sigma = float(plan.alpha[i]), float(plan.sigma[i])
    return 2.0 * math.log(alpha / sigma) if alpha > 0.0 and sigma > 0.0 else math.inf


def _to(plan: SamplingPlan, i: int, space: str) -> float:
    """The factor of a difference of predictions that makes it one of another quantity."""
    alpha, sigma = float(plan.alpha[i]), float(plan.sigma[i])
    return float(conversion(plan.space_of(i), space, alpha, sigma).y_factor)
