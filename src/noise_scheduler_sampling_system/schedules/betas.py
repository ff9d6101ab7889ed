"""The built-in beta schedules; u = i/(T−1) runs from 0 at the cleanest level to 1 at the noisiest."""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

from ..config import SCHEDULES, BetaSchedule
from .base import BaseNoiseScheduler

__all__ = [
    "CosineNoiseScheduler",
    "CustomNoiseScheduler",
    "ExponentialNoiseScheduler",
    "LinearNoiseScheduler",
    "QuadraticNoiseScheduler",
    "SigmoidNoiseScheduler",
]

Array = npt.NDArray[np.float64]


@final
@SCHEDULES.register(BetaSchedule.LINEAR)
class LinearNoiseScheduler(BaseNoiseScheduler):
    """β = β_start + (β_end − β_start)·u (Ho et al. 2020, arXiv 2006.11239, §4)."""

    def _get_beta_schedule(self) -> Array:
        return np.linspace(self.config.beta_start, self.config.beta_end, self.num_train_timesteps)


@final
@SCHEDULES.register(BetaSchedule.COSINE)
class CosineNoiseScheduler(BaseNoiseScheduler):
    """ᾱ = cos²((t/T + 0.008)/1.008·π/2), β capped at 0.999 (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17).

    Defined by ᾱ, so ``beta_start`` and ``beta_end`` play no part.
    """

    def _get_beta_schedule(self) -> Array:
        t = np.arange(self.num_train_timesteps + 1) / self.num_train_timesteps
        alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        betas: Array = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
        return betas


@final
@SCHEDULES.register(BetaSchedule.QUADRATIC)
class QuadraticNoiseScheduler(BaseNoiseScheduler):
    """β = β_start + (β_end − β_start)·u²."""

    def _get_beta_schedule(self) -> Array:
        start, end = self.config.beta_start, self.config.beta_end
        return start + (end - start) * self.grid_fractions**2


@final
@SCHEDULES.register(BetaSchedule.SIGMOID)
class SigmoidNoiseScheduler(BaseNoiseScheduler):
    """β = β_start + (β_end − β_start)·sigmoid(12u − 6)."""

    def _get_beta_schedule(self) -> Array:
        start, end = self.config.beta_start, self.config.beta_end
        betas: Array = start + (end - start) / (1 + np.exp(6 - 12 * self.grid_fractions))
        return betas


@final
@SCHEDULES.register(BetaSchedule.EXPONENTIAL)
class ExponentialNoiseScheduler(BaseNoiseScheduler):
    """β = β_start·(β_end/β_start)^u."""

    def _get_beta_schedule(self) -> Array:
        betas: Array = np.geomspace(self.config.beta_start, self.config.beta_end, self.num_train_timesteps)
        return betas


@final
@SCHEDULES.register(BetaSchedule.CUSTOM)
class CustomNoiseScheduler(BaseNoiseScheduler):
    """The betas of the config's ``trained_betas``."""

    def _get_beta_schedule(self) -> Array:
        return np.array(self.config.trained_betas, dtype=np.float64)
