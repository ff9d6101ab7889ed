"""What the pipelines of a scheduler class expect of it, beside the states of a plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

from ....config.prediction import Preconditioning

__all__ = ["Clock", "PipelineTerms", "UnusedNoise"]

#: "log" is ¼·ln(σ/α) (Karras et al. 2022, arXiv 2206.00364), "log_1000" is 1000 times that (Song et al. 2023, arXiv
#: 2303.01469), "atan" is (2/π)·arctan(σ/α), "signal" is α/(α + σ): 0 at pure noise and 1 at the clean sample.
Clock = Literal["log", "log_1000", "atan", "signal"]
#: "silent": the class draws noise in steps that add none; "silent, not alone": unless the run has one step; "silent,
#: twice": and in every step but the first and the last it draws one more noise, before its own.
UnusedNoise = Literal["silent", "silent, not alone", "silent, twice"]

_TIMES: Final[Mapping[Clock, Callable[[float, float], float]]] = {
    "log": lambda alpha, sigma: 0.25 * math.log(sigma / alpha),
    "log_1000": lambda alpha, sigma: 250.0 * math.log(sigma / alpha),
    "atan": lambda alpha, sigma: 2.0 / math.pi * math.atan(sigma / alpha),
    "signal": lambda alpha, sigma: alpha / (alpha + sigma),
}
_RATIOS: Final[Mapping[Clock, Callable[[float], float]]] = {
    "log": lambda time: math.exp(4.0 * time),
    "log_1000": lambda time: math.exp(time / 250.0),
    "atan": lambda time: math.tan(time * math.pi / 2.0),
    "signal": lambda time: (1.0 - time) / time if time > 0.0 else math.inf,
}


@final
@dataclass(frozen=True)
class PipelineTerms:
    """What a scheduler of diffusers does between its pipeline and the quantities of a plan.

    Attributes:
        clock: what the network is told; None: the path's time.
        clock_scale: the factor of that time.
        preconditioning: the conversion of EDM's networks and of consistency models.
        sign: the factor of the network's output; −1 for networks that predict x₀ − ε.
        state_scale: the factor between the pipeline's state and the path's, for networks whose data are not of unit
            variance (sCM).
        lists_end: whether the list of timesteps has the time 0 of the end, where the network is not called.
        unused_noise: which noise the class draws and does not use, so that later draws are the same.
    """

    clock: Clock | None = None
    clock_scale: float = 1.0
    preconditioning: Preconditioning | None = None
    sign: float = 1.0
    state_scale: float = 1.0
    lists_end: bool = False
    unused_noise: UnusedNoise | None = None

    @property
    def converts(self) -> bool:
        """Whether the scheduler converts what the network sees or returns."""
        return (self.clock, self.preconditioning, self.sign, self.state_scale) != (None, None, 1.0, 1.0)

    def time(self, alpha: float, sigma: float, path_time: float) -> float:
        """What the network is told at a level.

        Args:
            alpha, sigma: the level.
            path_time: its time on the path.
        """
        if self.clock is None or (alpha == 0.0 and self.clock != "signal"):
            return path_time
        return self.clock_scale * _TIMES[self.clock](alpha, sigma)

    def noise_to_signal(self, time: float) -> float | None:
        """σ/α at a time that the network is told; None: without a clock, the path knows."""
        return None if self.clock is None else _RATIOS[self.clock](time / self.clock_scale)
