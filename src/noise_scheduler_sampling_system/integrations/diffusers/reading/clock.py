"""What a network is told in place of the path's time."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["Clock", "network_time"]

#: "log" is ¼·ln(σ/α) (Karras et al. 2022, arXiv 2206.00364), "atan" is (2/π)·arctan(σ/α).
Clock = Literal["log", "atan"]


def network_time(clock: Clock, noise_to_signal: float) -> float:
    """What a network with this clock is told at a level with this σ/α."""
    return 0.25 * math.log(noise_to_signal) if clock == "log" else 2.0 / math.pi * math.atan(noise_to_signal)
