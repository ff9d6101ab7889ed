"""Checks of a whole plan: its columns against each other, and its rows against constant data and constant noise."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..config.prediction import quantity
from ..support.errors import NumericsError
from .plan_content import COLUMNS
from .plan_rows import Array, Integers, PlanRows

__all__ = ["constant_residual", "noise_residual", "refuse_other_scale", "refuse_unusable"]

Flags = npt.NDArray[np.bool_]
#: The bound of the step and the stage in a noise key.
_KEY_LIMIT = 2**31
#: The most noise that a row may add, over the size of its levels; built-in samplers stay below 3.
_MOST_NOISE = 100.0
#: The most that an α of 0 in single precision may lie below 0.
_ROUNDED = 1e-3
#: The most steps that a row may pass over; a step of DPM-Solver-fast spans up to 3.
_MOST_SKIPPED = 10
#: How far the first state's scale may be from that of the first level, whose α and σ are published rounded.
_SCALE_TOLERANCE = 0.01
#: How far a row may be from carrying constants, as a fraction of the sum of its coefficients.
_RESIDUAL = 1e-9


def constant_residual(plan: PlanRows) -> Array:
    """The error of each row on constant data, which must lead x = α·k to the next level's α·k. Shape (M,)."""
    return _residual(plan, plan.alpha, _constants(plan)[:, 0])


def noise_residual(plan: PlanRows) -> Array:
    """The error of each row on constant noise, which must lead x = σ·ε to the next level's σ·ε. Shape (M,).

    0 for a stochastic plan, which chooses its own variance.
    """
    if plan.stochastic:
        return np.zeros(len(plan))
    return _residual(plan, plan.sigma, _constants(plan)[:, 1])


def _constants(plan: PlanRows) -> Array:
    """y of each row for constant data (x₀ = 1, ε = 0) and for constant noise (x₀ = 0, ε = 1). Shape (M, 2)."""
    spaces = [plan.space_of(i) for i in range(len(plan))]
    return np.array([quantity(*row) for row in zip(spaces, plan.alpha, plan.sigma, strict=False)])


def _residual(plan: PlanRows, factor: Array, y: Array) -> Array:
    """The state that each row makes of x = factor and the predictions y, minus the next level's factor."""
    if not plan.asked[0]:  # an analytic first step knows the noise, not the data, and later rows may read it
        return np.zeros(len(plan))
    now = plan.raw if plan.null is None else plan.raw + plan.null
    result: Array = plan.a * factor[:-1] + now * y - factor[1:]
    for k in range(plan.b.shape[1]):
        result[k:] += plan.b[k:, k] * y[: len(plan) - k]
    return result


def refuse_unusable(plan: PlanRows) -> None:
    """Raise where a run of this plan would be wrong.

    Raises:
        NumericsError: a number is not finite or out of range, columns contradict each other, a row reads from before
            the start, or a row does not carry constant data or constant noise that the plan says it ``carries``.
    """
    _refuse_not_finite(plan)
    for name, wrong, what, allowed in _contradictions(plan):
        if wrong.any():
            raise NumericsError(
                f"row {int(np.argmax(wrong))} {what}", where=f"plan column {name!r}", suggestion=allowed
            )
    for name, table in (("b", plan.b), ("c", plan.c), ("delta", plan.delta)):
        if table is not None and any(np.any(table[i, i + 1 :]) for i in range(min(len(plan), table.shape[1]))):
            raise NumericsError(
                "reads predictions or noise from before the start",
                where=f"plan column {name!r}",
                suggestion="row i can reach back i rows at most: set the rest to 0",
            )
    _refuse_lost_constants(plan)


def _refuse_not_finite(plan: PlanRows) -> None:
    for name in COLUMNS:
        column = getattr(plan, name)
        if column is not None and not np.isfinite(column).all():
            row = int(np.argwhere(~np.isfinite(column))[0][0])
            raise NumericsError(
                f"row {row} is not finite in column {name!r}",
                where=f"plan of {plan.sampler!r}",
                why=f"the row starts at α = {plan.alpha[row]:g}, σ = {plan.sigma[row]:g}",
                suggestion="check the levels and the sampler's formula; at zero signal use a first-order sampler",
            )


