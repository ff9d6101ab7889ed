"""Noise schedules without betas: α and σ as functions of a real-valued time."""

from __future__ import annotations

import math
from abc import ABC
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from ..config.options import Option
from ..config.registries import SCHEDULES
from ..config.settings import NoiseSchedulerConfig
from ..support.errors import ConfigurationError
from .conventions import straight, variance_exploding, variance_preserving
from .path import NoisePath, Time

__all__ = [
    "CosinePath",
    "EDMPath",
    "FlowPath",
    "SubVPPath",
    "TrigFlowPath",
    "VDiffusionPath",
    "VEPath",
    "VPPath",
    "flux2_shift",
    "resolution_shift",
]


#: Options of several paths: a σ, a β of an SDE, the cleanest time of an SDE, and the unit of the network's time.
_SIGMA = Option(1.0, minimum=1e-10, maximum=1e10)
BETA = Option(0.1, minimum=1e-6, maximum=1e4)
T_MIN = Option(1e-3, minimum=1e-8, below=1.0)
_TIME_SCALE = Option(1.0, minimum=1e-6, maximum=1e9)
#: The most tokens of FLUX.2's fit.
FLUX2_TOKENS = 100_000


@final
@SCHEDULES.register("edm")
class EDMPath(NoisePath):
    """α = 1 and σ = t from ``sigma_min`` to ``sigma_max`` (Karras et al. 2022, arXiv 2206.00364, Table 1).

    The network is the paper's denoiser D(x; σ). :class:`~..models.EDMPreconditioned` makes a denoiser from a raw
    network.

    Options:
        sigma_min, sigma_max: σ, which is the time, at the cleanest and at the noisiest level.
    """

    declared_options = {"sigma_min": _SIGMA.at(0.002), "sigma_max": _SIGMA.at(80.0)}
    defaults = {"prediction_type": "sample", "timestep_spacing": "karras"}
    t_origin = 0.0

    def __init__(self, config: NoiseSchedulerConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        self.t_max = self.option("sigma_max")
        self.t_min = self.option("sigma_min", high=self.t_max)

    def _log_snr(self, t: Tensor) -> Tensor:
        return -2.0 * t.log()

    def _time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2).clamp(self.t_min, self.t_max)

    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return variance_exploding(log_snr)

    def _time_of_sigma(self, sigma: float) -> float:
        return sigma


