"""Whether training reaches the level that a sampler starts from: the terminal SNR of a path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from ..config.prediction import prediction_named
from ..config.registries import WEIGHTINGS
from ..schedules.path import NoisePath
from .choice import chosen
from .noise_axis import checked_path
from .weightings import Weighting, loss_weight

__all__ = ["TerminalSNR", "check_terminal_snr"]

#: Weights below this are 0: limits are taken at a finite log SNR.
_NOTHING = 1e-30
#: A spacing that never visits the last timestep.
_SKIPPING = ("leading", "leading_dpm")


@final
@dataclass(frozen=True)
class TerminalSNR:
    """What :func:`check_terminal_snr` found.

    Attributes:
        snr: α²/σ² at the noisiest time.
        signal: α/√(α² + σ²) there: the part of a constant image that training leaves in "pure noise". A sampler that
            starts from noise lacks it, which shows as images of middling brightness.
        weight: of the loss there.
        problems: what does not fit together, one sentence each; empty if all does.
    """

    snr: float
    signal: float
    weight: float
    problems: tuple[str, ...]

    def __str__(self) -> str:
        head = f"terminal SNR {self.snr:.3g}, signal left {self.signal:.3g}, weight of the loss there {self.weight:.3g}"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])


def check_terminal_snr(
    path: NoisePath, prediction_type: str | None = None, weighting: Weighting | str | Mapping[str, Any] | None = None
) -> TerminalSNR:
    """Check the noisiest level of a path against what a network predicts and how it is trained (Lin et al. 2023,
    arXiv 2305.08891).

    Args:
        path: the forward process.
        prediction_type: of the network; None: that of the path's config.
        weighting: of the loss, as for an objective; None: weight 1.

    Raises:
        ConfigurationError: not a path, or an unknown name.
    """
    path = checked_path(path)
    kind = prediction_named(path.config.prediction_type if prediction_type is None else prediction_type)
    weighting = None if weighting is None else chosen(WEIGHTINGS, Weighting, weighting, "weighting")
    level = path.level(path.t_max)
    log_snr = torch.tensor(2.0 * level.half_log_snr, dtype=torch.float64)
    alpha, sigma = (torch.tensor(value, dtype=torch.float64) for value in (level.alpha, level.sigma))
    weight = float(loss_weight(weighting, kind, alpha, sigma, log_snr))
    weight = 0.0 if weight < _NOTHING else weight
    signal = level.alpha / math.hypot(level.alpha, level.sigma)
    problems: list[str] = []
    if signal > 0.01:
        problems.append(
            f"a sampler starts from noise alone, and training leaves {signal:.1%} of the signal: "
            "set rescale_betas_zero_snr=True, or use a path that ends without signal"
        )
    if level.alpha == 0.0 and kind == "epsilon":
        problems.append("ε does not determine x₀ without signal: train v_prediction or sample")
    if level.alpha == 0.0 and weight == 0.0 and path.discrete:
        problems.append("the weight is 0 at the last timestep, so it is not trained: choose 'snr_plus_one' or none")
    if level.alpha == 0.0 and path.config.timestep_spacing in _SKIPPING:
        problems.append(f"the spacing {path.config.timestep_spacing!r} never visits the last timestep: use 'trailing'")
    return TerminalSNR(_snr(level), signal, weight, tuple(problems))


def _snr(level: Any) -> float:
    return math.inf if level.sigma == 0.0 else float((level.alpha / level.sigma) ** 2)
