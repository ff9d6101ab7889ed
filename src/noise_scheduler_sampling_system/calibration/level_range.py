"""Query levels as free numbers: the range in which a model may be evaluated, and levels that fall inside it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from ..schedules.path import Level, NoisePath
from ..support.errors import ConfigurationError

__all__ = ["LevelRange"]

Array = npt.NDArray[np.float64]

#: A query above this σ/α tells nothing about data of unit size. A path that starts without signal has no other limit.
_NOISIEST = 1e3
#: The least gap between two queries, as a share of the range of log(σ/α), so that gaps have a logarithm.
_LEAST_GAP = 1e-6


@final
@dataclass(frozen=True)
class LevelRange:
    """The levels of a path at which the model may be evaluated, and query levels as free numbers.

    Any vector of real numbers stands for strictly falling levels inside the trained range. N queries leave N + 1 gaps
    of log(σ/α): from the noisiest level to the first query, between queries, and from the last query to the cleanest
    level. With z = (vector, 0), gap_j/Σ gap = exp(z_j)/Σ exp(z).

    Attributes:
        path: the noise schedule.
        first_fixed: whether the first query stays at the path's noisiest level and has no number.
    """

    path: NoisePath
    first_fixed: bool = False

    @functools.cached_property
    def ends(self) -> tuple[float, float]:
        """log(σ/α) of the noisiest and of the cleanest level of the range."""
        low, high = (level.noise_to_signal for level in self.path.levels([self.path.t_min, self.path.t_max]))
        return math.log(min(high, max(_NOISIEST, 10.0 * low))), math.log(low)

    def level(self, log_noise: float) -> Level:
        """Return the path's level with this log(σ/α), or the nearest level of the range."""
        top, bottom = self.ends
        inside = min(max(log_noise, bottom), top)
        if inside == bottom:
            return self.path.level(self.path.t_min)
        if inside == top and math.exp(top) < _NOISIEST:
            return self.path.level(self.path.t_max)
        return self.path.level_at(-2.0 * inside)

    def levels(self, vector: Array) -> tuple[Level, ...]:
        """Return the N levels of a vector of shape (N,), or (N − 1,) with the first level fixed."""
        top, bottom = self.ends
        z = np.append(np.asarray(vector, dtype=np.float64), 0.0)
        gaps = np.exp(z - z.max())
        places = top + (bottom - top) * np.cumsum(gaps / gaps.sum())[:-1]
        inner = tuple(self.level(float(place)) for place in places)
        return (self.path.level(self.path.t_max), *inner) if self.first_fixed else inner

    def vector(self, levels: Sequence[Level]) -> Array:
        """Return the vector of these N levels, shape (N,), or (N − 1,) with the first level fixed.

        Levels that coincide or lie at the range's ends have no vector; the result is then that of levels very near.

        Raises:
            ConfigurationError: the levels rise.
        """
        top, bottom = self.ends
        places = [math.log(level.noise_to_signal) for level in levels[self.first_fixed :]]
        gaps = -np.diff([top, *np.clip(places, bottom, top), bottom])
        if gaps.min() < 0.0:
            raise ConfigurationError(
                "the query levels rise",
                where="levels",
                why="free levels are numbered from the noisiest to the cleanest",
                suggestion="start from a sampler with one query a step, e.g. 'dpmpp_2m', 'ipndm' or 'unipc'",
            )
        shares = np.log(np.maximum(gaps / (top - bottom), _LEAST_GAP))
        vector: Array = shares[:-1] - shares[-1]
        return vector
