"""Formulas that several samplers share: the way along the ODE, and the noise of a stochastic step."""

from __future__ import annotations

import math

from ..plans.builder import Form, Prediction
from ..schedules.path import Level
from ..support.errors import ConfigurationError

__all__ = ["along", "ancestral", "first_order", "from_noise", "is_noise", "posterior_std", "straight_distance"]

#: Of x's variance less than a millionth is signal above this σ/α: what a model says there is the mean of its data.
_NEXT_TO_NO_SIGNAL = 1e3
#: A combination of two ε multiplies errors of the second by half of this, where a step shrinks σ/α so much.
_LONG = 50.0


def is_noise(level: Level) -> bool:
    """Whether a level has no signal, or next to none."""
    return level.noise_to_signal > _NEXT_TO_NO_SIGNAL


def from_noise(now: Level, after: Level) -> bool:
    """Whether a step begins at pure noise, or next to it, and goes far from it.

    The predicted x₀ hardly depends on x there, so that DDIM's step, which holds x₀, is right. ε is x/σ,
    whatever the model knows, and a combination of it with a later ε is multiplied by α'/α.
    """
    return now.alpha == 0.0 or (is_noise(now) and now.noise_to_signal > _LONG * after.noise_to_signal)


def along(x: Form, epsilon: Form, now: Level, after: Level) -> Form:
    """Move x along the ODE dx̄/dσ̄ = ε with constant ε: x' = (α'/α)·(x − σ·ε) + σ'·ε.

    Raises:
        ConfigurationError: the step starts at zero signal, where only the model's own ε
            has a clean sample.
    """
    if now.alpha == 0.0:
        raise ConfigurationError(
            "the schedule starts at zero signal, where this sampler's combination of several ε is not defined",
            where="beta_schedule",
            suggestion="use 'heun' or any first-order sampler, or start the timesteps at a level with signal",
        )
    return (after.alpha / now.alpha) * (x - now.sigma * epsilon) + after.sigma * epsilon


def first_order(p: Prediction, to: Level) -> Form:
    """The first-order step (DDIM's): x' = α'·x₀ + σ'·ε with the prediction's x₀ and ε."""
    return to.alpha * p.sample + to.sigma * p.epsilon


def posterior_std(now: Level, after: Level) -> float:
    """Standard deviation of q(x'|x, x₀): the noise of a step with η = 1.

    Raises:
        ConfigurationError: the noise level rises (an inversion), where there is no posterior.
    """
    if after.noise_to_signal >= now.noise_to_signal:
        raise ConfigurationError(
            "a stochastic step cannot raise the noise level", where="timesteps", suggestion="use 'ddim' with eta=0"
        )
    ratio = now.alpha * after.sigma / (after.alpha * now.sigma)  # (σ'/α')/(σ/α)
    return after.sigma * math.sqrt((1.0 - ratio) * (1.0 + ratio))


def ancestral(now: Level, after: Level, eta: float) -> tuple[Level, float]:
    """Where a step with η of the posterior's noise goes before it is added, and its standard deviation there.

    The level has less noise than ``after`` and is not on the path; no more than σ' is ever added.
    """
    noise = min(after.sigma, eta * posterior_std(now, after)) if eta else 0.0
    return Level(after.t, after.alpha, math.sqrt(after.sigma**2 - noise**2)), noise


def straight_distance(now: Level, after: Level) -> float:
    """By how much σ/(α + σ) changes from one level to another; near pure noise, too, where both are 1 but for α."""
    scale = (now.alpha + now.sigma) * (after.alpha + after.sigma)
    return (after.sigma * now.alpha - now.sigma * after.alpha) / scale
