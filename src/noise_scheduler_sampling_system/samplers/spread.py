"""The guard of the data's spread: it chooses the order of a step by its effect on Gaussian data.

A method of high order extrapolates. Where a step is far longer than the steps before it, the extrapolation widens the
data: noise stays in the samples. The widening is known before the run. For data N(μ, s²) and exact predictions, states
are linear in the initial noise and the noise of the steps, so the rows determine the standard deviation of every state
(:mod:`~.plans.gaussian_moments`). A :class:`SpreadGuard` computes it, for data from narrow to wide, while a sampler
writes its plan. Let std be the standard deviation at the end if first-order steps finish the run from here, and std₁
that of the first-order method on the whole grid. The bounds are

    |log(std/s)| ≤ 1.1·|log(std₁/s)| + 0.05    for every width s, and std ≤ 1.15·s for s ≥ 0.1.

A sampler offers its step as a ladder of forms, from its full order down to the first-order step. The guard takes the
highest rung within the bounds, blended with the largest allowed share of the rung above it.

The last rung is within the bounds if the state before it is: the first-order step depends only on the current state
and prediction, and scales a deviation as it scales the first-order method's own. So by induction the whole plan is
within the bounds.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from ..config.prediction import conversion
from ..grids.time_grid import TimeGrid
from ..plans.gaussian_moments import response
from ..plans.linear_form import Form, Symbol
from ..schedules.path import Level
from .steps import ancestral

__all__ = ["SpreadGuard"]

Array = npt.NDArray[np.float64]

#: The widths s: standard deviations of the data. Real images are narrow in most directions.
_WIDTHS = np.array(
    [0.01, 0.015, 0.025, 0.04, 0.065, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 1.75, 2.0]
)
#: The bounds above, slightly tighter, so that they also hold for widths between these.
_FACTOR, _SLACK, _WIDEST, _WIDE_FROM = 1.1, 0.045, 0.1325, 0.09
#: The largest error that a step may add: in standard deviations of the state, for predictions with relative error 1.
_ERRORS = 2.0
#: The shares of the higher rung in a blend.
_SHARES = np.linspace(1.0, 0.0, 17)


class _Weighed(NamedTuple):
    """A form in numbers, for each width.

    Attributes:
        state: the coefficients of the initial noise and of the steps' noise, shape (widths, noises).
        errors: those of the errors of the predictions, the newest first, shape (widths, predictions).
    """

    state: Array
    errors: Array


class _Bounds(NamedTuple):
    """The bounds of a form: the variance at the end is scale·variance + added; ``errors`` limits the error it adds."""

    scale: Array
    added: Array
    errors: Array


@final
class SpreadGuard:
    """Computes the spread of Gaussian data while a plan is written, and chooses among forms of a step.

    Args:
        grid: the grid of the run, from noise to data.
        eta: η of the first-order method that steps are compared with: 0 is DDIM, 1 is ancestral sampling.
        prior_scale: the standard deviation of the first state; None: that of noised data (image-to-image).
        analytic_first: whether the first prediction is made without the model, as for data of unit variance.
    """

    def __init__(self, grid: TimeGrid, eta: float, prior_scale: float | None, *, analytic_first: bool = False) -> None:
        self._levels, self._eta = grid.levels, eta
        self._order = [-level.noise_to_signal for level in grid.levels]  # rising
        first = _spread(grid.levels[0])
        start = first if prior_scale is None else np.full_like(first, prior_scale)
        self._values: dict[Symbol, Array] = {("x", 0): start[:, None]}
        self._errors: dict[int, Array] = {}
        self._rows = 0
        # after first-order steps from level k the variance at the end is scale·(variance at level k) + added
        scale, added = np.ones_like(first), np.zeros_like(first)
        self._rest = [(scale, added)]
        for now, after in zip(grid.levels[-2::-1], grid.levels[:0:-1], strict=True):
            analytic = analytic_first and now is grid.levels[0]
            scale, added = self._first_order_step(
                now, after, scale, added, np.ones_like(first) if analytic else _WIDTHS
            )
            self._rest.insert(0, (scale, added))
        self._target = 2.0 * np.log(_spread(grid.levels[-1]))
        with np.errstate(divide="ignore"):  # infinite where the state does not depend on the data
            reference = 0.5 * (np.log(scale * start**2 + added) - self._target)
        self._low = -_FACTOR * np.abs(reference) - _SLACK
        high = np.where(_WIDTHS >= _WIDE_FROM, np.minimum(-self._low, _WIDEST), -self._low)
        self._high = np.maximum(high, reference)

    def predicted(self, row: int, state: Form, level: Level, space: str) -> None:
        """Note that the model is evaluated at this state."""
        x = self._value(state)
        y = response(space, level, _WIDTHS)[0][:, None] * x
        self._values["x", row] = x
        for kind in ("y", "raw", "null"):
            self._values[kind, row] = y
        per_clean = abs(conversion("sample", space, level.alpha, level.sigma).y_factor)
        self._rows = row + 1
        self._errors[row] = per_clean * _WIDTHS * level.sigma / _spread(level)

    def choose(self, after: Level, rungs: Iterable[Form]) -> tuple[Form, float]:
        """Choose the state at ``after`` among forms from the highest order to the first.

        The first rung within the bounds is taken. A rung outside them is blended with each rung below it, with the
        largest share that the bounds allow, before the next rung is tried. If all are outside, the nearest is taken.

        Returns:
            The form, and its distance from the bounds in log of the standard deviation (≤ 0: inside).
        """
        forms = iter(rungs)
        first = next(forms)
        bounds = _Bounds(*self._finish(after), _ERRORS * _spread(after))
        weighed = [self._weighed(first)]
        excess = float(self._outside(_squares(weighed[0].state), _squares(weighed[0].errors), bounds))
        if excess <= 0.0:
            return first, excess
        ladder = [first, *forms]
        weighed += [self._weighed(form) for form in ladder[1:]]
        best = excess, first
        for k, upper in enumerate(ladder):
            pairs = [(low, self._excess(weighed[k], weighed[low], _SHARES, bounds)) for low in range(k, len(ladder))]
            for i, share in enumerate(_SHARES.tolist()):
                for low, found in pairs:
                    if found[i] < best[0]:
                        best = float(found[i]), share * upper + (1.0 - share) * ladder[low] if low > k else upper
                    if best[0] <= 0.0:
                        return best[1], best[0]
        return best[1], best[0]

    def _excess(self, upper: _Weighed, lower: _Weighed, shares: Array, bounds: _Bounds) -> Array:
        """The distances of blends of two forms from the bounds (≤ 0: inside), one for each share of the upper form."""
        return self._outside(
            _square(upper.state, lower.state, shares), _square(upper.errors, lower.errors, shares), bounds
        )

    def _outside(self, variance: Array, errors: Array, bounds: _Bounds) -> Array:
        """The distances of forms from the bounds, from the squares of their parts, each of shape (..., widths)."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            deviation = 0.5 * (np.log(bounds.scale * variance + bounds.added) - self._target)
            outside = np.maximum(deviation - self._high, self._low - deviation)
            brought = 0.5 * np.log(errors) - np.log(bounds.errors)
            worst: Array = np.maximum(outside, brought).max(axis=-1)
        return np.where(np.isnan(worst), np.inf, worst)

    def _weighed(self, form: Form) -> _Weighed:
        parts: dict[int, float] = {}
        for (kind, row), coefficient in form.terms.items():
            if kind in ("y", "raw", "null") and row in self._errors:
                parts[row] = parts.get(row, 0.0) + coefficient
        newest = self._rows - 1
        errors = np.zeros((_WIDTHS.size, newest + 1 - min(parts, default=self._rows)))
        for row, coefficient in parts.items():
            errors[:, newest - row] = coefficient * self._errors[row]
        return _Weighed(self._value(form), errors)

    def _value(self, form: Form) -> Array:
        """The form's coefficients on the initial noise and on the noise of the steps, for each width."""
        noises = [number for kind, number in form.terms if kind == "noise"]
        parts = [(c, self._values[symbol]) for symbol, c in form.terms.items() if symbol[0] != "noise" and c]
        size = max([1 + max(noises, default=-1) + 1, *(part.shape[1] for _, part in parts)])
        total = np.zeros((_WIDTHS.size, size))
        for coefficient, part in parts:
            total[:, : part.shape[1]] += coefficient * part
        for number in noises:
            total[:, 1 + number] += form.terms["noise", number]
        return total

    def _finish(self, level: Level) -> tuple[Array, Array]:
        """(scale, added) of first-order steps from a level to the end."""
        k = bisect.bisect_left(self._order, -level.noise_to_signal * (1.0 + 1e-9))
        if k == len(self._levels):
            return self._rest[-1]
        known = self._levels[k]
        if math.isclose(known.noise_to_signal, level.noise_to_signal, rel_tol=1e-9):
            return self._rest[k]
        return self._first_order_step(level, known, *self._rest[k])

    def _first_order_step(
        self, now: Level, after: Level, scale: Array, added: Array, widths: Array = _WIDTHS
    ) -> tuple[Array, Array]:
        """(scale, added) of a first-order step before steps with a known pair; predictions are for ``widths``."""
        down, noise = ancestral(now, after, self._eta)
        square = (now.alpha * widths) ** 2 + now.sigma**2
        factor = (down.alpha * now.alpha * widths**2 + down.sigma * now.sigma) / square
        return scale * factor**2, added + scale * noise**2


def _squares(parts: Array) -> Array:
    """The sum of the squares over the columns."""
    result: Array = np.einsum("ij,ij->i", parts, parts)
    return result


def _square(upper: Array, lower: Array, shares: Array) -> Array:
    """Σ (share·upper + (1 − share)·lower)² over the columns, shape (shares, widths)."""
    common = min(upper.shape[1], lower.shape[1])
    product = np.einsum("ij,ij->i", upper[:, :common], lower[:, :common])
    up, down = shares[:, None], 1.0 - shares[:, None]
    result: Array = up**2 * _squares(upper) + 2.0 * up * down * product + down**2 * _squares(lower)
    return np.maximum(result, 0.0)


def _spread(level: Level) -> Array:
    """The standard deviation of noised data."""
    return np.hypot(level.alpha * _WIDTHS, level.sigma)
