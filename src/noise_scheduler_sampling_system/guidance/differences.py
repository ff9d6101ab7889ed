"""Guidance that changes the difference of two branches before it is scaled: by frequency, direction or length.

c is the conditional and u the unconditional prediction. Each guidance adds its term to the value so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional

from ..support.argument_checks import checked_number
from ..support.errors import ConfigurationError
from .base import Guidance, checked_quantity, per_sample
from .formula import Formula
from .parts import checked_terms, dot, projection, square, towards
from .scales import Scale, checked_scale, scale_at

__all__ = ["FrequencyDecoupled", "MagnitudeAware", "PerpNeg", "Tangential"]


@final
@dataclass(frozen=True)
class FrequencyDecoupled(Guidance):
    """Frequency-decoupled guidance, FDG: a scale for each of two bands (Sadat et al. 2025, arXiv 2506.19713).

    c + (low − 1)·L(c − u) + (high − 1)·(c − u − L(c − u)). L keeps the coarse level of a Laplacian pyramid: blurred,
    halved, doubled and blurred again. Equal scales are classifier-free guidance. The formula is the same for every
    prediction type. Two evaluations; one where both scales are 1.

    Args:
        low, high: the scales of low and of high frequencies, as for ``ClassifierFree``. The paper takes low < high.

    Raises:
        ConfigurationError: a scale is not one, or the samples are not images (B, C, H, W) of 3 × 3 pixels or more.
    """

    low: Scale
    high: Scale
    contrasts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, checked_scale(getattr(self, name), f"FrequencyDecoupled.{name}"))

    def refuse_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 4 or min(shape[2:]) < 3:
            raise ConfigurationError(
                f"samples of shape {shape} have no frequencies of images",
                where="FrequencyDecoupled",
                suggestion="use it for images (B, C, H, W) of 3 × 3 pixels or more, or ClassifierFree for others",
            )

    def write(self, formula: Formula) -> None:
        low = scale_at(self.low, formula.moment, "FrequencyDecoupled.low")
        high = scale_at(self.high, formula.moment, "FrequencyDecoupled.high")
        if low == high:
            formula.value = towards(formula, formula.conditional, formula.unconditional, high)
            return
        delta = formula.conditional - formula.unconditional
        formula.value = formula.value + (high - 1.0) * delta + (low - high) * formula.make(_coarse, delta)


def _coarse(image: Tensor) -> Tensor:
    """The coarse level of a Laplacian pyramid of images (B, C, H, W), at full size."""
    half = [-(-size // 2) for size in image.shape[2:]]
    small = functional.interpolate(_blurred(image), size=half, mode="bilinear", align_corners=False)
    return _blurred(functional.interpolate(small, size=image.shape[2:], mode="bilinear", align_corners=False))


def _blurred(image: Tensor) -> Tensor:
    taps = image.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
    channels = image.shape[1]
    kernel = torch.outer(taps, taps).expand(channels, 1, 5, 5)
    return functional.conv2d(functional.pad(image, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)


@final
@dataclass(frozen=True)
class Tangential(Guidance):
    """Tangential damping, TCFG: u' + s·(c − u'), u' = u along the main direction of c and u (Kwon et al. 2025).

    arXiv 2503.18137. The main direction is the first right singular vector of the rows c and u, for each sample. What
    u has across it, which is not shared with c, is dropped. Where c and u are parallel this is classifier-free
    guidance. Two evaluations; one where s is 1.

    Args:
        scale: s, as for ``ClassifierFree``.
        of: the quantity that the directions belong to. The default, ε − x₀, is that of flow models and exists at every
            level; the paper's is "epsilon", which does not determine a prediction at zero signal.

    Raises:
        ConfigurationError: the scale is not one, or an unknown quantity.
    """

    scale: Scale
    of: str = "flow_prediction"
    contrasts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", checked_scale(self.scale, "Tangential.scale"))
        object.__setattr__(self, "of", checked_quantity(self.of, "Tangential.of"))

    def write(self, formula: Formula) -> None:
        scale = scale_at(self.scale, formula.moment, "Tangential.scale")
        if scale == 1.0:
            formula.keep()
            return
        c, u = (formula.to(self.of, branch) for branch in (formula.conditional, formula.unconditional))
        shared = formula.of(self.of, formula.make(_along_main_direction, c, u))
        formula.value = towards(formula, formula.conditional, shared, scale)


def _along_main_direction(c: Tensor, u: Tensor) -> Tensor:
    """u, projected on the first right singular vector of the rows c and u: the main axis of their 2 × 2 Gram matrix."""
    angle = 0.5 * torch.atan2(2.0 * dot(c, u), square(c) - square(u))
    return projection(c * per_sample(angle.cos(), c) + u * per_sample(angle.sin(), u), u)


@final
@dataclass(frozen=True)
class MagnitudeAware(Guidance):
    """Magnitude-aware guidance, MAMBO-G: c + (s − 1)·e^(−κr)·(c − u), r = ‖c − u‖/‖u‖ (arXiv 2508.03442).

    Where the difference is long beside u, as in early steps, the scale is damped, for each sample. κ = 0 is
    classifier-free guidance. Two evaluations; one where s is 1.

    Args:
        scale: s, as for ``ClassifierFree``.
        damping: κ ≥ 0; 8 in the paper.
        of: the quantity whose norms are taken: the velocity ε − x₀, as in the paper, or another prediction type.

    Raises:
        ConfigurationError: options out of range.
    """

    scale: Scale
    damping: float = 8.0
    of: str = "flow_prediction"
    contrasts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", checked_scale(self.scale, "MagnitudeAware.scale"))
        checked_number(self.damping, "MagnitudeAware.damping", 0.0)
        object.__setattr__(self, "of", checked_quantity(self.of, "MagnitudeAware.of"))

    def write(self, formula: Formula) -> None:
        scale = scale_at(self.scale, formula.moment, "MagnitudeAware.scale")
        c, u = formula.conditional, formula.unconditional
        if self.damping == 0.0 or scale == 1.0:
            formula.value = towards(formula, c, u, scale)
            return
        c, u = formula.to(self.of, c), formula.to(self.of, u)
        damped = formula.make(partial(_damped, self.damping), c - u, u)
        formula.value = formula.value + (scale - 1.0) * formula.change(self.of, damped)


def _damped(damping: float, delta: Tensor, u: Tensor) -> Tensor:
    ratio = (square(delta) / square(u)).sqrt()
    return delta * per_sample(torch.exp(-damping * ratio), delta)


@final
@dataclass(frozen=True, eq=False)
class PerpNeg(Guidance):
    """Negative conditions that leave the positive one alone: adds −Σ wᵢ·(nᵢ − u)^⊥ (Armandpour et al. 2023).

    arXiv 2304.04968. nᵢ is the prediction under a negative condition, and ^⊥ the part of its difference that is
    perpendicular to c − u, for each sample. It stands beside ``ClassifierFree(s)``, and wᵢ is s times the paper's
    weight. A difference that is parallel to c − u is dropped. One that is perpendicular acts as in ``Composed`` with
    −wᵢ. The formula is the same for every prediction type. One evaluation for each condition whose weight is not 0,
    one for c and one for u.

    Args:
        terms: (condition, weight) pairs, as for ``Composed``, with positive weights for what the samples shall avoid.

    Raises:
        ConfigurationError: ``terms`` is not a list of such pairs, or is empty.
    """

    terms: Sequence[tuple[Mapping[str, Any], Scale]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", checked_terms(self.terms, "PerpNeg"))

    @property
    def conditions(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(condition for condition, _ in self.terms)

    def write(self, formula: Formula) -> None:
        formula.keep()
        for i, (condition, weight) in enumerate(self.terms):
            scale = scale_at(weight, formula.moment, f"PerpNeg.terms[{i}]")
            if scale:
                u = formula.unconditional
                rest = formula.make(_perpendicular, formula.branch(condition) - u, formula.conditional - u)
                formula.value = formula.value - scale * rest


def _perpendicular(negative: Tensor, positive: Tensor) -> Tensor:
    return negative - projection(positive, negative)
