"""Figures of training objectives: where they draw levels, and what their losses weigh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from ..training.objective import TrainingObjective
from ..training.weightings import log_gain
from .style import COLORS, named, new_axes

__all__ = ["plot_training"]

#: log SNR from noise to data, where paths go so far.
_SPAN, _POINTS = 10.0, 801
#: The least value on the right.
_LEAST = 1e-4


def plot_training(
    objectives: TrainingObjective | Sequence[TrainingObjective] | Mapping[str, TrainingObjective],
) -> Any:
    """Where training objectives draw levels (left), and what their losses weigh (right), per log SNR from −10 to 10.

    What a loss weighs is density times weight, in terms of the error of ε: the w of Kingma & Gao 2023
    (arXiv 2303.00848). Each curve on the right has the area 1, so that objectives of other predictions and paths can be
    compared.

    Args:
        objectives: one, several, or a mapping from names.

    Raises:
        ConfigurationError: matplotlib is not installed, or not training objectives.
    """
    figure, (left, right) = new_axes(9.0, 3.6, 2)
    items = named(objectives, TrainingObjective, "objectives")
    for color, (name, objective) in zip(cycle(COLORS), items.items(), strict=False):
        if name.startswith(f"{type(objective).__name__}("):  # without a name of its own
            name = f"{objective.path!r}: {type(objective.levels.density).__name__}"
        log_snr, density, weighed = _curves(objective)
        left.plot(log_snr, density, color=color, label=name)
        right.plot(log_snr, weighed, color=color)
    for axes, title in ((left, "density of the draws"), (right, "density times weight, in terms of ε")):
        axes.set(xlabel="log SNR: noise on the left, data on the right", title=title)
    left.set_ylim(bottom=0.0)
    right.set_yscale("log")
    right.set_ylim(bottom=_LEAST)
    left.legend(fontsize=8, frameon=False)
    return figure


def _curves(objective: TrainingObjective) -> tuple[Any, Any, Any]:
    """log SNR, the density of the draws, and density times weight of the error of ε, of area 1; each has the
    shape (points,)."""
    levels, path = objective.levels, objective.path
    high, low = (-2.0 * levels.axis.ends.clamp(-_SPAN / 2.0, _SPAN / 2.0)).tolist()
    inside = 1e-6 * (high - low)
    log_snr: Tensor = torch.linspace(low + inside, high - inside, _POINTS, dtype=torch.float64)
    density = levels.log_density_of_log_snr(log_snr).exp()
    t = path.time(log_snr)
    alpha, sigma = path.alpha_and_sigma(t)
    gain = log_gain(path.config.prediction_type, alpha, sigma, log_snr)
    weighed = density * objective.weight(t) * (gain - log_snr).exp()
    weighed = weighed / torch.trapezoid(weighed, log_snr)
    return log_snr.numpy(), density.numpy(), weighed.numpy()
