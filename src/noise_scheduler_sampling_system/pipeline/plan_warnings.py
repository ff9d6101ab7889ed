"""Warnings about plans that multiply errors, or that change the spread of the data."""

from __future__ import annotations

import logging
import math

from ..plans.gaussian_moments import typical_spread
from ..plans.plan import SamplingPlan
from ..samplers.base import BaseSampler
from ..support.errors import NoiseSamplingError

__all__ = ["warn_of_amplification", "warn_of_spread"]

logger = logging.getLogger(__name__)

#: Spreads between these need no warning (docs/samplers.md lists the spreads of all samplers).
_LEAST_SPREAD, _LARGEST_SPREAD = 0.55, 1.15
#: Plans of fewer steps need no warning about their spread.
_ENOUGH_STEPS = 10
#: The spacings that are compared.
_OTHER_SPACINGS = ("leading", "beta57", "kl_optimal", "karras", "log_snr")
#: Ordinary plans stay below this; second-order ones from the top of the cosine schedule reach 60 to 1,600.
_AMPLIFICATION = 50.0


def warn_of_amplification(plan: SamplingPlan) -> None:
    """Log a warning where a plan multiplies errors of the predictions by more than ``_AMPLIFICATION``.

    The result of an inverse run is noise, of which the factor says nothing.
    """
    inverse = plan.sigma[-1] * plan.alpha[0] > plan.sigma[0] * plan.alpha[-1]
    if plan.amplification > _AMPLIFICATION and not inverse:
        logger.warning(
            "%s in %d steps multiplies errors of the predicted clean sample by up to %.0f (plan.amplification): its "
            "first interval spans too much noise; take more steps, the 'leading' spacing, or a first-order sampler",
            plan.sampler, plan.steps, plan.amplification,
        )  # fmt: skip


def warn_of_spread(plan: SamplingPlan, sampler: BaseSampler) -> None:
    """Log a warning where a plan widens or narrows typical data and another spacing does so less."""
    if plan.steps < _ENOUGH_STEPS or _LEAST_SPREAD <= (spread := typical_spread(plan)) <= _LARGEST_SPREAD:
        return
    others = {name: _spread_on(sampler, name, plan.steps) for name in _OTHER_SPACINGS if name != sampler.run_spacing}
    better = min(others, key=lambda name: _off(others[name]))
    if _off(others[better]) > 0.7 * _off(spread):
        return  # the sampler does so on every spacing
    logger.warning(
        "%s on %r in %d steps returns data of standard deviation 0.3 with %.2f of it (plan.gaussian_moments); "
        "timestep_spacing=%r returns it with %.2f",
        plan.sampler, sampler.run_spacing, plan.steps, spread, better, others[better],
    )  # fmt: skip


def _off(spread: float) -> float:
    """The distance of a spread from 1, on a logarithmic scale."""
    return abs(math.log(spread)) if 0.0 < spread < math.inf else math.inf


def _spread_on(sampler: BaseSampler, spacing: str, steps: int) -> float:
    try:
        return typical_spread(sampler.on(sampler.scheduler.spaced(spacing)).plan(steps))
    except NoiseSamplingError:  # the sampler has no plan on this spacing
        return 0.0
