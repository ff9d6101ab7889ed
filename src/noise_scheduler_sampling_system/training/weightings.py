"""Weights of the loss, each one function of log SNR, and what they are for each prediction type.

A weighting says how much the squared error of x̂₀ counts at a log SNR. An error of x̂₀ is an error of ε̂, v̂ or a flow
times a number that only the level sets, so the same weighting has a form for every prediction type, with the same
loss and the same gradients. ``WEIGHTINGS.register("mine")`` registers a class.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from ..config.options import Option
from ..config.prediction import quantity
from ..config.registries import WEIGHTINGS
from .choice import Choice

__all__ = [
    "P2", "SNR", "Constant", "Debiased", "EDMWeight", "FlowWeight", "MinSNR", "SigmaSqrt", "Sigmoid", "SoftMinSNR",
    "TruncatedSNR", "VelocityWeight", "Weighting", "log_gain", "loss_weight",
]  # fmt: skip

Positive = Annotated[float, Option(above=0.0, maximum=1e6)]
#: log SNR is kept in ± this, so that limits at a level without signal or noise are numbers.
_FINITE = 160.0


@dataclass(frozen=True, eq=False)
class Weighting(Choice):
    """The weight of ‖x̂₀ − x₀‖² by log SNR. A subclass is a frozen dataclass that writes :meth:`log_weight`."""

    @abstractmethod
    def log_weight(self, log_snr: Tensor) -> Tensor:
        """The logarithm of the weight at finite log SNRs, float64."""


@final
@WEIGHTINGS.register("sample")
@dataclass(frozen=True, eq=False)
class Constant(Weighting):
    """1: the plain loss of a network that predicts x₀."""

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return torch.zeros_like(log_snr)


@final
@WEIGHTINGS.register("snr")
@dataclass(frozen=True, eq=False)
class SNR(Weighting):
    """SNR: the plain loss of a network that predicts ε (Ho et al. 2020, arXiv 2006.11239)."""

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return log_snr


@final
@WEIGHTINGS.register("snr_plus_one")
@dataclass(frozen=True, eq=False)
class VelocityWeight(Weighting):
    """SNR + 1: the plain loss of a network that predicts v where α² + σ² = 1 (Salimans & Ho 2022,
    arXiv 2202.00512)."""

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return softplus(log_snr)


@final
@WEIGHTINGS.register("flow")
@dataclass(frozen=True, eq=False)
class FlowWeight(Weighting):
    """(1 + √SNR)²: the plain loss of a network that predicts ε − x₀ where α + σ = 1 (Lipman et al. 2022,
    arXiv 2210.02747; 1/σ² there)."""

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return 2.0 * softplus(log_snr / 2.0)


@final
@WEIGHTINGS.register("sigma_sqrt")
@dataclass(frozen=True, eq=False)
class SigmaSqrt(Weighting):
    """(1 + √SNR)⁴: the weight 1/σ² of a network that predicts ε − x₀, diffusers' "sigma_sqrt" on the straight path."""

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return 4.0 * softplus(log_snr / 2.0)


@final
@WEIGHTINGS.register("truncated_snr")
@dataclass(frozen=True, eq=False)
class TruncatedSNR(Weighting):
    """max(SNR, 1) (Salimans & Ho 2022, arXiv 2202.00512).

    Attributes:
        minimum: in place of the 1.
    """

    minimum: Positive = 1.0

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return log_snr.clamp_min(math.log(self.minimum))


@final
@WEIGHTINGS.register("min_snr")
@dataclass(frozen=True, eq=False)
class MinSNR(Weighting):
    """min(SNR, γ) (Hang et al. 2023, arXiv 2303.09556): for ε min(SNR, γ)/SNR, for v min(SNR, γ)/(SNR + 1).

    Attributes:
        gamma: γ.
    """

    gamma: Positive = 5.0

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return log_snr.clamp_max(math.log(self.gamma))


@final
@WEIGHTINGS.register("soft_min_snr")
@dataclass(frozen=True, eq=False)
class SoftMinSNR(Weighting):
    """SNR·γ/(SNR + γ), which is 1/(σ² + 1/γ) where α = 1 (Crowson et al. 2024, arXiv 2401.11605).

    Attributes:
        gamma: γ; 1/σ_data² in k-diffusion's "soft-min-snr".
    """

    gamma: Positive = 4.0

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return math.log(self.gamma) + logsigmoid(log_snr - math.log(self.gamma))


