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


#: A number; a function of the moment; or ("linear" or "cosine", start, end) over the fraction of the steps.
Scale = float | Callable[[Moment], float] | tuple[str, float, float]

_RAMPS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda fraction: fraction,
    "cosine": lambda fraction: 0.5 - 0.5 * math.cos(math.pi * fraction),
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
                suggestion='give ("linear" or "cosine", start, end), e.g. ("linear", 1, 7)',
            )
        return (scale[0], checked_number(scale[1], where), checked_number(scale[2], where))
    return checked_number(scale, where)


def scale_at(scale: Scale, moment: Moment, where: str) -> float:
    """The scale at a moment.

    Raises:
        ConfigurationError: a function returned something else than a finite number.
    """
    if isinstance(scale, tuple):
        ramp, start, end = scale
        return start + (end - start) * _RAMPS[ramp](moment.fraction)
    return checked_number(scale(moment), f"{where} at step {moment.step}") if callable(scale) else scale
