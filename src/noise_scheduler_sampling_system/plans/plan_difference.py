"""The differences between two plans as a value that says them in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, final

__all__ = ["PlanDifference"]

#: Coefficients are the same below this fraction of a state's largest.
_SAME_NUMBER: Final = 1e-9


@final
@dataclass(frozen=True, eq=False)
class PlanDifference:
    """The differences between two plans, a and b.

    Attributes:
        counts: (name, of a, of b) of each count that differs: model calls, steps, rows, history.
        settings: (name, of a, of b) of each field that differs: sampler, options, space, order, and of guidance that a
            plan holds its scale and the calls that evaluate both branches.
        levels: the rows whose level differs, of the rows that both have; in plans for networks of two times also
            those whose second level does.
        log_snr: the largest difference of log SNR over rows that both have, infinite where one has no signal or noise.
        coefficients: the largest difference of a coefficient of the canonical form, as a fraction of its state's
            largest coefficient; NaN where the plans have other numbers of rows, combine another quantity, or are for
            networks of another number of times.
        noise: the standard deviation of the noise that a row adds, as a fraction of σ of the next level, root mean
            square over rows: of a and of b.
        moments: (standard deviation of the data, of a's result, of b's) for Gaussian data and the exact model.
    """

    counts: tuple[tuple[str, int, int], ...]
    settings: tuple[tuple[str, Any, Any], ...]
    levels: tuple[int, ...]
    log_snr: float
    coefficients: float
    noise: tuple[float, float]
    moments: tuple[tuple[float, float, float], ...]

    @property
    def same_numbers(self) -> bool:
        """Whether both compute the same result from the same noise and model, up to rounding."""
        return not self.levels and self.coefficients <= _SAME_NUMBER

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.counts or self.settings) or not self.same_numbers

    def __str__(self) -> str:
        if not self:
            return "the plans are the same"
        lines = [f"{name}: {one} and {other}" for name, one, other in (*self.counts, *self.settings)]
        if self.same_numbers:
            return "\n".join([*lines, "both compute the same result from the same noise and model"])
        if self.levels:
            shown = ", ".join(map(str, self.levels[:8])) + (", ..." if len(self.levels) > 8 else "")
            lines.append(f"levels differ in {len(self.levels)} rows ({shown}), by up to {self.log_snr:.3g} in log SNR")
        elif not any(name == "rows" for name, _, _ in self.counts):
            lines.append("both evaluate the model at the same levels")
        if math.isfinite(self.coefficients):
            lines.append(f"coefficients differ by up to {self.coefficients:.3g} of the largest")
        if any(self.noise):
            lines.append(f"noise added by a row, over σ: {self.noise[0]:.3g} and {self.noise[1]:.3g}")
        lines += [
            f"Gaussian data of standard deviation {std:g} come out with {one:.3g} and {other:.3g}"
            for std, one, other in self.moments
        ]
        return "\n".join(lines)
