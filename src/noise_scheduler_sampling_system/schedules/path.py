"""The forward process x_t = α(t)·x₀ + σ(t)·ε, continuous in t."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ConfigurationError

__all__ = ["Level", "NoisePath", "Time"]

Time = TypeVar("Time", float, npt.NDArray[np.float64], Tensor)


class Level(NamedTuple):
    """A noise level: the time t at which the model knows it, and x = α·x₀ + σ·ε there."""

    t: float
    alpha: float
    sigma: float

    @property
    def noise_to_signal(self) -> float:
        """σ/α, the noise level in the coordinates of Karras et al. 2022; inf without signal."""
        return self.sigma / self.alpha if self.alpha > 0 else float("inf")


#: The end of every run to a clean sample. No model is asked there, so it has no time.
CLEAN = Level(t=float("nan"), alpha=1.0, sigma=0.0)


def _in_kind(function: Callable[[Tensor], Tensor], value: Time) -> Time:
    """Apply a function of float64 tensors to a float, an array or a tensor; return the same kind."""
    if isinstance(value, Tensor):
        return function(_double(value))
    array = np.array(value, dtype=np.float64)
    result = function(torch.from_numpy(array))
    return result.item() if array.ndim == 0 else result.numpy()  # type: ignore[return-value]


def _traced() -> bool:
    """Whether torch.compile or torch.func is looking: values cannot be read then."""
    compiler = getattr(torch, "compiler", None)  # torch 2.0 has none, and parts of it came later
    if compiler is not None and getattr(compiler, "is_compiling", bool)():
        return True
    peek = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None)
    return peek() is not None


def _double(value: Tensor) -> Tensor:
    # Apple's MPS has no float64; there the tables are read in float32.
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)


class NoisePath(ABC):
    """How data turns into noise: α(t), σ(t) and their log-SNR, on [``t_min``, ``t_max``].

    A subclass says what log-SNR a time has, which time a log-SNR has, and how α and σ
    follow from the log-SNR. Every public method takes a float, a NumPy array or a tensor of
    times and returns the same kind, in float64 (float32 on MPS).
    """

    t_min: float
    t_max: float
    #: Whether the model was trained at whole-number times (they are then passed as integers).
    discrete: bool = False

    @abstractmethod
    def _log_snr(self, t: Tensor) -> Tensor:
        """log(α²/σ²) of float64 times inside the range."""

    @abstractmethod
    def _time(self, log_snr: Tensor) -> Tensor:
        """The inverse of :meth:`_log_snr`, clamped to the range of times."""

    @abstractmethod
    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ of a log-SNR."""

    @property
    def prior_std(self) -> float:
        """Standard deviation of x at the noisiest time for data of unit variance."""
        alpha, sigma = self._alpha_sigma(self._log_snr(torch.tensor(self.t_max, dtype=torch.float64, device="cpu")))
        return float(torch.hypot(alpha, sigma))

    def log_snr(self, t: Time) -> Time:
        """log(α²/σ²) at time t; falls with t.

        Raises:
            ConfigurationError: a time outside the range (not checked for tensors on a GPU,
                where it would stall the device).
        """
        return _in_kind(lambda u: self._log_snr(self._in_range(u)), t)

    def time(self, log_snr: Time) -> Time:
        """The time with this log-SNR, clamped to [``t_min``, ``t_max``]."""
        return _in_kind(self._time, log_snr)

    def alpha(self, t: Time) -> Time:
        """The signal's factor α(t)."""
        return _in_kind(lambda u: self._alpha_sigma(self._log_snr(self._in_range(u)))[0], t)

    def sigma(self, t: Time) -> Time:
        """The noise's factor σ(t)."""
        return _in_kind(lambda u: self._alpha_sigma(self._log_snr(self._in_range(u)))[1], t)

    def level(self, t: float) -> Level:
        """The noise level at time t."""
        return self.levels([t])[0]

    def levels(self, times: npt.ArrayLike) -> list[Level]:
        """The noise levels at many times, in one pass."""
        t = torch.from_numpy(np.array(times, dtype=np.float64))
        alpha, sigma = self._alpha_sigma(self._log_snr(self._in_range(t)))
        return [Level(*row) for row in zip(t.tolist(), alpha.tolist(), sigma.tolist(), strict=True)]

    def add_noise(self, x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
        """x_t = α(t)·x₀ + σ(t)·ε.

        Args:
            x0: clean samples, shape (B, ...).
            noise: unit-variance noise of the same shape.
            t: one time, or a tensor of B times, one a sample.

        Raises:
            ConfigurationError: shapes that do not fit, or a time outside the range.
        """
        alpha, sigma = self._coefficients(x0, noise, t)
        noisy: Tensor = alpha * x0 + sigma * noise
        return noisy

    def velocity(self, x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
        """v = α(t)·ε − σ(t)·x₀ (Salimans & Ho 2022, arXiv 2202.00512, §4); arguments as ``add_noise``."""
        alpha, sigma = self._coefficients(x0, noise, t)
        velocity: Tensor = alpha * noise - sigma * x0
        return velocity

    def _coefficients(self, x0: Tensor, noise: Tensor, t: Any) -> tuple[Any, Any]:
        if isinstance(t, list | tuple | np.ndarray):
            t = torch.from_numpy(np.array(t, dtype=np.float64))
        if x0.shape != noise.shape:
            raise ConfigurationError(
                f"noise has shape {tuple(noise.shape)}, the samples {tuple(x0.shape)}",
                where="noise",
                suggestion="draw it with torch.randn_like(x0)",
            )
        if not isinstance(t, Tensor):
            level = self.level(float(t))
            return level.alpha, level.sigma
        if t.ndim > 1 or (t.ndim == 1 and t.shape[0] not in (1, x0.shape[0])):
            raise ConfigurationError(
                f"t has shape {tuple(t.shape)} for a batch of {x0.shape[0]}",
                where="t",
                suggestion="give one time, or one a sample: shape (B,)",
            )
        both = self._alpha_sigma(self._log_snr(self._in_range(_double(t.to(x0.device)))))
        alpha, sigma = (c.to(x0.dtype).reshape(-1, *[1] * (x0.ndim - 1)) for c in both)
        return alpha, sigma

    def _in_range(self, t: Tensor) -> Tensor:
        if t.device.type == "cpu" and t.numel() and not _traced():
            low, high = t.min().item(), t.max().item()
            if not (self.t_min <= low and high <= self.t_max):  # NaN fails, too
                bad = high if low >= self.t_min else low
                raise ConfigurationError(
                    f"time {bad} is outside [{self.t_min:g}, {self.t_max:g}]",
                    where="t",
                    suggestion="times run from the cleanest level (small t) to the noisiest (large t)",
                )
        return t


def variance_preserving(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ with α² + σ² = 1."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
