"""A noise level of a path."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, final

__all__ = ["CLEAN", "Level"]


@final
class Level(NamedTuple):
    """A noise level: x = α·x₀ + σ·ε, and the time t that tells the model so."""

    t: float
    alpha: float
    sigma: float

    @property
    def noise_to_signal(self) -> float:
        """σ/α, the σ of Karras et al. 2022; inf where α = 0."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def half_log_snr(self) -> float:
        """λ = log(α/σ), the variable of the DPM-Solver papers; ±inf at the ends of a path."""
        if self.sigma == 0.0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0.0 else -math.inf

    @staticmethod
    def of(t: float, alpha: float, sigma: float) -> Level:
        """The level with these numbers; for the clean sample it is :data:`CLEAN`, which code compares by identity."""
        return CLEAN if math.isnan(t) and alpha == 1.0 and sigma == 0.0 else Level(t, alpha, sigma)

    def __reduce__(self) -> tuple[Any, ...]:
        return Level.of, tuple(self)


#: The end of every run to a clean sample. No model is evaluated there, so it has no time.
CLEAN = Level(t=float("nan"), alpha=1.0, sigma=0.0)
