"""Options that several samplers have, with the ranges that they share."""

from __future__ import annotations

from ..config.options import Option

__all__ = ["ETA", "NOISE_FACTOR", "ORDER", "START"]

#: η, the noise: 0 is the ODE, 1 the reverse SDE or the posterior's.
ETA = Option(0.0, minimum=0.0, maximum=100.0)
#: A factor of the noise: 1 in theory.
NOISE_FACTOR = Option(1.0, minimum=0.0, maximum=100.0)
#: The number of predictions that a multistep method uses.
ORDER = Option(2, minimum=1, maximum=10)
#: How the first step of a multistep method is made.
START = Option("corrected", choices=("corrected", "plain"))
