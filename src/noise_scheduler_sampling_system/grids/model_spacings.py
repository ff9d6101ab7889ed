"""The named spacings of single models and of user interfaces: FLUX.2, Ideogram 4, sCM, and RES4LYF of ComfyUI.

They are functions as those of :mod:`.spacings`. "Share" here is the noise's share σ/(α + σ) of a level, which is σ
itself on the straight path of flow matching.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ..config.options import Option
from ..config.registries import SPACINGS
from ..schedules.continuous import FLUX2_TOKENS, flux2_shift
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from .level_choice import levels_of_ratios, levels_of_shares, log_ratios, noise_share
from .spacings import Choice, LogSNR, beta

__all__: list[str] = []

#: The least share of a distribution that double precision divides into quantiles.
_LEAST = 1e-9
Array = npt.NDArray[np.float64]
Pivot = Annotated[float, Option(above=0.0, below=1.0)]
Slope = Annotated[float, Option(minimum=1e-3, maximum=1e3)]


@SPACINGS.register("flux2")
def flux2(
    path: NoisePath, steps: int, *, tokens: Annotated[int, Option(minimum=1, maximum=FLUX2_TOKENS)] = 4096
) -> Choice:
    """Even σ, shifted by what FLUX.2 measured for this number of tokens and of steps (:func:`flux2_shift`).

    It replaces the path's own ``shift``. diffusers: ``compute_empirical_mu``.

    Options:
        tokens: length of the image's sequence, (height/16)·(width/16): 4096 for 1024×1024.
    """
    shift = flux2_shift(tokens, steps)
    top = noise_share(path.level(path.t_max))
    even = top / (shift - (shift - 1.0) * top) * np.arange(steps, 0, -1) / steps
    return levels_of_shares(path, shift * even / (1.0 + (shift - 1.0) * even))


@SPACINGS.register("logit_normal")
def logit_normal(
    path: NoisePath, steps: int, *, mu: Annotated[float, Option(minimum=-20.0, maximum=20.0)] = 0.0,
    std: Annotated[float, Option(minimum=0.01, maximum=20.0)] = 1.0, log_snr_min: LogSNR = None,
    log_snr_max: LogSNR = None,
) -> Choice:  # fmt: skip
    """log σ/α at evenly spaced quantiles of a normal distribution, so that σ is logit-normal on the straight path.

    Ideogram 4 has ``std`` = 1.5 and ``mu`` = ½·log(pixels/512²), between log SNR −18 and 15. The distribution is cut to
    the range.

    Options:
        mu, std: mean and standard deviation of log σ/α: a larger mean puts more levels near the noise.
        log_snr_min, log_snr_max: log SNR of the noisiest and of the cleanest level; default: the ends of the path.
    """
    top, bottom = log_ratios(path)
    top = top if log_snr_min is None else min(top, -log_snr_min / 2.0)
    bottom = bottom if log_snr_max is None else max(bottom, -log_snr_max / 2.0)
    law = NormalDist(mu, std)
    low, high = law.cdf(bottom), law.cdf(top)
    if not high - low > _LEAST:
        raise ConfigurationError(
            f"the normal distribution of mean {mu:g} and standard deviation {std:g} has no share between the levels' "
            f"ends, log σ/α from {top:.4g} to {bottom:.4g}",
            where="spacing_options.mu",
            suggestion="give a mean between them, or a larger std; log_snr_min is below log_snr_max",
        )
    places = low + (high - low) * np.arange(steps - 1, 0, -1) / steps
    ratios = np.exp([top, *(law.inv_cdf(p) for p in places)])
    return levels_of_ratios(path, ratios, from_top=log_snr_min is None)


@SPACINGS.register("scm")
def scm(path: NoisePath, steps: int, *, middle: Annotated[float, Option(above=0.0, below=1.5707963)] = 1.3) -> Choice:
    """The angle arctan(σ/α) even from the noisiest level to 0; in a run of two steps, the second begins at ``middle``.

    This is the grid of diffusers' SCMScheduler and of SANA-Sprint (Chen et al. 2025, arXiv 2503.09641).

    Options:
        middle: the angle in radians. Where the run begins below it, half of the first angle replaces it.
    """
    first, lowest = (math.atan(path.level(t).noise_to_signal) for t in (path.t_max, path.t_min))
    angles = np.linspace(first, max(first / steps, lowest), steps)
    if steps == 2 and lowest < middle < first:
        angles[1] = middle
    return levels_of_ratios(path, np.tan(angles))


@SPACINGS.register("beta57")
def beta57(path: NoisePath, steps: int) -> Choice:
    """Quantiles of the Beta distribution with a = 0.5 and b = 0.7 over time: "beta" with these options (RES4LYF)."""
    return beta(path, steps, a=0.5, b=0.7)


@SPACINGS.register("bong_tangent")
def bong_tangent(
    path: NoisePath, steps: int, *, pivot_1: Pivot = 0.6, pivot_2: Pivot = 0.6, slope_1: Slope = 0.2,
    slope_2: Slope = 0.2, middle: Annotated[float, Option(above=0.0, below=1.0)] = 0.5,
) -> Choice:  # fmt: skip
    """The noise's share falls along two arcs of arctan that meet at ``middle``: slowly at both ends (RES4LYF).

    The options have RES4LYF's names and meaning. The shares are scaled to begin at the noisiest level.

    Options:
        pivot_1, pivot_2: where each arc is steepest, as a share of the steps; the arcs meet midway between them.
        slope_1, slope_2: how steep they are.
        middle: the noise's share where they meet.
    """
    total = steps + 2
    meet, scale = max(int(total * (pivot_1 + pivot_2) / 2), 1), 40.0 / total
    first = _arc(meet, slope_1 * scale, int(total * pivot_1), 1.0, middle)
    second = _arc(total - meet, slope_2 * scale, int(total * pivot_2) - meet, middle, 0.0)
    curve = np.concatenate([first[:-1], second])[:steps]
    curve[0] = 1.0  # of one step, RES4LYF has only the second arc
    return levels_of_shares(path, noise_share(path.level(path.t_max)) * curve)


def _arc(count: int, slope: float, pivot: int, start: float, end: float) -> Array:
    """``count`` values of −arctan(slope·(i − pivot)), scaled to begin and end at these numbers."""
    values = -np.arctan(slope * (np.arange(count) - pivot))
    width = values[0] - values[-1] if count > 1 else 1.0
    arc: Array = end + (start - end) * (values - values[-1]) / width
    return arc
