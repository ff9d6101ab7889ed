"""Modifiers: a path with other noise levels at the same times. They wrap any path, also a modified one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast, final

import torch
from torch import Tensor

from ..config.options import Option
from ..config.settings import NoiseSchedulerConfig
from ..support.errors import ConfigurationError
from .path import NoisePath, Time

__all__ = ["ShiftedSNR", "TerminalRescaling", "ZeroTerminalSNR", "shifted"]


#: The factor of σ/α.
SHIFT = Option(1.0, minimum=1e-6, maximum=1e6)


def shifted(log_snr: Tensor, shift: float) -> Tensor:
    """log SNR after σ/α is multiplied by ``shift``."""
    return log_snr - 2.0 * math.log(shift)


@final
class TerminalRescaling(NamedTuple):
    """Algorithm 1 of Lin et al. 2023 (arXiv 2305.08891) as a map of log SNR, and its inverse.

    α is shifted to end at 0 and scaled to keep its start: α ↦ k·(α − α_T), k = α_0/(α_0 − α_T). The code computes
    with 1 − α = σ²/(1 + α), so that a small σ keeps its digits.
    """

    start: float
    shift: float

    @classmethod
    def between(cls, first: float, last: float) -> TerminalRescaling:
        """The rescaling of a variance-preserving path that begins and ends at these log SNRs."""
        ends = torch.tensor([first, last], dtype=torch.float64, device="cpu")
        rescaling = cls(*_signal(ends)[0].tolist())
        if rescaling.start == rescaling.shift:
            raise ConfigurationError(
                f"the signal falls by less than float64 can tell, α = {rescaling.start!r} at both ends",
                where="rescale_betas_zero_snr",
                suggestion="use a schedule that adds noise",
            )
        return rescaling

    def __call__(self, log_snr: Tensor) -> Tensor:
        """The log SNR after the rescaling: −∞ at the last level. A path whose last α is 0 already is unchanged."""
        if self.shift == 0.0:
            return log_snr
        factor = self.start / (self.start - self.shift)
        alpha, lost = _signal(log_snr)
        return _log_snr((factor * (alpha - self.shift)).clamp_min(0.0), self._lost + factor * (lost - self._lost))

    def inverse(self, log_snr: Tensor) -> Tensor:
        """The log SNR before the rescaling."""
        if self.shift == 0.0:
            return log_snr
        factor = self.start / (self.start - self.shift)
        alpha, lost = _signal(log_snr)
        return _log_snr(self.shift + alpha / factor, (self._lost + (lost - self._lost) / factor).clamp_min(0.0))

    @property
    def _lost(self) -> float:
        return 1.0 - self.start


def _signal(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """α and 1 − α of a variance-preserving path."""
    alpha = torch.exp(torch.nn.functional.logsigmoid(log_snr) / 2.0)
    return alpha, torch.sigmoid(-log_snr) / (1.0 + alpha)


def _log_snr(alpha: Tensor, lost: Tensor) -> Tensor:
    return 2.0 * alpha.log() - torch.log(lost * (1.0 + alpha))


class _Modified(NoisePath, ABC):
    """A path with the times and the config of another path, and other noise levels."""

    def __init__(self, path: NoisePath) -> None:
        if not isinstance(path, NoisePath):
            raise ConfigurationError(
                f"got {type(path).__name__}", where="path", suggestion="give a noise schedule, e.g. VPPath()"
            )
        self.path = path
        self.config, self.options = path.config, path.options
        self.t_min, self.t_max, self.t_origin = path.t_min, path.t_max, path.t_origin
        self.discrete, self.sigma_is_absolute = path.discrete, path.sigma_is_absolute

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, options=state["path"].options)  # those of the path, which may have more by now

    @property
    def t_clean(self) -> float:
        return self.path.t_clean

    @property
    def time_unit(self) -> float:
        return self.path.time_unit

    @abstractmethod
    def _around(self, path: NoisePath) -> NoisePath:
        """This modifier on another path."""

    def with_config(self, config: NoiseSchedulerConfig) -> NoisePath:
        return self._around(self.path.with_config(config))

    def up_to(self, t: float) -> NoisePath:
        shorter = cast(_Modified, super().up_to(t))
        shorter.path = self.path.up_to(t)
        return shorter

    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return self.path._alpha_sigma(log_snr)

    def time_at(self, fraction: Time) -> Time:
        return self.path.time_at(fraction)

    def fraction_at(self, t: float) -> float:
        return self.path.fraction_at(t)

    @property
    def spacing_shift(self) -> float:
        return self.path.spacing_shift


@final
class ShiftedSNR(_Modified):
    """A path whose σ/α is multiplied by ``shift``: log SNR falls by 2·log(shift) at every time.

    It is above 1 for images larger than those that the schedule was made for (Hoogeboom et al. 2023,
    arXiv 2301.11093, §3.1; Stable Cascade's ``shift``), and √3 for the ``snr_shift_scale=3`` of CogVideoX, which
    divides the SNR. Schedules with betas also have it as the option ``snr_shift``.

    Args:
        path: any noise schedule.
        shift: from 1e-6 to 1e6; 1 changes nothing.

    Raises:
        ConfigurationError: not a path, or a shift outside its range.
    """

    def __init__(self, path: NoisePath, shift: float) -> None:
        super().__init__(path)
        self.shift = float(SHIFT.checked(shift, "shift"))

    def _log_snr(self, t: Tensor) -> Tensor:
        return shifted(self.path._log_snr(t), self.shift)

    def _time(self, log_snr: Tensor) -> Tensor:
        return self.path._time(shifted(log_snr, 1.0 / self.shift))

    def _around(self, path: NoisePath) -> NoisePath:
        return ShiftedSNR(path, self.shift)

    def __repr__(self) -> str:
        return f"ShiftedSNR({self.path!r}, {self.shift:g})"


@final
class ZeroTerminalSNR(_Modified):
    """A variance-preserving path whose α is shifted and scaled to end at 0 (Lin et al. 2023, arXiv 2305.08891, Alg. 1).

    The cleanest level does not change. On a schedule with betas, whole timesteps have the levels of the setting
    ``rescale_betas_zero_snr``. A path that ends without signal does not change.

    Args:
        path: any variance-preserving noise schedule.

    Raises:
        ConfigurationError: α² + σ² ≠ 1.
    """

    def __init__(self, path: NoisePath) -> None:
        super().__init__(path)
        ends = path.levels([path.t_min, path.t_max])
        if any(abs(math.hypot(level.alpha, level.sigma) - 1.0) > 1e-9 for level in ends):
            raise ConfigurationError(
                f"{path!r} does not preserve variance",
                where="path",
                why="the rescaling of Lin et al. 2023 is defined for σ² = 1 − α²",
                suggestion="use a path with betas, 'vp' or 'v_diffusion'",
            )
        self._end = path.t_max
        first, last = (2.0 * level.half_log_snr for level in ends)
        self._map = None if math.isinf(last) else TerminalRescaling.between(first, last)

    @property
    def t_clean(self) -> float:
        return self.t_min  # the rescaling would give cleaner levels an α above 1

    def _log_snr(self, t: Tensor) -> Tensor:
        before = self.path._log_snr(t)
        return before if self._map is None else torch.where(t < self._end, self._map(before), -math.inf)

    def _time(self, log_snr: Tensor) -> Tensor:
        return self.path._time(log_snr if self._map is None else self._map.inverse(log_snr))

    def _around(self, path: NoisePath) -> NoisePath:
        return ZeroTerminalSNR(path)

    def __repr__(self) -> str:
        return f"ZeroTerminalSNR({self.path!r})"