@final
@WEIGHTINGS.register("p2")
@dataclass(frozen=True, eq=False)
class P2(Weighting):
    """SNR/(k + SNR)^γ: for ε 1/(k + SNR)^γ (Choi et al. 2022, arXiv 2204.00227).

    Attributes:
        k, gamma: k and γ.
    """

    k: Positive = 1.0
    gamma: Annotated[float, Option(minimum=0.0, maximum=10.0)] = 1.0

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return log_snr - self.gamma * (math.log(self.k) + softplus(log_snr - math.log(self.k)))


@final
@WEIGHTINGS.register("debiased")
@dataclass(frozen=True, eq=False)
class Debiased(Weighting):
    """√SNR: for ε 1/√SNR (Yu et al. 2023, arXiv 2310.08442)."""

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return log_snr / 2.0


@final
@WEIGHTINGS.register("edm")
@dataclass(frozen=True, eq=False)
class EDMWeight(Weighting):
    """SNR + 1/σ_data²: for D (σ² + σ_data²)/(σ·σ_data)², and 1 for the raw network F (Karras et al. 2022,
    arXiv 2206.00364).

    Attributes:
        sigma_data: the standard deviation of the data.
    """

    sigma_data: Positive = 0.5

    def log_weight(self, log_snr: Tensor) -> Tensor:
        floor = -2.0 * math.log(self.sigma_data)
        return floor + softplus(log_snr - floor)


@final
@WEIGHTINGS.register("sigmoid")
@dataclass(frozen=True, eq=False)
class Sigmoid(Weighting):
    """SNR·sigmoid(b − log SNR): for ε sigmoid(b − log SNR) (Kingma & Gao 2023, arXiv 2303.00848;
    Hoogeboom et al. 2024, arXiv 2410.19324).

    These papers mean an integral over log SNR: give the objective ``over="log_uniform"``.

    Attributes:
        bias: b.
    """

    bias: Annotated[float, Option(minimum=-50.0, maximum=50.0)] = 0.0

    def log_weight(self, log_snr: Tensor) -> Tensor:
        return self.bias + logsigmoid(log_snr - self.bias)


def log_gain(kind: str, alpha: Tensor, sigma: Tensor, log_snr: Tensor) -> Tensor:
    """log k², where an error of x̂₀ is an error of the predicted quantity times k, at the same x.

    With q = p·x₀ + r·ε and ε = (x − α·x₀)/σ, k = p − r·α/σ.
    """
    if kind == "epsilon":
        return log_snr.clamp(-_FINITE, _FINITE)
    of_clean, of_noise = quantity(kind, alpha, sigma)  # type: ignore[arg-type]
    return 2.0 * (torch.as_tensor(of_clean * sigma - of_noise * alpha).abs().log() - sigma.log())


def loss_weight(weighting: Weighting | None, kind: str, alpha: Tensor, sigma: Tensor, log_snr: Tensor) -> Tensor:
    """The weight of the squared error of a predicted quantity; without a weighting, 1. All are float64.

    At a level without signal or without noise it is the limit.
    """
    if weighting is None:
        return torch.ones_like(log_snr)
    finite = log_snr.clamp(-_FINITE, _FINITE)
    if kind == "sample":  # its gain is 1 at every level, σ = 0 included
        return weighting.log_weight(finite).exp()
    return (weighting.log_weight(finite) - log_gain(kind, alpha, sigma, log_snr)).exp()


WEIGHTINGS.alias("epsilon", "eps", of="snr")
WEIGHTINGS.alias("x0", "constant", of="sample")
WEIGHTINGS.alias("v", "v_prediction", of="snr_plus_one")
WEIGHTINGS.alias("flow_prediction", "flow_matching", of="flow")
WEIGHTINGS.alias("min_snr_gamma", of="min_snr")
WEIGHTINGS.alias("debiased_estimation", of="debiased")
WEIGHTINGS.alias("vdm++", of="sigmoid")
