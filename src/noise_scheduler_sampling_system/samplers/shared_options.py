"""Options that several samplers declare, each with the range that they share."""

from __future__ import annotations

from ..config.options import Option

__all__ = ["ETA", "EXACT_OR_PUBLISHED", "LOWER_ORDER_FINAL", "MIDPOINT_OR_EXACT", "NOISE_FACTOR", "ORDER", "START"]

#: η, the amount of noise: 0 is the ODE, 1 is the reverse SDE or the posterior.
ETA = Option(0.0, minimum=0.0, maximum=100.0)
#: A factor of the noise: 1 in theory.
NOISE_FACTOR = Option(1.0, minimum=0.0, maximum=100.0)
#: The number of predictions that a multistep method uses.
ORDER = Option(2, minimum=1, maximum=10)
#: How a multistep method makes its first step.
START = Option("corrected", choices=("corrected", "plain"))
#: The weights of a method with two predictions.
MIDPOINT_OR_EXACT = Option("midpoint", choices=("midpoint", "exact"))
#: The weights of a method with three predictions.
EXACT_OR_PUBLISHED = Option("exact", choices=("exact", "as_published"))
#: Whether a multistep method lowers its order towards the end of the run.
LOWER_ORDER_FINAL = Option(False)
