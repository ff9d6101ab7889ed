"""Levenberg-Marquardt's step: the damping between Gauss-Newton and gradient descent, for every fit in this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Bound", "damped_step"]

Array = npt.NDArray[np.float64]
Reached = TypeVar("Reached")

#: The damping is multiplied by this after a step that was refused.
_RISE = 4.0
#: The damping never falls below this, so that it can rise again within a few tries.
_LEAST = 1e-7
#: The first weight of a bound's form, as a share of the mean diagonal, and how often it may rise.
_FIRST, _RISES = 1e-6, 30


class Bound(NamedTuple):
    """What steps may reach.

    Attributes:
        form: a quadratic form of steps, shape (K, K). With more of it in the equations, steps come within the bound.
        allows: whether a step of shape (K,) is within the bound. It costs no run.
    """

    form: Array
    allows: Callable[[Array], bool]


def damped_step(
    square: Array,
    slope: Array,
    damping: float,
    attempt: Callable[[Array], Reached | None],
    *,
    tries: int,
    fall: float = 4.0,
    bound: Bound | None = None,
) -> tuple[Reached | None, float]:
    """Try the step of (JᵀJ + μ·diag(JᵀJ))·step = −Jᵀr, with more damping μ after every refusal.

    The damping acts on the diagonal (D. W. Marquardt, J. SIAM 11(2), 1963), so that the step does not depend on the
    units of the numbers.

    Args:
        square: JᵀJ, shape (K, K).
        slope: Jᵀr, shape (K,).
        damping: μ of the first try, > 0.
        attempt: takes a step of shape (K,); returns what it reached, or None to refuse the step.
        tries: the number of steps to try, ≥ 1.
        fall: what the damping is divided by for the next system, > 1.
        bound: what steps may reach. The damping alone would shorten a step that leaves the bound in all directions.

    Returns:
        What the accepted step reached, or None if every step was refused; and the damping for the next system.
    """
    diagonal = np.diag(square)
    scale = np.diag(diagonal + 1e-12 * diagonal.max() + 1e-300)  # a number without effect must not make it singular
    for _ in range(tries):
        reached = attempt(_within(square + damping * scale, slope, bound))
        if reached is not None:
            return reached, max(damping / fall, _LEAST)
        damping *= _RISE
    return None, max(damping / fall, _LEAST)


def _within(square: Array, slope: Array, bound: Bound | None) -> Array:
    """Solve square·step = −slope, with as much of the bound's form added as brings the step within the bound."""
    step: Array = -np.linalg.solve(square, slope)
    if bound is not None:
        share = _FIRST * np.trace(square) / np.trace(bound.form)
        for rise in range(_RISES):
            if bound.allows(step):
                break
            step = -np.linalg.solve(square + share * _RISE**rise * bound.form, slope)
    return step
