"""Guidance that changes what the guidance before it did."""

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
    """What stands before it acts from low to high only (Kynkäänniemi et al. 2024, arXiv 2404.07724, eq. 6).

    Elsewhere the prediction is the conditional one, and nothing else is evaluated.

    Args:
        low, high: where the interval begins and ends; both ends belong to it.
        unit: in what they are counted: "sigma", which is σ/α on every path; "flow_sigma", which is
            σ/(α + σ), from 0 to 1; "step", from 0; or "fraction", of the steps, 0 in the first and 1
            in the last.

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
    """The guided prediction with a standard deviation nearer the conditional one's (Lin et al. 2023, arXiv 2305.08891).

    §3.4, eqs. 15 and 16: φ·value·std(c)/std(value) + (1 − φ)·value, for each sample over all its
    entries. No evaluation beyond the conditional one.

    Args:
        phi: φ, in [0, 1]; 0 changes nothing. The paper's choice is 0.7.
        of: the quantity whose standard deviation is matched. The paper leaves it to the network's
            output, which is v there: "output" does the same, and so does diffusers. The default is
            the clean sample, for which the excess is what one sees (over-exposure), whatever the
            network predicts. Or a prediction type.

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

    Of Imagen, arXiv 2205.11487. As the config's ``thresholding``, but at its place among other guidance,
    and with limits of its own. It needs no condition, and no evaluation.

    Args:
        ratio: which quantile, in (0, 1]; the paper's is 0.995.
        smallest, largest: limits of q; at the least 1, data in [−1, 1] are left as they are.

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
