"""The built-in beta schedules; u = i/(T−1) runs from 0 at the cleanest level to 1 at the noisiest."""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

from ..config.choices import BetaSchedule
from ..config.options import Option
from ..config.registries import SCHEDULES
from .base import BaseNoiseScheduler

__all__ = [
    "CosineNoiseScheduler",
    "CustomNoiseScheduler",
    "ExpAlphaBarNoiseScheduler",
    "ExponentialNoiseScheduler",
    "LaplaceNoiseScheduler",
    "LinearNoiseScheduler",
    "QuadraticNoiseScheduler",
    "ScaledLinearNoiseScheduler",
    "SigmoidGammaNoiseScheduler",
    "SigmoidNoiseScheduler",
]

Array = npt.NDArray[np.float64]
_MAX_BETA = Option(0.999, minimum=1e-9, below=1.0)


@final
@SCHEDULES.register(BetaSchedule.LINEAR)
class LinearNoiseScheduler(BaseNoiseScheduler):
    """β = β_start + (β_end − β_start)·u (Ho et al. 2020, arXiv 2006.11239, §4).

    Examples:
        >>> from noise_scheduler_sampling_system import NoiseSchedulerFactory
        >>> level = NoiseSchedulerFactory.create("linear").level(500)
        >>> print(f"{level.alpha:.3f} {level.sigma:.3f}")
        0.279 0.960
    """

    def _get_beta_schedule(self) -> Array:
        return np.linspace(self.config.beta_start, self.config.beta_end, self.num_train_timesteps)


@final
@SCHEDULES.register("scaled_linear")
class ScaledLinearNoiseScheduler(BaseNoiseScheduler):
    """√β evenly from √β_start to √β_end (Rombach et al. 2022, arXiv 2112.10752: Stable Diffusion).

    The code of latent diffusion, and ComfyUI, call this one "linear". The option
    ``power``, 2 by default, is the degree of the root.

    Options:
        power: the degree of the root that is evenly spaced.
    """

    declared_options = {"power": Option(2.0, minimum=0.01, maximum=100.0)}

    def _get_beta_schedule(self) -> Array:
        power = self.options["power"]
        start, end = (beta ** (1.0 / power) for beta in (self.config.beta_start, self.config.beta_end))
        betas: Array = np.linspace(start, end, self.num_train_timesteps) ** power
        return betas


@final
@SCHEDULES.register(BetaSchedule.COSINE)
class CosineNoiseScheduler(BaseNoiseScheduler):
    """ᾱ = cos²((t/T + s)/(1 + s)·π/2), β capped at ``max_beta`` (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17).

    It is defined by ᾱ: ``beta_start`` and ``beta_end`` are not used.

    Options:
        s: a small offset, which keeps the first β from being too small.
        max_beta: the largest β.

    Examples:
        >>> from noise_scheduler_sampling_system import NoiseSchedulerFactory
        >>> level = NoiseSchedulerFactory.create("cosine").level(500)
        >>> print(f"{level.alpha:.3f} {level.sigma:.3f}")
        0.702 0.713
    """

    declared_options = {"s": Option(0.008, above=0.0, maximum=100.0), "max_beta": _MAX_BETA}

    def _get_beta_schedule(self) -> Array:
        s = self.options["s"]
        return _betas_of(np.cos((_ends(self) + s) / (1 + s) * np.pi / 2) ** 2, self.options["max_beta"])


@final
@SCHEDULES.register(BetaSchedule.QUADRATIC)
class QuadraticNoiseScheduler(BaseNoiseScheduler):
    """β = β_start + (β_end − β_start)·u².

    Examples:
        >>> from noise_scheduler_sampling_system import NoiseSchedulerFactory
        >>> level = NoiseSchedulerFactory.create("quadratic").level(500)
        >>> print(f"{level.alpha:.3f} {level.sigma:.3f}")
        0.643 0.766
    """

    def _get_beta_schedule(self) -> Array:
        start, end = self.config.beta_start, self.config.beta_end
        return start + (end - start) * self.grid_fractions**2


@final
@SCHEDULES.register(BetaSchedule.SIGMOID)
class SigmoidNoiseScheduler(BaseNoiseScheduler):
    """β = β_start + (β_end − β_start)·sigmoid(12u − 6), as in GeoDiff (Xu et al. 2022, arXiv 2203.02923) and diffusers.

    "sigmoid_gamma" is the sigmoid of Jabri et al. and Chen, which is in ᾱ.

    Examples:
        >>> from noise_scheduler_sampling_system import NoiseSchedulerFactory
        >>> level = NoiseSchedulerFactory.create("sigmoid").level(500)
        >>> print(f"{level.alpha:.3f} {level.sigma:.3f}")
        0.547 0.837
    """

    def _get_beta_schedule(self) -> Array:
        start, end = self.config.beta_start, self.config.beta_end
        betas: Array = start + (end - start) / (1 + np.exp(6 - 12 * self.grid_fractions))
        return betas


