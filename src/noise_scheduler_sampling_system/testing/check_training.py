"""Densities and weightings of training held against what an objective takes for granted of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ..config.prediction import PREDICTION_TYPES
from ..config.registries import DENSITIES, WEIGHTINGS
from ..schedules.continuous import EDMPath, FlowPath, VPPath
from ..schedules.factory import NoiseSchedulerFactory
from ..schedules.path import NoisePath
from ..support.errors import ConfigurationError
from ..training.choice import chosen
from ..training.density import Density, DensityOnPath
from ..training.objective import TrainingObjective
from ..training.weightings import Weighting
from .copies import check_copies

__all__ = ["DensityReport", "WeightingReport", "check_density", "check_weighting"]

#: The inverse of a distribution function, and its slope by central differences of this width.
_INVERSE, _WIDTH, _SLOPE = 1e-8, 1e-6, 1e-4


@final
@dataclass(frozen=True)
class DensityReport:
    """What :func:`check_density` found.

    Attributes:
        density: ``repr`` of it.
        paths: the number of paths that it was measured on.
        inverse: the largest error of the inverse distribution function.
        slope: the largest error of the log-density against the slope of that inverse.
    """

    density: str
    paths: int
    inverse: float
    slope: float

    def __str__(self) -> str:
        errors = f"inverse to {self.inverse:.1e}, log-density to {self.slope:.1e}"
        return f"{self.density}: {errors}, on {self.paths} paths"


@final
@dataclass(frozen=True)
class WeightingReport:
    """What :func:`check_weighting` found.

    Attributes:
        weighting: ``repr`` of it.
        least, largest: weights of the squared error of x̂₀ at log SNRs from −20 to 20.
    """

    weighting: str
    least: float
    largest: float

    def __str__(self) -> str:
        return f"{self.weighting}: weights of x₀ from {self.least:.3g} to {self.largest:.3g}"


def check_density(
    density: Density | str | Mapping[str, Any], paths: Sequence[NoisePath] | None = None
) -> DensityReport:
    """Hold a density against itself on each path: its three functions describe one distribution.

    Checked are: the inverse inverts; the log-density is the logarithm of the slope; the probabilities of whole
    timesteps sum to 1; a copy and a pickle act the same.

    Args:
        density: an object, or what an objective takes.
        paths: noise schedules; default: "vp", "flow", "edm" and "cosine".

    Raises:
        ConfigurationError: what does not hold, with the numbers.
    """
    made: Density = chosen(DENSITIES, Density, density, "density")
    name = type(made).__name__
    check_copies(name, made)
    used = [VPPath(), FlowPath(), EDMPath(), NoiseSchedulerFactory.create("cosine")] if paths is None else list(paths)
    inverse = slope = 0.0
    for path in used:
        levels = made.on(path)
        if path.discrete:
            total = float(levels.probabilities.sum())
            if not abs(total - 1.0) < _INVERSE:
                raise _fails(name, f"the timesteps of {path!r} have the probability {total:.9g}", "mend _cdf")
        here = _errors(levels)
        if not here[0] < _INVERSE:
            raise _fails(name, f"_quantile does not invert _cdf on {path!r}, by {here[0]:.2g}", "mend one of them")
        if not here[1] < _SLOPE:
            raise _fails(name, f"_log_density is not the slope of _cdf on {path!r}, by {here[1]:.2g}", "mend it")
        inverse, slope = max(inverse, here[0]), max(slope, here[1])
    return DensityReport(repr(made), len(used), inverse, slope)


def _errors(levels: DensityOnPath) -> tuple[float, float]:
    """The errors of the inverse, and of the log-density against the slope where that is smooth."""
    axis, density = levels.axis, levels.density
    u = torch.linspace(0.013, 0.987, 75, dtype=torch.float64)
    quantile = functools.partial(density.quantile, axis=axis)
    y = quantile(u)
    inverse = float((density.cdf(y, axis) - u).abs().max())
    sides = [(quantile(u + k * _WIDTH) - y).abs() / _WIDTH for k in (-1, 1)]
    smooth = (sides[0] / sides[1]).log().abs() < 1e-3  # not across an edge of a piecewise density
    if not bool(smooth.any()):
        return inverse, math.inf
    measured: Tensor = -((sides[0] + sides[1]) / 2.0).log()
    return inverse, float((density.log_density(y, axis) - measured)[smooth].abs().max())


def check_weighting(weighting: Weighting | str | Mapping[str, Any]) -> WeightingReport:
    """Check that a weighting is one finite loss: its weights are finite and not negative for every prediction type at
    every log SNR, also without signal and without noise, and depend on each level alone.

    Args:
        weighting: an object, or what an objective takes.

    Raises:
        ConfigurationError: what does not hold, with the numbers.
    """
    made: Weighting = chosen(WEIGHTINGS, Weighting, weighting, "weighting")
    name = type(made).__name__
    check_copies(name, made)
    log_snr = torch.linspace(-20.0, 20.0, 161, dtype=torch.float64)
    weights = made.log_weight(log_snr).exp()
    if weights.shape != log_snr.shape or weights.dtype != torch.float64 or not bool(torch.isfinite(weights).all()):
        raise _fails(name, "log_weight is not finite float64 of the shape of the log SNRs", "mend log_weight")
    alone = torch.stack([made.log_weight(each[None])[0] for each in log_snr[::20]]).exp()
    if not np.allclose(alone, weights[::20]):
        raise _fails(name, "the weight of a level depends on the other levels of the batch", "mend log_weight")
    zero = NoiseSchedulerFactory.create("scaled_linear", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    for path, last in ((VPPath(), 1.0), (FlowPath(), 1000.0), (zero, 999.0)):
        for kind in PREDICTION_TYPES:
            if kind == "epsilon" and path is zero:
                continue
            found = TrainingObjective(path, kind, weighting=made).weight(torch.tensor([path.t_min, last]))
            if not bool(torch.isfinite(found).all() & (found >= 0.0).all()):
                raise _fails(name, f"its weights for {kind!r} on {path!r} are {found.tolist()}", "mend log_weight")
    return WeightingReport(repr(made), float(weights.min()), float(weights.max()))


def _fails(name: str, what: str, suggestion: str) -> ConfigurationError:
    return ConfigurationError(what, where=name, suggestion=suggestion)
