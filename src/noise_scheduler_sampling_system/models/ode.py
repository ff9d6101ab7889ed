"""Ordinary differential equations to near machine precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..support.errors import NumericsError

__all__ = ["integrate"]

_COLUMNS = 7
_MAX_STEPS = 1_000


def integrate(
    slope: Callable[[Tensor, float], Tensor], y: Tensor, start: float, end: float, tolerance: float = 1e-12
) -> Tensor:
    """Solve dy/ds = slope(y, s) from ``start`` to ``end``; either may be the larger one.

    The method is Gragg's midpoint rule, extrapolated over 2, 4, ..., 14 substeps (Bulirsch & Stoer; Hairer, Nørsett &
    Wanner, "Solving Ordinary Differential Equations I", §II.9), of order 14. The whole batch has one step size, with
    which every entry keeps the tolerance.

    Args:
        slope: a smooth function of a state shaped like ``y`` and the position.
        y: the state at ``start``, any shape, float64.
        start, end: the interval; where they are equal the state is returned unchanged.
        tolerance: the largest error of a step in an entry, relative to 1 + |y|.

    Raises:
        NumericsError: no step keeps the tolerance, because the slope is not finite or not smooth.
    """
    position, step = start, end - start
    for _ in range(_MAX_STEPS):
        if position == end or not y.numel():
            return y
        last = abs(step) >= abs(end - position)
        step = end - position if last else step
        candidate, difference = _extrapolated(slope, y, position, step)
        error = float((difference.abs() / (1.0 + y.abs())).max()) / tolerance
        if error <= 1.0:
            y, position = candidate, end if last else position + step
        # the error falls as step^(2·columns − 1); after NaN the step shrinks as much as it may
        wanted = 0.9 * max(error, 1e-30) ** (-1.0 / (2 * _COLUMNS - 1)) if not math.isnan(error) else 0.1
        step *= min(max(wanted, 0.1), 4.0)
        if abs(step) < 1e-13 * abs(end - start):
            break
    raise NumericsError(
        f"the integration stopped at {position:g} on its way from {start:g} to {end:g}",
        where="ode.integrate",
        why=f"no step keeps the error below {tolerance:g}: the slope is not finite, or not smooth there",
        suggestion="check that the starting state is finite, or allow a larger tolerance",
    )


def _extrapolated(
    slope: Callable[[Tensor, float], Tensor], y: Tensor, position: float, step: float
) -> tuple[Tensor, Tensor]:
    """The state after one step, and its difference from the extrapolation over one column less."""
    first = slope(y, position)
    row: list[Tensor] = []
    for column in range(1, _COLUMNS + 1):
        h = step / (2 * column)
        before, now = y, y + h * first
        for i in range(1, 2 * column):
            before, now = now, before + 2.0 * h * slope(now, position + i * h)
        # Aitken–Neville: the midpoint rule's error has only even powers of h
        previous, row = row, [now]
        for back, coarser in enumerate(previous, start=1):
            ratio = (column / (column - back)) ** 2
            row.append(torch.lerp(coarser, row[-1], ratio / (ratio - 1.0)))
    return row[-1], row[-1] - row[-2]
