"""Noise schedules defined by T betas, as for models of the DDPM family."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config.combinations import refuse_invalid_betas
from ..config.settings import SCHEDULE_FIELDS, NoiseSchedulerConfig
from ..support.errors import ConfigurationError
from .conventions import variance_preserving
from .modifiers import SHIFT, TerminalRescaling, shifted
from .path import NoisePath
from .times import traced

__all__ = ["BaseNoiseScheduler"]


class BaseNoiseScheduler(NoisePath):
    """A variance-preserving path through T noise levels, ᾱ_i = Π_{j≤i}(1 − β_j).

    A subclass implements :meth:`_get_beta_schedule`. Between two whole timesteps log(σ/α) is linear in t, as in
    k-diffusion. Where the last level has no signal (zero terminal SNR), α/σ is linear in the last interval.

    The option ``snr_shift`` multiplies σ/α at every timestep, as :class:`~.modifiers.ShiftedSNR` does. The setting
    ``rescale_betas_zero_snr`` is applied after it. ``betas`` are the betas of the result.

    Options:
        snr_shift: multiplies σ/α at every timestep, as :class:`~.modifiers.ShiftedSNR` does; 1 changes nothing.

    Args:
        config: the settings; fields may also be given as keywords.

    Attributes:
        betas, alphas, alphas_cumprod: β_i, 1 − β_i and ᾱ_i, float64 tensors of shape (T,).

    Raises:
        ConfigurationError: betas outside (0, 1), not finite, or not T of them.

    Examples:
        >>> from noise_scheduler_sampling_system import BaseNoiseScheduler
        >>> class Constant(BaseNoiseScheduler):
        ...     def _get_beta_schedule(self):
        ...         return [0.01] * self.num_train_timesteps
        >>> Constant(num_train_timesteps=500).betas.shape
        torch.Size([500])
    """

    discrete = True
    t_origin = -1.0  # t = 0 is the first noise level, one step from the data
    reads = SCHEDULE_FIELDS
    declared_options = {"snr_shift": SHIFT}
    made_on_use = frozenset({"_tables", "_factor_tables"})

    def __init__(self, config: NoiseSchedulerConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        betas = np.array(self._checked(self._get_beta_schedule()))
        log_alpha_bar = np.concatenate([np.cumsum(np.log1p(-betas[:-1])), [0.0]])
        log_alpha_bar[-1] = log_alpha_bar[-2] + (np.log1p(-betas[-1]) if betas[-1] < 1 else -np.inf)
        # log SNR = log(ᾱ/(1−ᾱ)), from log ᾱ so that neither end cancels
        table = torch.from_numpy(log_alpha_bar - np.log(-np.expm1(log_alpha_bar)))
        self._table = self._modified(table)
        if self._table is not table:
            log_alpha_bar = torch.nn.functional.logsigmoid(self._table).numpy()
            with np.errstate(invalid="ignore"):
                betas = -np.expm1(np.diff(log_alpha_bar, prepend=0.0))
            betas[np.isnan(betas)] = 1.0  # there was no signal at the level before
        self.betas = torch.from_numpy(betas)
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.from_numpy(np.exp(log_alpha_bar))
        self.t_min, self.t_max = 0.0, float(len(betas) - 1)
        self._zero_terminal_snr = bool(torch.isneginf(self._table[-1]))
        self._tables: dict[torch.device, Tensor] = {}
        self._factor_tables: dict[tuple[torch.device, torch.dtype, int], tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def _get_beta_schedule(self) -> npt.ArrayLike | Tensor:
        """The T betas, from the cleanest level to the noisiest; ``self.config`` is set."""

    def _modified(self, log_snr: Tensor) -> Tensor:
        """The table of log SNR after the shift and the rescaling of the config."""
        shift = self.option("snr_shift")
        if shift != 1.0:
            log_snr = shifted(log_snr, shift)
        if self.config.rescale_betas_zero_snr and not torch.isneginf(log_snr[-1]):
            rescaled = TerminalRescaling.between(float(log_snr[0]), float(log_snr[-1]))
            log_snr = torch.cat([rescaled(log_snr[:-1]), log_snr.new_tensor([-torch.inf])])
        return log_snr

    @property
    def time_unit(self) -> float:
        return float(self.num_train_timesteps)

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of noise levels."""
        return self.config.num_train_timesteps

    @property
    def grid_fractions(self) -> npt.NDArray[np.float64]:
        """i/(T−1) for the T levels: 0 at the cleanest, 1 at the noisiest."""
        return np.linspace(0.0, 1.0, self.num_train_timesteps)

    def _checked(self, betas: npt.ArrayLike | Tensor) -> npt.NDArray[np.float64]:
        values = betas.detach().cpu().numpy() if isinstance(betas, Tensor) else betas
        array = np.asarray(values, dtype=np.float64)
        where = f"{type(self).__name__}._get_beta_schedule()"
        if array.shape != (self.num_train_timesteps,):
            raise ConfigurationError(
                f"returned shape {array.shape}",
                where=where,
                suggestion=f"return num_train_timesteps = {self.num_train_timesteps} betas",
            )
        refuse_invalid_betas(array, where, "cap the betas, e.g. at 0.999")
        return array

    def _on(self, device: torch.device) -> Tensor:
        """The log-SNR table on a device, copied there once."""
        if device.type == "cpu":
            return self._table
        if device not in self._tables:
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._tables[device] = self._table.to(device, dtype)
        return self._tables[device]

    def _factors(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if t.is_floating_point() or t.dtype == torch.bool or traced():
            return super()._factors(t, dtype)
        last = int(self.t_max)
        key = t.device, dtype, last
        if key not in self._factor_tables:  # whole timesteps, as in training: a look-up
            with torch.inference_mode(False), torch.no_grad():
                every = torch.arange(last + 1, device=t.device)
                self._factor_tables[key] = super()._factors(every, dtype)
        alpha, sigma = self._factor_tables[key]
        at = t.reshape(-1).long()
        if t.device.type != "cpu":  # a check would stall the device
            at = at.clamp(0, last)
        try:
            return alpha.index_select(0, at).reshape(t.shape), sigma.index_select(0, at).reshape(t.shape)
        except IndexError:
            self._in_range(t)
            raise

    def _log_snr(self, t: Tensor) -> Tensor:
        table = self._on(t.device)
        below = t.floor().clamp(0, len(table) - 2)
        left, right = table[below.long()], table[below.long() + 1]
        weight = t - below
        if not self._zero_terminal_snr:
            return left + weight * (right - left)
        # α/σ falls linearly to zero in the last interval; log SNR is twice its logarithm
        ends = torch.isneginf(right)
        inside = left + weight * (torch.where(ends, left, right) - left)  # finite, or its gradient would be NaN
        return torch.where(ends, left + 2.0 * torch.log1p(-weight), inside)

    def _time(self, log_snr: Tensor) -> Tensor:
        table = self._on(log_snr.device)
        above = torch.searchsorted(-table, -log_snr.contiguous()).clamp(1, len(table) - 1)
        left, right = table[above - 1], table[above]
        weight = ((log_snr - left) / (right - left)).clamp(0.0, 1.0)
        if self._zero_terminal_snr:
            weight = torch.where(torch.isneginf(right), -torch.expm1((log_snr - left) / 2.0).clamp(-1.0, 0.0), weight)
        return ((above - 1).to(log_snr.dtype) + weight).clamp(self.t_min, self.t_max)

    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return variance_preserving(log_snr)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_train_timesteps={self.num_train_timesteps})"
