"""Few-step plans without a model call: the best table for Gaussian data of a given spectrum."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from ..config.settings import NoiseSchedulerConfig
from ..grids.time_grid import checked_steps
from ..plans.plan import SamplingPlan
from ..schedules.factory import NoiseSchedulerFactory
from ..schedules.path import CLEAN, Level, NoisePath
from ..support.errors import ConfigurationError
from .damped_steps import damped_step
from .spectrum import Spectrum
from .table import LevelRange, Table
from .zolotarev import best_root

__all__ = ["CRITERIA", "FIRST", "Design", "design_plan", "design_table", "limit", "optimal_levels"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

CRITERIA: Final = ("max", "rms")
FIRST: Final = ("free", "noisiest")
#: Variances at which the largest error is sought: so many, and so many more a call.
_POINTS = (60, 12)
#: Rounds of reweighting, and those in which the levels move, too.
_ROUNDS, _MOVES = 60, (0, 1, 2, 4, 6, 8, 11, 14, 18, 22)
#: Up to so many calls the levels are sought from Zolotarev's on; with more, these are as good as what is found.
_SOUGHT = 10
#: Singular values below this fraction of the largest are rounding.
_RANK = 1e-14
#: Differences for derivatives; the longest step of a level's number; the steps tried with one system, and what the
#: damping is divided by after it.
_STEP, _LONGEST, _TRIES, _FALL = 1e-5, 3.0, 8, 5.0
#: The weights' penalties that are tried, one after the other, until they are small enough.
_PENALTIES = tuple(10.0 ** (k / 2) for k in range(-20, 1))


def design_plan(
    spectrum: Spectrum | npt.ArrayLike | None = None,
    nfe: int = 5,
    path: NoisePath | NoiseSchedulerConfig | None = None,
    *,
    mean_safe: bool = True,
    criterion: str = "max",
    first: str = "free",
    history: int | None = None,
    max_gain: float | None = None,
    start: str = "noisiest",
) -> SamplingPlan:
    """The best plan of N model calls for Gaussian data with this spectrum. No model is asked.

    The arguments are those of :func:`design_table`, which has the method, and ``start`` of :meth:`Table.plan`.

    Returns:
        A plan for ``pipeline.sample(plan=...)`` on a pipeline of this path. Its ``provenance`` holds the errors
        expected on such data, the least that is possible, and the largest gain of errors of the predictions.

    Raises:
        ConfigurationError: an argument that makes no sense.
    """
    made = design_table(
        spectrum, nfe, path, mean_safe=mean_safe, criterion=criterion, first=first, history=history, max_gain=max_gain
    )
    options = {"mean_safe": mean_safe, "criterion": criterion}
    return made.table.plan(start=start, sampler="designed", options=options, provenance=made.provenance)


@final
@dataclass(frozen=True)
class Design:
    """A table with what is expected of it on Gaussian data of the spectrum that it was made for.

    Attributes:
        table: the levels and rows.
        spectrum: what it was made for.
        rms: the root mean square error of samples, relative to the data's standard deviation.
        worst: the largest relative error of the standard deviation of any direction, of those that a query of the
            path can resolve.
        limit: the least ``worst`` that any table of as many calls can have (:func:`limit`).
    """

    table: Table
    spectrum: Spectrum
    rms: float
    worst: float
    limit: float

    @property
    def provenance(self) -> dict[str, Any]:
        """The numbers as plain data."""
        given = self.spectrum
        return {
            "made_by": "design_plan",
            "expected_rms": self.rms,
            "expected_worst": self.worst,
            "limit_worst": self.limit,
            "gain": self.table.gain,
            "spectrum": {"directions": given.directions, "low": given.low, "high": given.high, "power": given.power},
        }


def design_table(
    spectrum: Spectrum | npt.ArrayLike | None = None,
    nfe: int = 5,
    path: NoisePath | NoiseSchedulerConfig | None = None,
    *,
    mean_safe: bool = True,
    criterion: str = "max",
    first: str = "free",
    history: int | None = None,
    max_gain: float | None = None,
) -> Design:
    """The best table of N model calls for Gaussian data with this spectrum.

    On such data every state is a multiple of x_T along each principal direction, and the multiples that a row can make
    are linear in its coefficients. So the rows follow one after the other by least squares: those of the queries
    bring the state onto the flow at their level as nearly as can be, the last one the result. Left are the levels.
    Zolotarev's (zolotarev.py) are the best ones for the worst relative error of any variance in an interval;
    with constraints or another measure they are where a search begins (variable projection by
    Levenberg-Marquardt).

    Args:
        spectrum: a :class:`Spectrum`, or the eigenvalues of the data's covariance, shape (K,); default a power law
            like that of images in [−1, 1].
        nfe: N ≥ 1, the number of model calls; meant for up to 10.
        path: the noise schedule, or the config of one; default that of :class:`NoiseSchedulerConfig`.
        mean_safe: every row but the scaling of x_T to the first query's level reproduces constant data. Without it
            the error on centred Gaussian data is smaller still, but a mean, guidance, and a model's own errors are
            multiplied: measured on digits, it is worse than the best classic sampler.
        criterion: "max", the worst relative error of the standard deviation of any direction, the same for
            all variances that a query of the path can resolve (what is left of x_T in other directions counts as an
            error of the smallest of these); or "rms", the error of samples, to which large variances contribute most.
        first: "free", the first query is where it tells most, and x_T is scaled to that level; or "noisiest", x_T
            itself is asked about, and constants are carried by all rows, at the price of nearly one call.
        history: the most earlier predictions that a step reads beside the newest; None: all.
        max_gain: bound of ``table.gain``, reached by a ridge penalty on the coefficients; default 20, and 1,000
            with ``mean_safe=False``. No table has less than 1.

    Raises:
        ConfigurationError: an argument that makes no sense.
    """
    given, schedule, count = _spectrum(spectrum), _path(path), checked_steps(nfe, "nfe")
    for name, value, allowed in (("criterion", criterion, CRITERIA), ("first", first, FIRST)):
        if value not in allowed:
            raise ConfigurationError(f"got {value!r}", where=name, suggestion=f"give one of {', '.join(allowed)}")
    bound = (20.0 if mean_safe else 1e3) if max_gain is None else max_gain
    if isinstance(bound, bool) or not 1.0 < bound < math.inf:
        raise ConfigurationError(f"got {max_gain!r}", where="max_gain", suggestion="give a number above 1")
    problem = _Gaussian.of(given, schedule, criterion, mean_safe, history, points=_POINTS[0] + _POINTS[1] * count)
    span = LevelRange(schedule, first_fixed=first == "noisiest")
    low, high = _interval(given, schedule)
    found: list[tuple[float, Table]] = []
    for top in (high, math.inf):
        best = np.log(optimal_levels(low, top, count, schedule))
        outside = best.max() > span.ends[0] or best.min() < span.ends[1]
        levels = span.levels(np.zeros(count - span.first_fixed)) if outside else tuple(map(span.level, best.tolist()))
        if outside:
            logger.info(
                "the best levels for variances from %g to %g, σ/α = %s, are not all on the path (%g to %g)",
                low, top, np.exp(best).round(4).tolist(), *np.exp(span.ends[::-1]),
            )  # fmt: skip
        if span.first_fixed:
            levels = (schedule.level(schedule.t_max), *levels[1:])
        optimal = not (outside or mean_safe or span.first_fixed or problem.unresolved or history is not None)
        seek = count <= _SOUGHT and (criterion == "rms" or not optimal)
        found.append(problem.bounded(*problem.fitted(span, levels, seek), bound))
    table = min(found, key=lambda pair: pair[0])[1]
    exact = _Gaussian.of(given, schedule, "rms", mean_safe, history)
    errors = exact.errors(table)
    resolved = given.eigenvalues >= low * (1 - 1e-12)
    return Design(table, given, exact.rms(errors), float(np.abs(errors[resolved]).max()), limit(given, count, schedule))


def limit(
    spectrum: Spectrum | npt.ArrayLike | None, nfe: int, path: NoisePath | NoiseSchedulerConfig | None = None
) -> float:
    """The least relative error, in the worst direction, that N model calls allow on Gaussian data (zolotarev.py)."""
    given, schedule = _spectrum(spectrum), _path(path)
    noise = schedule.level(schedule.t_max).noise_to_signal
    low, high = (_mapped(variance, noise) for variance in _interval(given, schedule))
    return best_root(low, high, checked_steps(nfe, "nfe")).error


def optimal_levels(
    low: float, high: float, nfe: int, path: NoisePath | NoiseSchedulerConfig | None = None
) -> tuple[float, ...]:
    """The noise levels σ/α of Zolotarev's problem for variances from ``low`` to ``high``, which may be inf.

    They fall; some may lie outside the path.
    """
    schedule = _path(path)
    noise = schedule.level(schedule.t_max).noise_to_signal
    roots = best_root(_mapped(low, noise), _mapped(high, noise), nfe).poles
    return tuple(math.sqrt(root / (1.0 + root / noise**2)) for root in roots[::-1])


def _mapped(variance: float, noise: float) -> float:
    """l/(1 + l/τ_T²): z of zolotarev.py but for a factor, and finite where there is no signal at the start."""
    if variance == math.inf:
        return min(noise**2, 1e12)
    return variance / (1.0 + variance / noise**2)


def _interval(spectrum: Spectrum, path: NoisePath) -> tuple[float, float]:
    """The variances that count for the worst relative error: what is below all noise cannot be resolved."""
    floor = path.level(path.t_min).noise_to_signal ** 2
    high = spectrum.high
    return min(max(spectrum.low, floor), high), high


@dataclass(frozen=True, eq=False)
class _Gaussian:
    """Samplers on Gaussian data: by what a state is u_T, per variance.

    Attributes:
        start: the level of x_T.
        variances: shape (K,).
        counts: how many directions have them, shape (K,).
        relative: the last row's errors count relative to the exact result, and the worst of them.
        consistent: constants are reproduced.
        history: as for a table.
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
    ) -> _Gaussian:
        """With ``points``, a summary: near-equal eigenvalues together, or so many variances of the interval."""
        relative = criterion == "max"
        used = spectrum if points is None else spectrum.compressed()
        values, counts = used.eigenvalues, used.counts
        if relative and points is not None:
            low, high = _interval(spectrum, path)
            below = [0.0] if spectrum.eigenvalues.min() < low / 4 else []  # near enough to the least noise
            values = np.append(below, np.geomspace(low, high, points))
            counts = np.ones_like(values)
        return cls(path.level(path.t_max), values, counts, relative, consistent, history)

    def flow(self, level: Level) -> Array:
        """The exact factor from u_T to u at a level, shape (K,)."""
        factor: Array = np.sqrt(_variance(level, self.variances) / _variance(self.start, self.variances))
        return factor

    @property
    def unresolved(self) -> bool:
        """Whether there are directions without variance, in which nothing of x_T should be left."""
        return not self.variances.min() > 0.0

    def unit(self, level: Level) -> Array:
        """What errors are counted in: the exact factor; where that is 0, the least that is not, shape (K,)."""
        exact = self.flow(level)
        return np.where(exact > 0.0, exact, exact[exact > 0.0].min())

    def denoised(self, level: Level) -> Array:
        """The clean sample that is expected, per u at a level: shape (K,)."""
        radius = math.hypot(level.alpha, level.sigma)
        factor: Array = level.alpha / radius * self.variances / _variance(level, self.variances)
        return factor

    def table(self, levels: Sequence[Level], weights: Array | None = None, penalty: float = 0.0) -> tuple[Table, Array]:
        """The rows of these levels by least squares, and the last one's residual, shape (K + penalties,).

        Args:
            levels: of the queries.
            weights: of the squares of the last row's relative errors, shape (K,); default: errors count as they are.
            penalty: what the predictions' coefficients count, as a fraction of the data.
        """
        size = 1 + len(levels)
        table = Table(self.start, tuple(levels), np.zeros((size, size)), history=self.history)
        columns, rows, unit = np.zeros((len(self.variances), size)), np.zeros((size, size)), np.eye(size)
        columns[:, 0] = 1.0
        residual = np.zeros(0)
        for i, level in enumerate([*levels, table.end]):
            exact, scale = self.flow(level), np.sqrt(self.counts * _variance(self.start, self.variances))
            size_of_data = math.sqrt(float(self.counts @ self.variances))
            if weights is not None and i == len(levels):
                scale, size_of_data = np.sqrt(weights) / self.unit(level), math.sqrt(len(weights))
            frame = table.frame(i, consistent=self.consistent, rows=rows)
            system, target = scale[:, None] * columns, scale * exact
            if penalty:
                system = np.concatenate([system, penalty * size_of_data * unit[1:]])
                target = np.append(target, np.zeros(size - 1))
            rows[i] = frame.row(_least_squares(system @ frame.directions.T, target - system @ frame.offset))
            if i == len(levels):
                residual = system @ rows[i] - target
            else:
                columns[:, 1 + i] = self.denoised(level) * (columns @ rows[i])
        return replace(table, rows=rows), residual

    def fitted(self, span: LevelRange, levels: tuple[Level, ...], seek: bool) -> tuple[Table, Array | None]:
        """The table at the best levels near these, or at these, and the weights that made it."""
        vector = span.vector(levels)
        if not self.relative:
            if not seek:
                return self.table(levels)[0], None
            scale = math.sqrt(float(self.counts @ self.variances))
            vector = _minimised(lambda z: self.table(span.levels(z))[1] / scale, vector)
            return self.table(span.levels(vector))[0], None
        weights, best = np.ones_like(self.variances), (math.inf, self.table(levels)[0], np.ones_like(self.variances))
        for k in range(_ROUNDS):
            if seek and k in _MOVES:
                vector = _minimised(_residual(self, span, weights), vector, rounds=20 if k == 0 else 2)
                levels = span.levels(vector)
            table = self.table(levels, weights)[0]
            errors = np.abs(self.errors(table))
            worst = float(errors.max())
            if worst < best[0]:
                best = (worst, table, weights)
            if worst <= 1e-14:
                break
            weights = _reweighted(weights, errors)
        return best[1], best[2]

    def bounded(self, table: Table, weights: Array | None, gain: float) -> tuple[float, Table]:
        """(loss, table) at the same levels: the best one found whose gain is below a bound."""
        if table.gain <= gain:
            return self.loss(table), table
        found: list[tuple[float, Table]] = []
        for penalty in _PENALTIES:
            # a penalty brings the errors of a minimax table out of balance
            following = None if weights is None else np.ones_like(weights)
            for _ in range(1 if following is None else _ROUNDS // 4):
                table = self.table(table.levels, following, penalty)[0]
                if table.gain <= gain:
                    found.append((self.loss(table), table))
                if following is not None:
                    following = _reweighted(following, self.errors(table))
            if found and self.loss(table) > 2 * min(loss for loss, _ in found):
                break
        return min(found, key=lambda pair: pair[0]) if found else (self.loss(table), table)

    def loss(self, table: Table) -> float:
        """What the criterion says of a table."""
        errors = self.errors(table)
        return float(np.abs(errors).max()) if self.relative else self.rms(errors)

    def errors(self, table: Table) -> Array:
        """The result's errors in units of :meth:`unit`, shape (K,)."""
        columns = np.zeros((len(self.variances), 1 + table.nfe))
        columns[:, 0] = 1.0
        for i, level in enumerate(table.levels):
            columns[:, 1 + i] = self.denoised(level) * (columns @ table.rows[i])
        errors: Array = (columns @ table.rows[-1] - self.flow(table.end)) / self.unit(table.end)
        return errors

    def rms(self, errors: Array) -> float:
        """The error of samples relative to the data, from errors in units of :meth:`unit`."""
        power = _variance(self.start, self.variances) * self.unit(CLEAN) ** 2
        return math.sqrt(float(self.counts @ (power * errors**2)) / float(self.counts @ self.variances))


def _residual(problem: _Gaussian, span: LevelRange, weights: Array) -> Callable[[Array], Array]:
    return lambda vector: problem.table(span.levels(vector), weights)[1]


def _reweighted(weights: Array, errors: Array) -> Array:
    """Larger where errors are: repeated, it makes least squares minimax (Lawson 1961)."""
    product = weights * np.abs(errors)
    result: Array = np.maximum(product / (product.max() or 1.0), 1e-12)
    return result


def _variance(level: Level, variances: Array) -> Array:
    """The variance of u = x/r at a level, per variance of the data."""
    a, s = level.alpha, level.sigma
    result: Array = (a * a * variances + s * s) / (a * a + s * s)
    return result


def _least_squares(matrix: Array, target: Array) -> Array:
    """The solution, with columns brought to one size first."""
    if not matrix.shape[1]:
        return np.zeros(0)
    sizes = np.linalg.norm(matrix, axis=0)
    sizes[sizes == 0.0] = 1.0
    solution: Array = np.linalg.lstsq(matrix / sizes, target, rcond=_RANK)[0] / sizes
    return solution


def _minimised(residual: Callable[[Array], Array], start: Array, rounds: int = 60) -> Array:
    """A local minimum of a sum of squares, with derivatives by differences."""
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


def _spectrum(given: Spectrum | npt.ArrayLike | None) -> Spectrum:
    if given is None:
        return Spectrum.power_law()
    return given if isinstance(given, Spectrum) else Spectrum(given)  # type: ignore[arg-type]


def _path(given: NoisePath | NoiseSchedulerConfig | None) -> NoisePath:
    if isinstance(given, NoisePath):
        return given
    if given is None or isinstance(given, NoiseSchedulerConfig):
        return NoiseSchedulerFactory.create(given or NoiseSchedulerConfig())
    raise ConfigurationError(
        f"got {type(given).__name__}", where="path", suggestion="give a noise schedule or a NoiseSchedulerConfig"
    )