def _contradictions(plan: PlanRows) -> Iterator[tuple[str, Flags, str, str]]:
    """For each rule: the column, the rows that break it, the error and the advice."""
    keys, drawn = plan.noise_key, plan.noise_key[:, 0] >= 0
    steps, size = np.diff(plan.step), np.hypot(plan.alpha, plan.sigma)
    noise = np.abs(plan.c).max(axis=1) / np.maximum(np.maximum(size[1:], size[:-1]), np.finfo(float).tiny)
    half_key = (keys < 0).any(axis=1) & (keys != -1).any(axis=1)
    yield "alpha", plan.alpha < -_ROUNDED * size, "is negative", "α is a factor ≥ 0"
    yield "sigma", plan.sigma < 0.0, "is negative", "σ is a factor ≥ 0"
    yield "sigma", size == 0.0, "is 0 beside α = 0", "a level has signal, noise or both"
    yield "step", plan.step < 0, "is negative", "steps count from 0"
    yield "step", (steps < 0) | (steps > _MOST_SKIPPED), "does not follow the step before", "steps rise from row to row"
    if plan.asks is not None:
        yield "asks", (plan.asks != 0) & (plan.asks != 1), "is neither 0 nor 1", "1: the row evaluates the model"
    yield (
        "noise_key", half_key | (keys >= _KEY_LIMIT).any(axis=1), "is out of range",
        f"give step and stage from 0 to {_KEY_LIMIT - 1}, or −1 and −1 for no noise",
    )  # fmt: skip
    yield "noise_key", _repeated(keys, drawn), "is that of another row", "two rows with one key add the same noise"
    yield "c", _without_source(plan.c, drawn), "reads noise that no row brings in", "give that row a noise_key"
    yield "c", noise > _MOST_NOISE, "adds far more noise than its levels have", "check the sampler's formula"
    if plan.both is not None and plan.delta is not None:
        without = ~np.array(plan.asked) & (plan.both != 0)
        yield "both", (plan.both != 0) & (plan.both != 1), "is neither 0 nor 1", "1: the row evaluates both branches"
        yield "both", without, "is 1 in a row without a model call", "give 0 there"
        yield "delta", _without_source(plan.delta, plan.both == 1), "reads a row that evaluates one branch", "set both"
        alone = np.full(len(plan), plan.null is not None)
        yield "null", alone, "is given beside delta", "fold it into delta: y_null = y − δ"
    if (spans := plan.noise_span) is not None:
        outside = ((spans < 0.0) | (spans > 1.0)).any(axis=1)
        yield "noise_span", outside, "is outside [0, 1]", "give (2/π)·arctan(σ/α) of both ends"
    if (to := plan.to) is not None:
        yield "to", to[:, 1] < -_ROUNDED, "has a negative α", "give r, α and σ at r, and the time from r to t"
        yield "to", to[:, 2] < 0.0, "has a negative σ", "give r, α and σ at r, and the time from r to t"
        yield "to", np.hypot(to[:, 1], to[:, 2]) == 0.0, "has σ = 0 beside α = 0", "a level has signal, noise or both"
        apart = (plan.time - to[:, 0] != 0.0) != (to[:, 3] != 0.0)
        yield "to", apart, "has other times than its elapsed time says", "it is 0 where r is t, and only there"
    if plan.input_scale is not None:
        yield "input_scale", plan.input_scale <= 0.0, "is not positive", "give it > 0"
    if (bounds := plan.log_variance) is not None:
        yield "log_variance", bounds[:, 0] > bounds[:, 1], "has its bounds in the wrong order", "give (low, high)"


def _repeated(keys: Integers, drawn: Flags) -> Flags:
    """The rows whose noise key is that of an earlier row."""
    seen: set[tuple[int, ...]] = set()
    result = np.zeros(len(keys), dtype=bool)
    for row in np.flatnonzero(drawn):
        key = tuple(keys[row].tolist())
        result[row] = key in seen
        seen.add(key)
    return result


def _without_source(c: Array, drawn: Flags) -> Flags:
    """The rows that read the noise of a row without noise; another check refuses what lies before the start."""
    result = np.zeros(len(c), dtype=bool)
    for row, age in zip(*np.nonzero(c), strict=True):
        result[row] |= row >= age and not drawn[row - age]
    return result


def _refuse_lost_constants(plan: PlanRows) -> None:
    scale = np.abs(plan.a) + np.abs(plan.b).sum(axis=1) + np.abs(plan.raw) + 1.0
    for what, residual in (("data", constant_residual(plan)), ("noise", noise_residual(plan))):
        worst = int(np.argmax(np.abs(residual) / scale))
        if what not in plan.carries or abs(residual[worst]) <= _RESIDUAL * scale[worst]:
            continue
        raise NumericsError(
            f"row {worst} does not reproduce constant {what} (off by {residual[worst]:.3g})",
            where=f"plan of {plan.sampler!r}",
            why="the weights of the predictions do not add up to what the noise levels demand",
            suggestion="check the sampler's formula",
        )


def refuse_other_scale(plan: PlanRows) -> None:
    """Raise where a plan from pure noise does not scale the first state like its first level.

    Raises:
        NumericsError: ``prior_scale`` is not √(α² + σ²) of the first level.
    """
    size = math.hypot(plan.alpha[0], plan.sigma[0])
    # where noise comes before the first call, the first row has the level that the noise leads to
    if "data" in plan.carries and plan.asked[0] and not math.isclose(plan.prior_scale, size, rel_tol=_SCALE_TOLERANCE):
        raise NumericsError(
            f"is {plan.prior_scale:.6g}, but the first level has √(α² + σ²) = {size:.6g}",
            where="plan field 'prior_scale'",
            suggestion="give that of the first level",
        )
