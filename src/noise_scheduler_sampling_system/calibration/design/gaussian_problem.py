"""Samplers on Gaussian data: least-squares rows, the best levels, and the errors of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...schedules.path import CLEAN, Level, NoisePath
from ..fit.damped_steps import damped_step
from ..level_range import LevelRange
from ..table import Table
from .spectrum import Spectrum

__all__ = ["GaussianProblem", "resolved_interval"]

Array = npt.NDArray[np.float64]

#: The number of rounds of reweighting, and the rounds in which the levels move, too.
_ROUNDS, _MOVES = 60, (0, 1, 2, 4, 6, 8, 11, 14, 18, 22)
#: Singular values below this fraction of the largest one are rounding.
_RANK = 1e-14
#: The step of differences, the longest step of a level, the number of steps tried with one system, and the divisor of
#: the damping after it.
_STEP, _LONGEST, _TRIES, _FALL = 1e-5, 3.0, 8, 5.0
#: The ridge penalties that are tried, from small to large, until the gain is small enough.
_PENALTIES = tuple(10.0 ** (k / 2) for k in range(-20, 1))


def resolved_interval(spectrum: Spectrum, path: NoisePath) -> tuple[float, float]:
    """Return the smallest and the largest variance of the worst relative error.

    Variances below the square of the least noise cannot be resolved.
    """
    floor = path.level(path.t_min).noise_to_signal ** 2
    high = spectrum.high
    return min(max(spectrum.low, floor), high), high


@dataclass(frozen=True, eq=False)
class GaussianProblem:
    """Tables on Gaussian data, where every state is a multiple of u_T for each variance.

    Attributes:
        start: the level of x_T.
        variances: of the data, shape (K,).
        counts: the number of directions with each variance, shape (K,).
        relative: whether the criterion is the worst error relative to the exact result, instead of the rms of samples.
        consistent: whether the rows reproduce constant data.
        history: of the tables (:attr:`Table.history`).
    """

    start: Level
    variances: Array
    counts: Array
    relative: bool
    consistent: bool
    history: int | None

    @classmethod
    def of(
        cls,
        spectrum: Spectrum,
        path: NoisePath,
        criterion: str,
        consistent: bool,
        history: int | None,
        points: int | None = None,
    ) -> GaussianProblem:
        """Return the problem of a spectrum on a path.

        With ``points``, it is a summary: near-equal eigenvalues are merged, or for the criterion "max" that number of
        variances of the resolved interval is used.
        """
        relative = criterion == "max"
        used = spectrum if points is None else spectrum.compressed()
        values, counts = used.eigenvalues, used.counts
        if relative and points is not None:
            low, high = resolved_interval(spectrum, path)
            # variances that are only just below the least noise are near enough to it
            below = [0.0] if spectrum.eigenvalues.min() < low / 4 else []
            values = np.append(below, np.geomspace(low, high, points))
            counts = np.ones_like(values)
        return cls(path.level(path.t_max), values, counts, relative, consistent, history)

    def flow(self, level: Level) -> Array:
        """Return the exact factor from u_T to u at a level, shape (K,)."""
        factor: Array = np.sqrt(_variance(level, self.variances) / _variance(self.start, self.variances))
        return factor

    @property
    def unresolved(self) -> bool:
        """Whether there are directions without variance, in which the samples should be 0."""
        return not self.variances.min() > 0.0

    def unit(self, level: Level) -> Array:
        """Return the unit of errors, shape (K,): the exact factor, or where that is 0 the smallest factor above 0."""
        exact = self.flow(level)
        return np.where(exact > 0.0, exact, exact[exact > 0.0].min())

    def denoised(self, level: Level) -> Array:
        """Return the expected clean sample for u = 1 at a level, shape (K,)."""
        radius = math.hypot(level.alpha, level.sigma)
        factor: Array = level.alpha / radius * self.variances / _variance(level, self.variances)
        return factor

    def table(self, levels: Sequence[Level], weights: Array | None = None, penalty: float = 0.0) -> tuple[Table, Array]:
        """Return the table of least-squares rows at these levels, and the last row's residual.

        Args:
            levels: the levels of the queries.
            weights: the weights of the squared relative errors of the last row, shape (K,). None: absolute errors of
                samples, as for the other rows.
            penalty: the ridge penalty on the predictions' coefficients, as a fraction of the data.

        Returns:
            The table, and the residual of shape (K,), or (K + N,) with a penalty.
        """
        return self._begun(levels, penalty).ended(weights)

    def _begun(self, levels: Sequence[Level], penalty: float) -> _Begun:
        """Return all rows but the last one, which alone depends on the weights."""
        size = 1 + len(levels)
        table = Table(self.start, tuple(levels), np.zeros((size, size)), history=self.history)
        columns, rows = np.zeros((len(self.variances), size)), np.zeros((size, size))
        columns[:, 0] = 1.0
        begun = _Begun(self, table, rows, columns, penalty)
        for i, level in enumerate(levels):
            rows[i] = self._row(begun, i, level)[0]
            columns[:, 1 + i] = self.denoised(level) * (columns @ rows[i])
        return begun

    def _row(self, begun: _Begun, i: int, level: Level, weights: Array | None = None) -> tuple[Array, Array]:
        """Return row i by least squares, and its residual."""
        exact, scale = self.flow(level), np.sqrt(self.counts * _variance(self.start, self.variances))
        size_of_data = math.sqrt(float(self.counts @ self.variances))
        if weights is not None:
            scale, size_of_data = np.sqrt(weights) / self.unit(level), math.sqrt(len(weights))
        frame = begun.table.frame(i, consistent=self.consistent, rows=begun.rows)
        system, target = scale[:, None] * begun.columns, scale * exact
        if begun.penalty:
            count = system.shape[1] - 1
            system = np.concatenate([system, begun.penalty * size_of_data * np.eye(1 + count)[1:]])
            target = np.append(target, np.zeros(count))
        row = frame.row(_least_squares(system @ frame.directions.T, target - system @ frame.offset))
        return row, system @ row - target

    def fitted(self, span: LevelRange, levels: tuple[Level, ...], seek: bool) -> tuple[Table, Array | None]:
        """Return the best table near these levels (``seek``) or at them, and the weights of its errors, or None."""
        vector = span.vector(levels)
        if not self.relative:
            if not seek:
                return self.table(levels)[0], None
            scale = math.sqrt(float(self.counts @ self.variances))
            vector = _minimised(lambda z: self.table(span.levels(z))[1] / scale, vector)
            return self.table(span.levels(vector))[0], None
        weights, best = np.ones_like(self.variances), (math.inf, self.table(levels)[0], np.ones_like(self.variances))
        begun = self._begun(levels, 0.0)
        for k in range(_ROUNDS):
            if seek and k in _MOVES:
                vector = _minimised(_residual(self, span, weights), vector, rounds=20 if k == 0 else 2)
                begun = self._begun(span.levels(vector), 0.0)
            table = begun.ended(weights)[0]
            errors = np.abs(self.errors(table))
            worst = float(errors.max())
            if worst < best[0]:
                best = (worst, table, weights)
            if worst <= 1e-14:
                break
            weights = _reweighted(weights, errors)
        return best[1], best[2]

    def bounded(self, table: Table, weights: Array | None, gain: float) -> tuple[float, Table]:
        """Return the loss and the table at the same levels whose gain is below a bound, the best one found.

        Where no penalty reaches the bound, the table is returned as it is.
        """
        if table.gain <= gain:
            return self.loss(table), table
        found: list[tuple[float, Table]] = []
        for penalty in _PENALTIES:
            # with a penalty the errors of a minimax table are no longer balanced, so they are weighted anew
            following = None if weights is None else np.ones_like(weights)
            begun = self._begun(table.levels, penalty)
            for _ in range(1 if following is None else _ROUNDS // 4):
                table = begun.ended(following)[0]
                if table.gain <= gain:
                    found.append((self.loss(table), table))
                if following is not None:
                    following = _reweighted(following, self.errors(table))
            if found and self.loss(table) > 2 * min(loss for loss, _ in found):
                break
        return min(found, key=lambda pair: pair[0]) if found else (self.loss(table), table)

    def loss(self, table: Table) -> float:
        """Return the value of the criterion for a table."""
        errors = self.errors(table)
        return float(np.abs(errors).max()) if self.relative else self.rms(errors)

    def errors(self, table: Table) -> Array:
        """Return the errors of the result in units of :meth:`unit`, shape (K,)."""
        columns = np.zeros((len(self.variances), 1 + table.nfe))
        columns[:, 0] = 1.0
        for i, level in enumerate(table.levels):
            columns[:, 1 + i] = self.denoised(level) * (columns @ table.rows[i])
        errors: Array = (columns @ table.rows[-1] - self.flow(table.end)) / self.unit(table.end)
        return errors

    def rms(self, errors: Array) -> float:
        """Return the root-mean-square error of samples relative to the data, from errors in units of :meth:`unit`."""
        power = _variance(self.start, self.variances) * self.unit(CLEAN) ** 2
        return math.sqrt(float(self.counts @ (power * errors**2)) / float(self.counts @ self.variances))


@dataclass(frozen=True, eq=False)
class _Begun:
    """A table without its last row.

    Attributes:
        problem: the problem.
        table: its levels, and what its rows may read.
        rows: all rows but the last one, shape (N + 1, N + 1).
        columns: u_T and the predictions as multiples of u_T, shape (K, N + 1).
        penalty: the ridge penalty on the predictions' coefficients.
    """

    problem: GaussianProblem
    table: Table
    rows: Array
    columns: Array
    penalty: float

    def ended(self, weights: Array | None) -> tuple[Table, Array]:
        """Return the table with its last row, and the residual of this row; see :meth:`GaussianProblem.table`."""
        rows = self.rows.copy()
        rows[-1], residual = self.problem._row(self, self.table.nfe, self.table.end, weights)
        return replace(self.table, rows=rows), residual


def _residual(problem: GaussianProblem, span: LevelRange, weights: Array) -> Callable[[Array], Array]:
    return lambda vector: problem.table(span.levels(vector), weights)[1]


def _reweighted(weights: Array, errors: Array) -> Array:
    """Return weights that are larger where the errors are.

    Repeated reweighting turns least squares into minimax (C. L. Lawson, 1961).
    """
    product = weights * np.abs(errors)
    result: Array = np.maximum(product / (product.max() or 1.0), 1e-12)
    return result


def _variance(level: Level, variances: Array) -> Array:
    """Return the variance of u = x/r at a level for each variance of the data."""
    a, s = level.alpha, level.sigma
    result: Array = (a * a * variances + s * s) / (a * a + s * s)
    return result


def _least_squares(matrix: Array, target: Array) -> Array:
    """Solve a least-squares problem whose columns are first scaled to length 1."""
    if not matrix.shape[1]:
        return np.zeros(0)
    sizes = np.linalg.norm(matrix, axis=0)
    sizes[sizes == 0.0] = 1.0
    solution: Array = np.linalg.lstsq(matrix / sizes, target, rcond=_RANK)[0] / sizes
    return solution


def _minimised(residual: Callable[[Array], Array], start: Array, rounds: int = 60) -> Array:
    """Return a local minimum of a sum of squares, by Levenberg-Marquardt with derivatives by differences."""
    point, here, damping = start, residual(start), 1e-2
    for _ in range(rounds if len(point) else 0):
        slope = np.stack([(residual(point + _STEP * axis) - here) / _STEP for axis in np.eye(len(point))], axis=1)

        def attempt(step: Array, point: Array = point, here: Array = here) -> tuple[Array, Array] | None:
            if np.abs(step).max() >= _LONGEST:
                return None
            there = residual(point + step)
            return (point + step, there) if there @ there < here @ here else None

        found, damping = damped_step(slope.T @ slope, slope.T @ here, damping, attempt, tries=_TRIES, fall=_FALL)
        if found is None:
            break
        before, (point, here) = float(here @ here), found
        if float(here @ here) > before * (1.0 - 1e-9):
            break
    return point