@final
@SCHEDULES.register("sigmoid_gamma")
class SigmoidGammaNoiseScheduler(BaseNoiseScheduler):
    """ᾱ falls from 1 to 0 as sigmoid((start + (end − start)·t/T)/tau) rises (Jabri et al. 2022, arXiv 2212.11972;
    Chen 2023, arXiv 2301.10972, Algorithm 1, there "γ").

    Its T betas are capped at ``max_beta``; ``beta_start`` and ``beta_end`` are not used.

    Options:
        start, end: the range of the sigmoid.
        tau: its temperature: a larger one is nearer to a straight line.
        max_beta: the largest β.
    """

    declared_options = {
        "start": Option(-3.0, minimum=-100.0, maximum=100.0),
        "end": Option(3.0, minimum=-100.0, maximum=100.0),
        "tau": Option(1.0, minimum=1e-3, maximum=1e3),
        "max_beta": _MAX_BETA,
    }

    def _get_beta_schedule(self) -> Array:
        tau, start = self.options["tau"], self.options["start"]
        end = self.option("end", low=start)
        with np.errstate(over="ignore", invalid="ignore"):  # a flat curve gives NaN, which is refused
            curve = 1 / (1 + np.exp(-(start + (end - start) * _ends(self)) / tau))
            alpha_bar = (curve[-1] - curve) / (curve[-1] - curve[0])
        return _betas_of(alpha_bar, self.options["max_beta"])


@final
@SCHEDULES.register("laplace")
class LaplaceNoiseScheduler(BaseNoiseScheduler):
    """log SNR = mu − b·sgn(½ − t/T)·log(1 − |1 − 2t/T|) (Hang et al. 2024, arXiv 2407.03297).

    Its T betas are capped at ``max_beta``; ``beta_start`` and ``beta_end`` are not used.
    ``variant="diffusers"`` is the curve of that library, which takes √ᾱ for ᾱ.

    Options:
        mu: the log SNR in the middle of the schedule.
        b: the width: how far the log SNR spreads around it.
        max_beta: the largest β.
        variant: the formula of the "paper", or that of "diffusers".
    """

    declared_options = {
        "mu": Option(0.0, minimum=-100.0, maximum=100.0),
        "b": Option(0.5, minimum=1e-3, maximum=100.0),
        "max_beta": _MAX_BETA,
        "variant": Option("paper", choices=("paper", "diffusers")),
    }

    def _get_beta_schedule(self) -> Array:
        exact, t = self.options["variant"] == "paper", _ends(self)
        with np.errstate(divide="ignore", over="ignore"):
            log = np.log(1 - np.abs(1 - 2 * t) + (0.0 if exact else 1e-6))
            log_snr = self.options["mu"] - self.options["b"] * np.copysign(1.0, 0.5 - t) * log
            alpha_bar = 1 / (1 + np.exp(-log_snr))
        return _betas_of(alpha_bar if exact else np.sqrt(alpha_bar), self.options["max_beta"])


@final
@SCHEDULES.register("exp")
class ExpAlphaBarNoiseScheduler(BaseNoiseScheduler):
    """ᾱ = exp(−rate·t/T), a constant β (diffusers' ``betas_for_alpha_bar`` of type "exp").

    ``beta_start`` and ``beta_end`` are not used. For β that grows by a constant factor see "exponential".

    Options:
        rate: how fast ᾱ falls: it ends at exp(−rate).
        max_beta: the largest β.
    """

    declared_options = {"rate": Option(12.0, above=0.0, maximum=1e4), "max_beta": _MAX_BETA}

    def _get_beta_schedule(self) -> Array:
        return _betas_of(np.exp(-self.options["rate"] * _ends(self)), self.options["max_beta"])


@final
@SCHEDULES.register(BetaSchedule.EXPONENTIAL)
class ExponentialNoiseScheduler(BaseNoiseScheduler):
    """β = β_start·(β_end/β_start)^u.

    Examples:
        >>> from noise_scheduler_sampling_system import NoiseSchedulerFactory
        >>> level = NoiseSchedulerFactory.create("exponential").level(500)
        >>> print(f"{level.alpha:.3f} {level.sigma:.3f}")
        0.883 0.470
    """

    def _get_beta_schedule(self) -> Array:
        betas: Array = np.geomspace(self.config.beta_start, self.config.beta_end, self.num_train_timesteps)
        return betas


@final
@SCHEDULES.register(BetaSchedule.CUSTOM)
class CustomNoiseScheduler(BaseNoiseScheduler):
    """The betas of the config's ``trained_betas``."""

    def _get_beta_schedule(self) -> Array:
        return np.array(self.config.trained_betas, dtype=np.float64)


def _ends(schedule: BaseNoiseScheduler) -> Array:
    """t/T at the ends of the T steps: 0, 1/T, ..., 1."""
    return np.arange(schedule.num_train_timesteps + 1) / schedule.num_train_timesteps


def _betas_of(alpha_bar: Array, max_beta: float) -> Array:
    """β = 1 − ᾱ_i/ᾱ_{i−1}, capped."""
    with np.errstate(divide="ignore", invalid="ignore"):  # what becomes of no signal at all is refused
        betas: Array = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
    return betas


SCHEDULES.alias("scaled-linear", "sqrt_space_linear", of="scaled_linear")
SCHEDULES.alias("squaredcos_cap_v2", "squared_cosine", "iddpm", of="cosine")
SCHEDULES.alias("sigmoid_chen", "sigmoid_jabri", "sigmoid_alpha_bar", of="sigmoid_gamma")
SCHEDULES.alias("sigmoid_betas", "geodiff", of="sigmoid")
SCHEDULES.alias("exp_alpha_bar", of="exp")
SCHEDULES.alias("geometric", of="exponential")
SCHEDULES.alias("trained_betas", of="custom")
