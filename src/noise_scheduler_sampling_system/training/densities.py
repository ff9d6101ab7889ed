"""Densities of the noise levels that a network is trained at, each defined on every path.

A density is written in y = log(σ/α) = −log SNR/2: its distribution function, the inverse of it, and the logarithm of
the density. On the straight path y is the logit of σ, so the logit-normal density of SD3 and the lognormal density of
EDM are one normal distribution of y. ``DENSITIES.register("mine")`` registers a class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor

from ..config.options import Option
from ..config.registries import DENSITIES
from ..support.errors import ConfigurationError
from .density import Density
from .noise_axis import NoiseAxis

__all__ = ["CosMap", "LogLogistic", "LogNormal", "LogUniform", "Mode", "Uniform"]

Real = Annotated[float, Option(minimum=-100.0, maximum=100.0)]
Width = Annotated[float, Option(minimum=1e-3, maximum=100.0)]
LogSNR = Annotated[float | None, Option(kind=float, minimum=-1000.0, maximum=1000.0)]
_LOG_HALF_2PI = math.log(2.0 * math.pi) / 2.0


@final
@DENSITIES.register("uniform")
@dataclass(frozen=True, eq=False)
class Uniform(Density):
    """Even in the time of the path (Ho et al. 2020, arXiv 2006.11239); each whole timestep has 1/T."""

    def _cdf(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        return axis.fraction(y)

    def _quantile(self, u: Tensor, axis: NoiseAxis) -> Tensor:
        return axis.at_fraction(u)

    def _log_density(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        inside = (axis.ends[0] <= y) & (y <= axis.ends[1])
        return torch.where(inside, axis.log_fraction_slope(y), -math.inf)


@final
@DENSITIES.register("log_normal")
@dataclass(frozen=True, eq=False)
class LogNormal(Density):
    """log(σ/α) is normal: "lognormal" of EDM (Karras et al. 2022, arXiv 2206.00364) and "logit-normal" of SD3
    (Esser et al. 2024, arXiv 2403.03206), whose logit(σ) on the straight path is log(σ/α).

    Attributes:
        mean, std: of log(σ/α). EDM: −1.2 and 1.2. SD3: 0 and 1, the defaults.
    """

    mean: Real = 0.0
    std: Width = 1.0

    def _cdf(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        below: Tensor = torch.special.ndtr((y - self.mean) / self.std)
        return below

    def _quantile(self, u: Tensor, axis: NoiseAxis) -> Tensor:
        y: Tensor = self.mean + self.std * torch.special.ndtri(u)
        return y

    def _log_density(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        return -(((y - self.mean) / self.std) ** 2) / 2.0 - math.log(self.std) - _LOG_HALF_2PI


@final
@DENSITIES.register("log_logistic")
@dataclass(frozen=True, eq=False)
class LogLogistic(Density):
    """log(σ/α) is logistic, as in k-diffusion; with mean 0 and scale 1, σ is uniform on the straight path.

    Attributes:
        mean: of log(σ/α); log σ_data in k-diffusion.
        scale: the logistic distribution's.
    """

    mean: Real = 0.0
    scale: Width = 1.0

    def _cdf(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        return torch.sigmoid((y - self.mean) / self.scale)

    def _quantile(self, u: Tensor, axis: NoiseAxis) -> Tensor:
        return self.mean + self.scale * torch.logit(u)

    def _log_density(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        z = (y - self.mean) / self.scale
        return torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z) - math.log(self.scale)


@final
@DENSITIES.register("mode")
@dataclass(frozen=True, eq=False)
class Mode(Density):
    """σ/(α + σ) = u − s·(sin²(πu/2) − u) for uniform u: mode sampling with heavy tails (Esser et al. 2024,
    arXiv 2403.03206, with 1 − u for u).

    Attributes:
        scale: s, from −1 to 2/(π − 2); above 0 it prefers the middle, below 0 the ends, 0 is uniform in σ.
    """

    scale: Annotated[float, Option(minimum=-1.0, maximum=2.0 / (math.pi - 2.0))] = 1.29

    def _sigma(self, u: Tensor) -> Tensor:
        return u - self.scale * (torch.sin(math.pi / 2 * u) ** 2 - u)

    def _cdf(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        wanted = torch.sigmoid(y)
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(54):  # the bits of float64
            middle = (low + high) / 2.0
            below = self._sigma(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2.0

    def _quantile(self, u: Tensor, axis: NoiseAxis) -> Tensor:
        return torch.logit(self._sigma(u).clamp(0.0, 1.0))

    def _log_density(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        slope = 1.0 + self.scale * (1.0 - math.pi / 2 * torch.sin(math.pi * self._cdf(y, axis)))
        return torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y) - slope.log()


@final
@DENSITIES.register("cosmap")
@dataclass(frozen=True, eq=False)
class CosMap(Density):
    """arctan(σ/(α·s)) is uniform: the levels of the cosine schedule on any path (Esser et al. 2024, arXiv 2403.03206,
    with s = 1; k-diffusion's "v-diffusion" with s = σ_data).

    Attributes:
        scale: s; the same as ``shift``, under k-diffusion's meaning.
    """

    scale: Annotated[float, Option(minimum=1e-4, maximum=1e4)] = 1.0

    def _cdf(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        return 2.0 / math.pi * torch.atan(y.exp() / self.scale)

    def _quantile(self, u: Tensor, axis: NoiseAxis) -> Tensor:
        turned = math.pi / 2 * u
        return torch.sin(turned).log() - torch.sin(math.pi / 2 - turned).log() + math.log(self.scale)

    def _log_density(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        z = y - math.log(self.scale)
        return math.log(2.0 / math.pi) - torch.logaddexp(z, -z)


@final
@DENSITIES.register("log_uniform")
@dataclass(frozen=True, eq=False)
class LogUniform(Density):
    """Even in log SNR (k-diffusion's "loguniform" of σ), from the path's ends or from given ones.

    As the measure ``over`` of an objective it gives weights the meaning of Kingma & Gao 2023 (arXiv 2303.00848): the
    loss is an integral over log SNR, and the density of the draws does not change it.

    Attributes:
        log_snr_min, log_snr_max: the ends; None: that of the path. A path that ends without signal or without noise
            needs one.
    """

    log_snr_min: LogSNR = None
    log_snr_max: LogSNR = None

    def _span(self, axis: NoiseAxis) -> tuple[float, float]:
        low, high = (axis.ends - self._move(axis)).tolist()
        low = low if self.log_snr_max is None else self.log_snr_max / -2.0
        high = high if self.log_snr_min is None else self.log_snr_min / -2.0
        if not math.isfinite(high - low) or not low < high:
            raise ConfigurationError(
                f"the log SNR runs from {-2 * high:g} to {-2 * low:g}",
                where="density.log_snr_min" if not math.isfinite(high) or low >= high else "density.log_snr_max",
                why="a uniform density needs two finite ends in order",
                suggestion="give log_snr_min and log_snr_max, e.g. -15 and 15",
            )
        return low, high

    def _cdf(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        low, high = self._span(axis)
        return ((y - low) / (high - low)).clamp(0.0, 1.0)

    def _quantile(self, u: Tensor, axis: NoiseAxis) -> Tensor:
        low, high = self._span(axis)
        return low + (high - low) * u

    def _log_density(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        low, high = self._span(axis)
        inside = (low - 1e-9 <= y) & (y <= high + 1e-9)
        return torch.where(inside, -math.log(high - low), -math.inf)


DENSITIES.alias("lognormal", "logit_normal", "edm", of="log_normal")
DENSITIES.alias("loglogistic", of="log_logistic")
DENSITIES.alias("loguniform", "log_snr", "log_snr_uniform", of="log_uniform")
DENSITIES.alias("heavy_tail", of="mode")
DENSITIES.alias("cos_map", "v_diffusion", of="cosmap")
