"""Scales of guidance: numbers, ramps over the steps, and functions of the moment of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from ..schedules.path import Level
from ..support.argument_checks import checked_number
from ..support.errors import ConfigurationError

__all__ = ["Moment", "Scale", "checked_scale", "scale_at"]


@final
@dataclass(frozen=True)
class Moment:
    """The moment of a run at which the model is evaluated.

    Attributes:
        level: the noise level (t, α, σ).
        step: the index of the grid's interval, from 0.
        steps: N, the number of intervals.
    """

    level: Level
    step: int
    steps: int

    @property
    def sigma(self) -> float:
        """σ/α, the noise level of Karras et al. 2022, on every path; infinite without signal."""
        return self.level.noise_to_signal

    @property
    def flow_sigma(self) -> float:
        """σ/(α + σ), the σ of the straight path at the same signal-to-noise ratio; from 0 to 1."""
        return self.level.sigma / (self.level.alpha + self.level.sigma)

    @property
    def fraction(self) -> float:
        """step/(N − 1): 0 in the first step, 1 in the last."""
        return self.step / (self.steps - 1) if self.steps > 1 else 0.0


#: A number; a function of the moment; or a ramp over the fraction of the steps: ("linear", "cosine" or "exponential",
#: start, end).
Scale = float | Callable[[Moment], float] | tuple[str, float, float]

_RAMPS: Mapping[str, Callable[[float, float, float], float]] = {
    "linear": lambda start, end, fraction: start + (end - start) * fraction,
    "cosine": lambda start, end, fraction: start + (end - start) * (0.5 - 0.5 * math.cos(math.pi * fraction)),
    # the control function of C²FG (Gao et al. 2026, arXiv 2603.08155): exponential in time
    "exponential": lambda start, end, fraction: start * (end / start) ** fraction,
}


def checked_scale(scale: Any, where: str) -> Scale:
    """Check a scale; the values of a function are checked in :func:`scale_at`.

    Raises:
        ConfigurationError: none of the three kinds.
    """
    if callable(scale):
        return scale  # type: ignore[no-any-return]
    if isinstance(scale, tuple | list):
        if len(scale) != 3 or scale[0] not in _RAMPS:
            raise ConfigurationError(
                f"got {scale!r}",
                where=where,
                suggestion='give ("linear", "cosine" or "exponential", start, end), e.g. ("linear", 1, 7)',
            )
        start, end = (checked_number(value, where) for value in scale[1:])
        if scale[0] == "exponential" and not (start > 0.0 and end > 0.0):
            raise ConfigurationError(
                f"got {scale!r}", where=where, suggestion="give two numbers > 0 for an exponential ramp"
            )
        return (scale[0], start, end)
    return checked_number(scale, where)


def scale_at(scale: Scale, moment: Moment, where: str) -> float:
    """The scale at a moment.

    Raises:
        ConfigurationError: a function returned something else than a finite number.
    """
    if isinstance(scale, tuple):
        ramp, start, end = scale
        return _RAMPS[ramp](start, end, moment.fraction)
    return checked_number(scale(moment), f"{where} at step {moment.step}") if callable(scale) else scale