@final
@SCHEDULES.register("ve")
class VEPath(NoisePath):
    """α = 1 and σ = σ_min·(σ_max/σ_min)^t, t in [0, 1] (Song et al. 2021, arXiv 2011.13456, eq. 30).

    Options:
        sigma_min, sigma_max: σ at the cleanest and at the noisiest level.
    """

    declared_options = {"sigma_min": _SIGMA.at(0.01), "sigma_max": _SIGMA.at(50.0)}
    defaults = {"timestep_spacing": "log_snr"}
    t_min, t_max = 0.0, 1.0

    def __init__(self, config: NoiseSchedulerConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        high = self.option("sigma_max")
        self._low, self._high = math.log(self.option("sigma_min", high=high)), math.log(high)

    def _log_snr(self, t: Tensor) -> Tensor:
        return -2.0 * (self._low + (self._high - self._low) * t)

    def _time(self, log_snr: Tensor) -> Tensor:
        return ((-log_snr / 2 - self._low) / (self._high - self._low)).clamp(self.t_min, self.t_max)

    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return variance_exploding(log_snr)


class _DiffusionSDE(NoisePath, ABC):
    """β(t) = β_min + (β_max − β_min)·t on [``t_min``, 1]; B(t) is its integral and α = exp(−B/2).

    The network is told ``time_scale``·t (999·t in the code of Song et al.).

    Options:
        beta_min, beta_max: β at t = 0 and at t = 1.
        t_min: the cleanest time of the model, as a fraction of the range.
        time_scale: the network is told ``time_scale``·t.
    """

    declared_options = {"beta_min": BETA, "beta_max": BETA.at(20.0), "t_min": T_MIN, "time_scale": _TIME_SCALE}
    defaults = {"timestep_spacing": "trailing"}
    t_origin = 0.0

    def __init__(self, config: NoiseSchedulerConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        self._scale, self._beta_max = self.option("time_scale"), self.option("beta_max")
        self._beta_min = self.option("beta_min", high=self._beta_max)
        self.t_min, self.t_max = self._scale * self.option("t_min", high=1.0), self._scale

    def _integral(self, t: Tensor) -> Tensor:
        u = t / self._scale
        return self._beta_min * u + (self._beta_max - self._beta_min) * u * u / 2

    def _time_of(self, integral: Tensor) -> Tensor:
        integral = integral.clamp(max=1e300)  # ∞/∞ where there is no signal
        root = torch.sqrt(self._beta_min**2 + 2 * (self._beta_max - self._beta_min) * integral)
        return (self._scale * 2 * integral / (self._beta_min + root)).clamp(self.t_min, self.t_max)


@final
@SCHEDULES.register("vp")
class VPPath(_DiffusionSDE):
    """The continuous variance-preserving SDE: α = exp(−B/2), σ² = 1 − α² (Song et al. 2021, arXiv 2011.13456)."""

    def _log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(self._integral(t)))

    def _time(self, log_snr: Tensor) -> Tensor:
        return self._time_of(torch.nn.functional.softplus(-log_snr, threshold=100.0))

    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return variance_preserving(log_snr)


@final
@SCHEDULES.register("sub_vp")
class SubVPPath(_DiffusionSDE):
    """The sub-VP SDE: α = exp(−B/2), σ = 1 − α² (Song et al. 2021, arXiv 2011.13456, eq. 29)."""

    def _log_snr(self, t: Tensor) -> Tensor:
        integral = self._integral(t)
        return -integral - 2.0 * torch.log(-torch.expm1(-integral))

    def _time(self, log_snr: Tensor) -> Tensor:
        return self._time_of(-torch.log1p(-self._alpha_sigma(log_snr)[1]))

    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        ratio = torch.exp(-log_snr / 2)  # σ/α = (1 − α²)/α
        return 2.0 / (ratio + torch.sqrt(ratio * ratio + 4.0)), 2.0 / (1.0 + torch.sqrt(1.0 + 4.0 / (ratio * ratio)))


class _Circle(NoisePath, ABC):
    """α = cos φ and σ = sin φ, with the angle φ proportional to the time; φ = π/2 at the time ``_quarter``."""

    _quarter: ClassVar[float]
    defaults = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    t_origin = 0.0

    def _log_snr(self, t: Tensor) -> Tensor:
        u = t / self._quarter
        return 2.0 * (torch.sin(math.pi / 2 * (1.0 - u)).log() - torch.sin(math.pi / 2 * u).log())

    def _time(self, log_snr: Tensor) -> Tensor:
        angle = torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)
        return (angle * self._quarter).clamp(self.t_min, self.t_max)

    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return variance_preserving(log_snr)


