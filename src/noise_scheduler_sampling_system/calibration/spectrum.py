"""How the variance of data is spread over directions: what a sampler designed without model calls has to know."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..support.errors import ConfigurationError
from ..support.values import ByValue

__all__ = ["Spectrum"]

Array = npt.NDArray[np.float64]

#: Near-equal eigenvalues are counted together in so many bins.
_BINS = 256
#: The samples are reduced to so many at most: eigenvalues are known to a few percent then.
_SAMPLES = 4096


@final
@dataclass(frozen=True, eq=False)
class Spectrum(ByValue):
    """The eigenvalues of the covariance of clean data, as the model sees it.

    Attributes:
        eigenvalues: variances along the principal directions, ≥ 0, shape (K,).
        counts: how many directions have each of them, shape (K,); default one.

    Raises:
        ConfigurationError: no eigenvalues, negative ones, ones that are not finite, all zero, or shapes that differ.
    """

    eigenvalues: Array
    counts: Array = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        values = _numbers(self.eigenvalues, "spectrum")
        counts = np.ones_like(values) if self.counts is None else _numbers(self.counts, "spectrum.counts")
        if values.shape != counts.shape or not (values * counts).any():
            raise ConfigurationError(
                f"{values.size} eigenvalues up to {values.max():g} and {counts.size} counts",
                where="spectrum",
                suggestion="give the variances of the data along its principal directions, some of them above 0",
            )
        for name, value in (("eigenvalues", values[counts > 0.0]), ("counts", counts[counts > 0.0])):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    @property
    def low(self) -> float:
        """The least eigenvalue above 0."""
        return float(self.eigenvalues[self.eigenvalues > 0.0].min())

    @property
    def high(self) -> float:
        """The largest eigenvalue."""
        return float(self.eigenvalues.max())

    @property
    def directions(self) -> float:
        """The number of directions."""
        return float(np.sum(self.counts))

    @property
    def power(self) -> float:
        """The total variance, Σ eigenvalues."""
        return float(np.sum(self.counts * self.eigenvalues))

    @classmethod
    def of(cls, data: Any) -> Spectrum:
        """The spectrum of samples: their principal components.

        Args:
            data: (n, ...) clean samples, n ≥ 2, as the model sees them; a tensor or an array. Of more than 4,096, as
                many are taken, evenly spaced. Directions that fewer samples than dimensions leave open count as 0.

        Raises:
            ConfigurationError: fewer than two samples, values that are not finite, or samples that are all the same.
        """
        array = np.asarray(data.detach().cpu().double() if isinstance(data, Tensor) else data, dtype=np.float64)
        if array.ndim < 2 or len(array) < 2 or array[0].size == 0 or not np.isfinite(array).all():
            raise ConfigurationError(
                f"got samples of shape {array.shape}" + ("" if np.isfinite(array).all() else ", not all finite"),
                where="data",
                suggestion="give at least two finite samples: shape (n, ...)",
            )
        if len(array) > _SAMPLES:
            array = array[np.linspace(0, len(array) - 1, _SAMPLES).astype(int)]
        rows = array.reshape(len(array), -1)
        rows = (rows - rows.mean(axis=0)) / math.sqrt(len(rows) - 1)
        values = np.linalg.svd(rows, compute_uv=False) ** 2
        values = np.where(values > 1e-12 * values.max(), values, 0.0)
        counts = np.ones_like(values)
        if rows.shape[1] > len(values):
            values, counts = np.append(values, 0.0), np.append(counts, rows.shape[1] - len(values))
        return cls(values.astype(np.float64), counts.astype(np.float64))

    @classmethod
    def power_law(cls, size: int = 3072, exponent: float = 1.52, low: float = 1e-3, high: float = 200.0) -> Spectrum:
        """Eigenvalues high·k^(−exponent), k = 1 … size, none below ``low``; the defaults are like 3×32×32 images.

        Raises:
            ConfigurationError: numbers that make no spectrum.
        """
        if not size >= 1 or not 0.0 <= low <= high < math.inf or not math.isfinite(exponent):
            raise ConfigurationError(
                f"got size={size}, exponent={exponent}, low={low}, high={high}",
                where="power_law",
                suggestion="give size ≥ 1 and 0 ≤ low ≤ high",
            )
        places = np.arange(1, int(size) + 1).astype(np.float64)
        return cls(np.clip(high * places**-exponent, low, high).astype(np.float64))

    def compressed(self) -> Spectrum:
        """The same with near-equal eigenvalues counted together: at most 257, and the total variance unchanged."""
        values, counts = self.eigenvalues, self.counts
        if len(values) <= _BINS:
            return self
        floor = max(self.low, 1e-12 * self.high)
        place = np.log(np.maximum(values, floor) / floor) / max(math.log(self.high / floor), 1e-12)
        bins = np.where(values > 0.0, 1 + np.minimum((place * _BINS).astype(int), _BINS - 1), 0)
        number = np.bincount(bins, weights=counts, minlength=1 + _BINS)
        total = np.bincount(bins, weights=counts * values, minlength=1 + _BINS)
        kept = number > 0.0
        return Spectrum((total[kept] / number[kept]).astype(np.float64), number[kept].astype(np.float64))


def _numbers(values: Any, where: str) -> Array:
    try:
        array = np.array(values.tolist() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all() or (array < 0.0).any():
        raise ConfigurationError(
            f"got {values!r}"[:200], where=where, suggestion="give one or more finite numbers ≥ 0: shape (K,)"
        )
    return array
