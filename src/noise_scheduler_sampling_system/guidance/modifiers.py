"""Guidance that changes the result of the guidance before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from ..running.clipping import dynamic_threshold
from ..support.argument_checks import checked_number
from ..support.errors import ConfigurationError
from ..support.registry import did_you_mean
from .base import Guidance, checked_quantity, per_sample
from .formula import Formula
from .scales import Moment

__all__ = ["DynamicThreshold", "Interval", "Rescale"]

_UNITS: Mapping[str, Callable[[Moment], float]] = {
    "sigma": lambda moment: moment.sigma,
    "flow_sigma": lambda moment: moment.flow_sigma,
    "step": lambda moment: moment.step,
    "fraction": lambda moment: moment.fraction,
}


@final
@dataclass(frozen=True)
class Interval(Guidance):
    """The guidance before it acts from low to high only (Kynkäänniemi et al. 2024, arXiv 2404.07724, eq. 6).

    Outside the interval the prediction is the conditional one, and no other branch is evaluated.

    Args:
        low, high: the ends of the interval; both belong to it.
        unit: the unit of the ends: "sigma" is σ/α on every path; "flow_sigma" is σ/(α + σ), from 0 to 1; "step" is the
            index of the step, from 0; "fraction" is 0 in the first step and 1 in the last.

    Raises:
        ConfigurationError: an empty interval, or an unknown unit.
    """

    low: float
    high: float
    unit: str = "sigma"
    follows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.unit not in _UNITS:
            raise ConfigurationError(
                f"got {self.unit!r}", where="Interval.unit", suggestion=did_you_mean(str(self.unit), list(_UNITS))
            )
        checked_number(self.low, "Interval.low", finite=False)
        checked_number(self.high, "Interval.high", self.low, finite=False)

    def write(self, formula: Formula) -> None:
        if not self.low <= _UNITS[self.unit](formula.moment) <= self.high:
            formula.value = formula.conditional
        else:
            formula.keep()


@final
@dataclass(frozen=True)
class Rescale(Guidance):
    """The guided prediction, its standard deviation moved to the conditional one's (Lin et al. 2023, arXiv 2305.08891).

    §3.4, eqs. 15 and 16: φ·value·std(c)/std(value) + (1 − φ)·value, for each sample over all its entries. It needs the
    conditional prediction and no other evaluation.

    Args:
        phi: φ, in [0, 1]; 0 changes nothing. The paper's choice is 0.7.
        of: the quantity whose standard deviation is matched. The default is the clean sample, in which the excess is
            visible as over-exposure. "output" is the network's output, as in the paper, where that is v, and in
            diffusers. A prediction type is also allowed.

    Raises:
        ConfigurationError: φ outside [0, 1], or an unknown quantity.
    """

    phi: float
    of: str = "sample"
    follows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checked_number(self.phi, "Rescale.phi", 0.0, 1.0)
        object.__setattr__(self, "of", checked_quantity(self.of, "Rescale.of", "output"))

    def write(self, formula: Formula) -> None:
        if self.phi == 0.0 or formula.untouched:
            formula.keep()
            return
        quantity = formula.prediction_type if self.of == "output" else self.of
        value, reference = (formula.to(quantity, form) for form in (formula.value, formula.conditional))
        formula.value = formula.of(quantity, formula.make(partial(_rescaled, self.phi), value, reference))


def _rescaled(phi: float, value: Tensor, reference: Tensor) -> Tensor:
    wanted, actual = (tensor.flatten(1).std(dim=1) for tensor in (reference, value))
    ratio = wanted / actual.clamp_min(torch.finfo(actual.dtype).tiny)
    return value * per_sample(ratio * phi + (1.0 - phi), value)


@final
@dataclass(frozen=True)
class DynamicThreshold(Guidance):
    """clamp(x₀, −q, q)/q, q a quantile of the predicted clean sample's |x₀| (Saharia et al. 2022, §2.3).

    From Imagen, arXiv 2205.11487. Unlike the config's ``thresholding`` it has a place among other guidance, and limits
    of its own. It does not need a condition or an evaluation.

    Args:
        ratio: the level of the quantile, in (0, 1]; the paper's is 0.995.
        smallest, largest: limits of q. With ``smallest`` ≥ 1, data in [−1, 1] stay unchanged.

    Raises:
        ConfigurationError: options out of range.
    """

    ratio: float = 0.995
    smallest: float = 1.0
    largest: float = math.inf

    def __post_init__(self) -> None:
        if not checked_number(self.ratio, "DynamicThreshold.ratio", 0.0, 1.0) > 0.0:
            raise ConfigurationError("got 0", where="DynamicThreshold.ratio", suggestion="give a number in (0, 1]")
        if not checked_number(self.smallest, "DynamicThreshold.smallest", 0.0) > 0.0:
            raise ConfigurationError("got 0", where="DynamicThreshold.smallest", suggestion="give a number > 0")
        checked_number(self.largest, "DynamicThreshold.largest", self.smallest, finite=False)

    def write(self, formula: Formula) -> None:
        limit = partial(dynamic_threshold, ratio=self.ratio, smallest=self.smallest, largest=self.largest)
        formula.value = formula.of("sample", formula.make(limit, formula.to("sample", formula.value)))
