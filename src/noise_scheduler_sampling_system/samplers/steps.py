"""Formulas that several samplers share: first-order steps, and the noise of a stochastic step."""

from __future__ import annotations

import math

from ..plans.builder import Prediction
from ..plans.linear_form import Form
from ..schedules.path import Level
from ..support.errors import ConfigurationError

__all__ = [
    "along", "ancestral", "first_order", "from_noise", "is_noise", "posterior_std", "renoised", "straight_distance",
]  # fmt: skip

#: Above this σ/α less than a millionth of x's variance is signal, and a model predicts the mean of its data.
_NEXT_TO_NO_SIGNAL = 1e3
#: A step that divides σ/α by this multiplies errors of a second ε by half of it.
_LONG = 50.0


def is_noise(level: Level) -> bool:
    """Whether a level has (nearly) no signal."""
    return level.noise_to_signal > _NEXT_TO_NO_SIGNAL


def from_noise(now: Level, after: Level) -> bool:
    """Whether a step begins at (nearly) pure noise and goes far from it.

    The predicted x₀ hardly depends on x there, so DDIM's step, which keeps x₀ constant, is right. ε is nearly x/σ
    for every model, and its combination with a later ε is multiplied by α'/α.
    """
    return now.alpha == 0.0 or (is_noise(now) and now.noise_to_signal > _LONG * after.noise_to_signal)


def along(x: Form, epsilon: Form, now: Level, after: Level) -> Form:
    """Move x along the ODE dx̄/dσ̄ = ε with constant ε: x' = (α'/α)·(x − σ·ε) + σ'·ε.

    Raises:
        ConfigurationError: the step starts at zero signal, where ε does not determine the clean sample.
    """
    if now.alpha == 0.0:
        raise ConfigurationError(
            "the schedule starts at zero signal, where this sampler's combination of several ε is not defined",
            where="beta_schedule",
            suggestion="use 'heun' or any first-order sampler, or start the timesteps at a level with signal",
        )
    return (after.alpha / now.alpha) * (x - now.sigma * epsilon) + after.sigma * epsilon


def first_order(p: Prediction, to: Level) -> Form:
    """The first-order step, DDIM's: x' = α'·x₀ + σ'·ε with the predicted x₀ and ε."""
    return to.alpha * p.sample + to.sigma * p.epsilon


def posterior_std(now: Level, after: Level) -> float:
    """The standard deviation of the posterior q(x'|x, x₀), which is the noise of a step with η = 1.

    Raises:
        ConfigurationError: the noise level rises (an inversion), so that the posterior does not exist.
    """
    if after.noise_to_signal >= now.noise_to_signal:
        raise ConfigurationError(
            "a stochastic step cannot raise the noise level", where="timesteps", suggestion="use 'ddim' with eta=0"
        )
    ratio = now.alpha * after.sigma / (after.alpha * now.sigma)  # (σ'/α')/(σ/α)
    return after.sigma * math.sqrt((1.0 - ratio) * (1.0 + ratio))


def ancestral(now: Level, after: Level, eta: float) -> tuple[Level, float]:
    """The level that a step with noise goes to before the noise is added, and the noise's standard deviation.

    The noise is η times the posterior's, at most σ'. The level has α' and less noise than ``after``, so it is not on
    the path.
    """
    noise = min(after.sigma, eta * posterior_std(now, after)) if eta else 0.0
    return Level(after.t, after.alpha, math.sqrt(after.sigma**2 - noise**2)), noise


def renoised(x: Form, noise: Form, now: Level, to: Level, factor: float = 1.0) -> Form:
    """The state at a noisier level: x, scaled, with unit noise times a factor added."""
    scale = to.alpha / now.alpha
    return scale * x + factor * math.sqrt(to.sigma**2 - (scale * now.sigma) ** 2) * noise


def straight_distance(now: Level, after: Level) -> float:
    """The change of σ/(α + σ) from one level to another, exact near pure noise, where both values are close to 1."""
    scale = (now.alpha + now.sigma) * (after.alpha + after.sigma)
    return (after.sigma * now.alpha - now.sigma * after.alpha) / scale
