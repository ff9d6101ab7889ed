"""Scales of guidance: numbers, ramps over the steps, and functions of where the run is."""

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
    """Where a run stands when the model is asked.

    Attributes:
        level: the noise level (t, α, σ).
        step: the interval of the grid, from 0.
        steps: how many there are.
    """

    level: Level
    step: int
    steps: int

    @property
    def sigma(self) -> float:
        """σ/α, the noise level of Karras et al. 2022, on every path; inf without signal."""
        return self.level.noise_to_signal

    @property
    def flow_sigma(self) -> float:
        """σ/(α + σ), the σ of the straight path at the same signal-to-noise ratio; from 0 to 1."""
        return self.level.sigma / (self.level.alpha + self.level.sigma)

    @property
    def fraction(self) -> float:
        """How far along the steps: 0 in the first, 1 in the last."""
        return self.step / (self.steps - 1) if self.steps > 1 else 0.0


#: A number; a function of the moment; or ("linear" | "cosine", start, end) over the fraction of steps.
Scale = float | Callable[[Moment], float] | tuple[str, float, float]

_RAMPS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda fraction: fraction,
    "cosine": lambda fraction: 0.5 - 0.5 * math.cos(math.pi * fraction),
}


def checked_scale(scale: Any, where: str) -> Scale:
    """A scale, as far as it can be checked without a run.

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
        ConfigurationError: a function that returns no finite number there.
    """
    if isinstance(scale, tuple):
        ramp, start, end = scale
        return start + (end - start) * _RAMPS[ramp](moment.fraction)
    return checked_number(scale(moment), f"{where} at step {moment.step}") if callable(scale) else scale
