"""Few-step plans without a model call: the best table for Gaussian data of a given spectrum."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from ...config.settings import NoiseSchedulerConfig
from ...plans.plan import SamplingPlan
from ...schedules.factory import NoiseSchedulerFactory
from ...schedules.path import NoisePath
from ...support.argument_checks import checked_count
from ...support.errors import ConfigurationError
from ..level_range import LevelRange
from ..table import Table
from .gaussian_problem import GaussianProblem, resolved_interval
from .spectrum import Spectrum
from .zolotarev import best_root

__all__ = ["CRITERIA", "FIRST", "Design", "design_plan", "design_table", "limit", "optimal_levels"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

CRITERIA: Final = ("max", "rms")
FIRST: Final = ("free", "noisiest")
#: The number of variances at which the largest error is sought: a constant, and an addition for each call.
_POINTS = (60, 12)
#: With more calls than this, no levels are sought: Zolotarev's are as good as the ones a search finds.
_SOUGHT = 10


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
    """Return the best plan of N model calls for Gaussian data with this spectrum. No model is called.

    The arguments are those of :func:`design_table`, which describes the method, and ``start`` of :meth:`Table.plan`.

    Returns:
        A plan for ``pipeline.sample(plan=...)`` on a pipeline of this path. Its ``provenance`` holds the errors
        expected on such data, the least possible error, and the largest factor on errors of the predictions.

    Raises:
        ConfigurationError: an argument has a value that is not allowed.
    """
    made = design_table(
        spectrum, nfe, path, mean_safe=mean_safe, criterion=criterion, first=first, history=history, max_gain=max_gain
    )
    options = {"mean_safe": mean_safe, "criterion": criterion}
    return made.table.plan(start=start, sampler="designed", options=options, provenance=made.provenance)


@final
@dataclass(frozen=True)
class Design:
    """A table, and its expected errors on Gaussian data of the spectrum that it was made for.

    Attributes:
        table: the levels and rows.
        spectrum: of the data.
        rms: the root-mean-square error of samples, relative to the data's standard deviation.
        worst: the largest relative error of the standard deviation of a direction, over the directions that a query
            of the path can resolve.
        limit: the least ``worst`` of any table of as many calls (:func:`limit`).
    """

    table: Table
    spectrum: Spectrum
    rms: float
    worst: float
    limit: float

    @property
    def provenance(self) -> dict[str, Any]:
        """The numbers of the design as plain data."""
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
    """Return the best table of N model calls for Gaussian data with this spectrum.

    On such data every state is a multiple of x_T along each principal direction, and this multiple is linear in the
    coefficients of the row. So the rows follow one after the other by least squares: each row brings its state, and the
    last row the result, as near to the exact flow as possible. The levels remain. Zolotarev's (zolotarev.py) are the
    best ones for the worst relative error of any variance in an interval. With constraints or another criterion, a
    search starts from them (variable projection by Levenberg-Marquardt).

    Args:
        spectrum: a :class:`Spectrum`, or the eigenvalues of the data's covariance, shape (K,). The default is a power
            law like that of images with values in [−1, 1].
        nfe: N ≥ 1, the number of model calls; meant for up to 10.
        path: the noise schedule or its config. The default is the schedule of :class:`NoiseSchedulerConfig`.
        mean_safe: whether every row reproduces constant data, except the one that scales x_T to the first query's
            level. Without it the error on centred Gaussian data is smaller, but a mean, guidance and the model's own
            errors are multiplied. On digits such a design is worse than the best classic sampler.
        criterion: "max" or "rms". "max" is the worst relative error of the standard deviation of any direction. It
            weighs all variances alike that a query of the path can resolve; in the other directions, the rest of x_T
            counts as an error of the smallest resolved variance. "rms" is the error of samples, to which large
            variances contribute most.
        first: "free" or "noisiest". "free": the first query is at the level where it is most useful, and x_T is scaled
            to that level. "noisiest": the first query is at the path's noisiest level, and all rows reproduce constant
            data, which costs nearly one call.
        history: the number of earlier predictions that a step may read beside the newest one; None: all.
        max_gain: the upper bound of ``table.gain``, > 1, reached by a ridge penalty on the coefficients. The default is
            20, and 1,000 with ``mean_safe=False``. No table has a gain below 1.

    Raises:
        ConfigurationError: an argument has a value that is not allowed.
    """
    given, schedule, count = _spectrum(spectrum), _path(path), checked_count(nfe, "nfe")
    for name, value, allowed in (("criterion", criterion, CRITERIA), ("first", first, FIRST)):
        if value not in allowed:
            raise ConfigurationError(f"got {value!r}", where=name, suggestion=f"give one of {', '.join(allowed)}")
    bound = (20.0 if mean_safe else 1e3) if max_gain is None else max_gain
    if isinstance(bound, bool) or not 1.0 < bound < math.inf:
        raise ConfigurationError(f"got {max_gain!r}", where="max_gain", suggestion="give a number above 1")
    problem = GaussianProblem.of(given, schedule, criterion, mean_safe, history, points=_POINTS[0] + _POINTS[1] * count)
    span = LevelRange(schedule, first_fixed=first == "noisiest")
    low, high = resolved_interval(given, schedule)
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
    exact = GaussianProblem.of(given, schedule, "rms", mean_safe, history)
    errors = exact.errors(table)
    resolved = given.eigenvalues >= low * (1 - 1e-12)
    return Design(table, given, exact.rms(errors), float(np.abs(errors[resolved]).max()), limit(given, count, schedule))


def limit(
    spectrum: Spectrum | npt.ArrayLike | None, nfe: int, path: NoisePath | NoiseSchedulerConfig | None = None
) -> float:
    """Return the least worst-direction relative error of any N model calls on Gaussian data (zolotarev.py).

    The arguments are those of :func:`design_table`.

    Raises:
        ConfigurationError: an argument has a value that is not allowed.
    """
    given, schedule = _spectrum(spectrum), _path(path)
    noise = schedule.level(schedule.t_max).noise_to_signal
    low, high = (_mapped(variance, noise) for variance in resolved_interval(given, schedule))
    return best_root(low, high, checked_count(nfe, "nfe")).error


def optimal_levels(
    low: float, high: float, nfe: int, path: NoisePath | NoiseSchedulerConfig | None = None
) -> tuple[float, ...]:
    """Return the N falling noise levels σ/α of Zolotarev's problem. Some may lie outside the path.

    Args:
        low: the smallest variance, > 0.
        high: the largest variance, which may be infinite.
        nfe: N.
        path: the noise schedule or its config.
    """
    schedule = _path(path)
    noise = schedule.level(schedule.t_max).noise_to_signal
    roots = best_root(_mapped(low, noise), _mapped(high, noise), nfe).poles
    return tuple(math.sqrt(root / (1.0 + root / noise**2)) for root in roots[::-1])


def _mapped(variance: float, noise: float) -> float:
    """Return l/(1 + l/τ_T²): z of zolotarev.py times τ_T², which stays finite where the path starts without signal."""
    if variance == math.inf:
        return min(noise**2, 1e12)
    return variance / (1.0 + variance / noise**2)


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