@final
@SCHEDULES.register("v_diffusion")
class VDiffusionPath(_Circle):
    """α = cos(πt/2), σ = sin(πt/2) on [``t_min``, 1] (Salimans & Ho 2022, arXiv 2202.00512, §4): no signal at t = 1.

    Options:
        t_min: the cleanest time of the model.
    """

    declared_options = {"t_min": T_MIN}
    _quarter = 1.0
    t_max = 1.0

    def __init__(self, config: NoiseSchedulerConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        self.t_min = self.option("t_min", high=1.0)


@final
@SCHEDULES.register("trigflow")
class TrigFlowPath(_Circle):
    """α = cos t, σ = sin t, with t the angle in radians (Lu & Song 2024, arXiv 2410.11081, §3: TrigFlow, sCM).

    The state is the paper's divided by the standard deviation of the data, x/σ_d. The paper's network F(x/σ_d, t)
    then is a network of v: dx/dt = v = cos t·ε − sin t·x₀, and x₀ = cos t·x − sin t·v.

    Options:
        t_min: the angle at the cleanest level.
        t_max: the angle at the noisiest: π/2 is pure noise (SANA-Sprint), the paper ends at arctan(80/0.5) = 1.56454.
    """

    declared_options = {"t_min": T_MIN, "t_max": Option(math.pi / 2, above=0.0, maximum=math.pi / 2)}
    _quarter = math.pi / 2

    def __init__(self, config: NoiseSchedulerConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        self.t_max = self.option("t_max", high=2.0)
        self.t_min = self.option("t_min", high=self.t_max)


@final
@SCHEDULES.register("wuerstchen")
class CosinePath(NoisePath):
    """The cosine ᾱ = cos²((t + s)/(1 + s)·π/2)/cos²(s/(1 + s)·π/2) of a real-valued t in (0, 1)
    (Pernias et al. 2023, arXiv 2306.00637; Stable Cascade).

    Its code clamps ᾱ to [``alpha_bar_min``, ``alpha_bar_max``], so that all times beyond mean one of these two levels.
    The path therefore ends there; times from 0 on are allowed in the forward process.
    Stable Cascade's ``shift`` is :class:`~.modifiers.ShiftedSNR`.

    Options:
        s: a small offset, as in the cosine schedule.
        alpha_bar_min, alpha_bar_max: ᾱ at the noisiest and at the cleanest level.
    """

    declared_options = {
        "s": Option(0.008, above=0.0, maximum=100.0),
        "alpha_bar_min": Option(1e-4, minimum=1e-12, below=1.0),
        "alpha_bar_max": Option(0.9999, above=0.0, below=1.0),
    }
    defaults = {"timestep_spacing": "trailing"}
    t_origin = 0.0

    def __init__(self, config: NoiseSchedulerConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        self._s, high = self.option("s"), self.option("alpha_bar_max", high=1.0)
        self._start = math.cos(self._s / (1.0 + self._s) * math.pi / 2)
        self.t_min, self.t_max = -math.inf, math.inf
        ends = torch.tensor([high, self.option("alpha_bar_min", high=high)], dtype=torch.float64, device="cpu")
        self._cleanest = float(torch.logit(ends[0]))
        self.t_min, self.t_max = self._time(torch.logit(ends)).tolist()

    def _log_snr(self, t: Tensor) -> Tensor:
        bar = (torch.cos((t + self._s) / (1.0 + self._s) * (math.pi / 2)) / self._start) ** 2
        return torch.logit(bar).clamp(max=self._cleanest)

    def _time(self, log_snr: Tensor) -> Tensor:
        angle = torch.acos(torch.sigmoid(log_snr).sqrt() * self._start)
        return (angle * (2.0 / math.pi) * (1.0 + self._s) - self._s).clamp(self.t_min, self.t_max)

    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return variance_preserving(log_snr)


@final
@SCHEDULES.register("flow")
class FlowPath(NoisePath):
    """The straight path of rectified flow and flow matching: α = 1 − σ, and the network is told ``time_scale``·σ
    (Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv 2210.02747).

    ``shift`` moves evenly spaced levels towards the noise, σ = s·u/(1 + (s − 1)·u) for even u
    (Esser et al. 2024, arXiv 2403.03206, eq. 23); :func:`resolution_shift` gives the shift of an
    image size. ``sigma_min`` is the cleanest level that the model knows.

    Options:
        shift: s above; 1 leaves the levels even, 3 is that of SD3 for 1024×1024.
        sigma_min, sigma_max: σ at the cleanest and at the noisiest level; 1 is pure noise.
        time_scale: the network is told ``time_scale``·σ: 1000 for most, 1 for FLUX.
    """

    declared_options = {
        "shift": Option(1.0, minimum=1e-4, maximum=1e4),
        "sigma_min": Option(1e-3, minimum=1e-8, below=1.0),
        "sigma_max": Option(1.0, above=0.0, maximum=1.0),
        "time_scale": _TIME_SCALE.at(1000.0),
    }
    defaults = {"prediction_type": "flow_prediction", "timestep_spacing": "trailing"}
    t_origin = 0.0
    sigma_is_absolute = True

    def __init__(self, config: NoiseSchedulerConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        self._scale, self._shift = self.option("time_scale"), self.option("shift")
        self.t_max = self._scale * self.option("sigma_max")
        self.t_min = self._scale * self.option("sigma_min", high=self.options["sigma_max"])

    def _log_snr(self, t: Tensor) -> Tensor:
        return 2.0 * (torch.log((self._scale - t) / self._scale) - torch.log(t / self._scale))

    def _time(self, log_snr: Tensor) -> Tensor:
        return (self._scale * torch.sigmoid(-log_snr / 2)).clamp(self.t_min, self.t_max)

    def _alpha_sigma(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return straight(log_snr)

    def time_at(self, fraction: Time) -> Time:
        u = self._nominal(self.t_max) * fraction
        return self._scale * self._shift * u / (1.0 + (self._shift - 1.0) * u)

    def fraction_at(self, t: float) -> float:
        return self._nominal(t) / self._nominal(self.t_max)

    @property
    def spacing_shift(self) -> float:
        return self._shift

    def _nominal(self, t: float) -> float:
        """u of a time: the inverse of the shift."""
        return t / (self._scale * self._shift - (self._shift - 1.0) * t)

    def _time_of_sigma(self, sigma: float) -> float:
        return self._scale * sigma


def resolution_shift(
    tokens: int,
    *,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base: float = 0.5,
    maximum: float = 1.15,
    kind: str = "exponential",
) -> float:
    """The ``shift`` of :class:`FlowPath` for an image of this number of tokens: e^μ or μ, with μ linear in the number.

    FLUX.1 has 256 tokens at 256×256 and 4,096 at 1024×1024 (Esser et al. 2024, arXiv 2403.03206, §5.3.2;
    the constants are those of FLUX.1's published configuration).

    Args:
        tokens: length of the image's sequence: (height/16)·(width/16) for FLUX.1 and SD3.
        base_tokens, max_tokens: where μ is ``base`` and ``maximum``.
        base, maximum: the two values of μ.
        kind: "exponential" (FLUX.1), or "linear".

    Raises:
        ConfigurationError: no tokens, or an unknown kind.
    """
    if tokens < 1 or kind not in ("exponential", "linear"):
        raise ConfigurationError(
            f"got {tokens!r} tokens and kind {kind!r}",
            where="resolution_shift",
            suggestion="give a number ≥ 1, and 'exponential' or 'linear'",
        )
    mu = base + (maximum - base) * (tokens - base_tokens) / (max_tokens - base_tokens)
    return math.exp(mu) if kind == "exponential" else mu


def flux2_shift(tokens: int, steps: int) -> float:
    """The ``shift`` of :class:`FlowPath` for FLUX.2: e^μ, with μ fitted to the number of tokens and of steps.

    μ is linear in the tokens for 10 and for 200 steps, linear in the steps between, and for more than 4,300 tokens that
    of 200 steps (Black Forest Labs, the published code of FLUX.2; ``compute_empirical_mu`` of diffusers). The spacing
    "flux2" uses it.

    Args:
        tokens: length of the image's sequence: (height/16)·(width/16).
        steps: the number of steps of the run.

    Raises:
        ConfigurationError: a number below 1, or more tokens than 100,000, where μ is above 17.
    """
    if not (1 <= tokens <= FLUX2_TOKENS and steps >= 1):
        raise ConfigurationError(
            f"got {tokens!r} tokens and {steps!r} steps", where="flux2_shift",
            suggestion=f"give 1 to {FLUX2_TOKENS} tokens, and 1 step or more",
        )  # fmt: skip
    few, many = 8.73809524e-05 * tokens + 1.89833333, 0.00016927 * tokens + 0.45666666
    return math.exp(many if tokens > 4300 else few + (many - few) * (steps - 10) / 190)


SCHEDULES.alias("karras_ve", "k_diffusion", of="edm")
SCHEDULES.alias("ve_sde", "score_sde_ve", of="ve")
SCHEDULES.alias("vp_sde", "score_sde_vp", of="vp")
SCHEDULES.alias("sub-vp", "sub_vp_sde", of="sub_vp")
SCHEDULES.alias("v-diffusion", "trigonometric", of="v_diffusion")
SCHEDULES.alias("scm", "trig_flow", of="trigflow")
SCHEDULES.alias("stable_cascade", "continuous_cosine", of="wuerstchen")
SCHEDULES.alias("rectified_flow", "flow_match", "flow_matching", "flow_match_euler", of="flow")
