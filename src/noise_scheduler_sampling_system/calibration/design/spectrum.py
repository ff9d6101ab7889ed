"""The variance of data along each direction: all that a design without model calls knows of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ...support.errors import ConfigurationError
from ...support.values import ByValue

__all__ = ["Spectrum"]

Array = npt.NDArray[np.float64]

#: Number of logarithmic bins in which near-equal eigenvalues are counted together.
_BINS = 256
#: The largest number of samples that a spectrum is computed from. It gives the eigenvalues to a few per cent.
_SAMPLES = 4096


@final
@dataclass(frozen=True, eq=False)
class Spectrum(ByValue):
    """The eigenvalues of the covariance of clean data, as the model sees it.

    Attributes:
        eigenvalues: the variances along the principal directions, ≥ 0, shape (K,).
        counts: the number of directions with each of these variances, ≥ 0, shape (K,). The default is 1 each.

    Raises:
        ConfigurationError: the eigenvalues are missing, negative, not finite or all zero, or the shapes differ.
    """

    eigenvalues: Array
    counts: Array = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        values = _checked_variances(self.eigenvalues, "spectrum")
        counts = np.ones_like(values) if self.counts is None else _checked_variances(self.counts, "spectrum.counts")
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
        """The smallest eigenvalue above 0."""
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
            data: clean samples as the model sees them, a tensor or an array of shape (n, ...), n ≥ 2. Of more than
                4,096 samples, 4,096 evenly spaced ones are used. If there are fewer samples than dimensions, the
                directions outside their span get variance 0.

        Raises:
            ConfigurationError: there are fewer than two samples, a value is not finite, or all samples are equal.
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
        """Return the eigenvalues max(high·k^(−exponent), low) for k = 1 … size.

        The defaults resemble 3×32×32 images with values in [−1, 1].

        Args:
            size: the number of eigenvalues, ≥ 1.
            exponent: of the power law, finite.
            low: the smallest eigenvalue, ≥ 0.
            high: the largest eigenvalue, ≥ ``low``.

        Raises:
            ConfigurationError: an argument is outside its range.
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
        """Merge near-equal eigenvalues: at most 257 are left, and the total variance does not change."""
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


def _checked_variances(values: Any, where: str) -> Array:
    """Return the values as a float64 array of shape (K,), or raise ConfigurationError."""
    try:
        array = np.array(values.tolist() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all() or (array < 0.0).any():
        raise ConfigurationError(
            f"got {values!r}"[:200], where=where, suggestion="give one or more finite numbers ≥ 0: shape (K,)"
        )
    return array
