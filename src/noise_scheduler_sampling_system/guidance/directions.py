"""Guidance that adds a direction to the prediction, from one branch of the model to another.

c is the conditional and u the unconditional prediction. Each guidance adds its term to the value so far, which is c at
the start, so several of them can act in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from ..plans.linear_form import Form
from ..running.model_adapter import ModelAdapter
from ..running.stated_prediction import refuse_other_prediction, stated_prediction
from ..support.argument_checks import checked_number
from ..support.errors import ConfigurationError
from .base import Guidance, checked_quantity, per_sample
from .formula import Formula
from .parts import checked_terms, dot, projection, square, towards
from .scales import Scale, checked_scale, scale_at

__all__ = ["AdaptiveProjected", "AutoGuidance", "CFGZeroStar", "ClassifierFree", "Composed"]


@final
@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """u + s·(c − u) (Ho & Salimans 2022, arXiv 2207.12598, eq. 6, with s = 1 + w).

    The formula is the same for every prediction type, because each type is affine in the others with weights that add
    up to one. Two evaluations; one where s is 1 or 0.

    Args:
        scale: s; a number, a function of the :class:`Moment`, or ("linear", "cosine" or "exponential",
            start, end) from the first step to the last. Below 1 it interpolates, as CFG++ does.

    Raises:
        ConfigurationError: the scale is not one of these.
    """

    scale: Scale
    contrasts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", checked_scale(self.scale, "ClassifierFree.scale"))

    @property
    def uniform(self) -> bool:
        return isinstance(self.scale, float)

    def write(self, formula: Formula) -> None:
        scale = scale_at(self.scale, formula.moment, "ClassifierFree.scale")
        formula.value = towards(formula, formula.conditional, formula.unconditional, scale)


@final
@dataclass(frozen=True)
class CFGZeroStar(Guidance):
    """s*·u + s·(c − s*·u) with s* = ⟨c, u⟩/‖u‖² for each sample (Fan et al. 2025, arXiv 2503.18886, Alg. 1).

    The formula is for velocities. It is not affine, so it differs for other prediction types. Two evaluations; none in
    the steps of the zero-init.

    Args:
        scale: s, as for :class:`ClassifierFree`.
        zero_steps: the number of first steps in which the velocity is 0 (zero-init; in the paper the first 4 % of
            the steps).
        of: the velocity: "flow_prediction", ε − x₀, or another prediction type.

    Raises:
        ConfigurationError: options out of range.
    """

    scale: Scale
    zero_steps: int = 0
    of: str = "flow_prediction"
    contrasts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", checked_scale(self.scale, "CFGZeroStar.scale"))
        if isinstance(self.zero_steps, bool) or not isinstance(self.zero_steps, int) or self.zero_steps < 0:
            raise ConfigurationError(
                f"got {self.zero_steps!r}", where="CFGZeroStar.zero_steps", suggestion="give a whole number ≥ 0"
            )
        object.__setattr__(self, "of", checked_quantity(self.of, "CFGZeroStar.of"))

    def write(self, formula: Formula) -> None:
        if formula.moment.step < self.zero_steps:
            formula.value = formula.of(self.of, Form({}))
            return
        scale = scale_at(self.scale, formula.moment, "CFGZeroStar.scale")
        c, u = (formula.to(self.of, branch) for branch in (formula.conditional, formula.unconditional))
        optimal = formula.of(self.of, formula.make(projection, u, c))
        formula.value = towards(formula, formula.conditional, optimal, scale)


@final
@dataclass(frozen=True)
class AdaptiveProjected(Guidance):
    """Adaptive projected guidance, APG (Sadat et al. 2024, arXiv 2410.02416, Alg. 1).

    D is the predicted clean sample. Δ = D(c) − D(u) + β·(the last Δ). Where Δ is longer than r, it is scaled down to
    the norm r. Its part parallel to D(c), which saturates images, is scaled by η. The result is D(c) + (s − 1)·Δ. With
    η = 1, r = ∞ and β = 0 this is classifier-free guidance. Two evaluations.

    The last Δ is that of the last model call of the same run and the same sample.

    Args:
        scale: s, as for :class:`ClassifierFree`.
        eta: η, the share of the parallel part that stays; the paper's choice is 0.
        norm_threshold: r, in units of the data; a good r grows with the root of the number of dimensions.
            The paper uses 2.5 for EDM2 and 15 for Stable Diffusion XL.
        momentum: β, in (−1, 1); the paper's is −0.5 or −0.75.

    Raises:
        ConfigurationError: options out of range.
    """

    scale: Scale
    eta: float = 0.0
    norm_threshold: float = math.inf
    momentum: float = -0.5
    contrasts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", checked_scale(self.scale, "AdaptiveProjected.scale"))
        checked_number(self.eta, "AdaptiveProjected.eta")
        if not checked_number(self.norm_threshold, "AdaptiveProjected.norm_threshold", 0.0, finite=False) > 0.0:
            raise ConfigurationError(
                "a norm of 0 turns the guidance off",
                where="AdaptiveProjected.norm_threshold",
                suggestion="give a number > 0",
            )
        if abs(checked_number(self.momentum, "AdaptiveProjected.momentum", -1.0, 1.0)) == 1.0:
            raise ConfigurationError(
                "the sum over past steps would not converge",
                where="AdaptiveProjected.momentum",
                suggestion="give a number between −1 and 1",
            )

    def write(self, formula: Formula) -> None:
        scale = scale_at(self.scale, formula.moment, "AdaptiveProjected.scale")
        c, u = (formula.to("sample", branch) for branch in (formula.conditional, formula.unconditional))
        delta = c - u
        if self.momentum:
            delta = formula.make(partial(_with_past, self.momentum), delta, memory="momentum")
        if self.eta != 1.0 or self.norm_threshold < math.inf:
            delta = formula.make(partial(_projected, self.eta, self.norm_threshold), delta, c)
        formula.value = formula.value + (scale - 1.0) * formula.change("sample", delta)


def _with_past(momentum: float, past: Tensor | None, delta: Tensor) -> tuple[Tensor, Tensor]:
    total = delta if past is None else torch.add(delta, past, alpha=momentum)
    return total, total


def _projected(eta: float, norm_threshold: float, delta: Tensor, clean: Tensor) -> Tensor:
    """Δ, no longer than the threshold, with its part along the clean sample scaled by η."""
    factor = (norm_threshold / square(delta).sqrt()).clamp_max(1.0)
    if eta == 1.0:
        return delta * per_sample(factor, delta)
    parallel = factor * dot(delta, clean) / square(clean)
    return (delta * per_sample(factor, delta)).addcmul_(clean, per_sample((eta - 1.0) * parallel, clean))


@final
@dataclass(frozen=True, eq=False)
class AutoGuidance(Guidance):
    """w + s·(c − w) with w a weaker model's prediction, same condition (Karras et al. 2024, arXiv 2406.02507, eq. 3).

    One evaluation of each model. It does not need a condition.

    Args:
        weaker: a model with less capacity or training: any callable (x, t, **condition).
        scale: s, as for :class:`ClassifierFree`.
        prediction_type: the type of the weaker model's output; None: the type that it states itself, else that of the
            run's model.

    Raises:
        ConfigurationError: ``weaker`` is not a model, the scale is not a scale, or the model states another
            prediction type.
    """

    weaker: Callable[..., Any]
    scale: Scale
    prediction_type: str | None = None

    def __post_init__(self) -> None:
        ModelAdapter(self.weaker)
        stated = stated_prediction(self.weaker)
        object.__setattr__(self, "scale", checked_scale(self.scale, "AutoGuidance.scale"))
        if self.prediction_type is not None:
            kind = checked_quantity(self.prediction_type, "AutoGuidance.prediction_type")
            object.__setattr__(self, "prediction_type", kind)
            refuse_other_prediction(self.weaker, kind, by="the guidance", where="AutoGuidance.prediction_type")
        elif stated is not None:
            object.__setattr__(self, "prediction_type", stated.prediction_type)

    def write(self, formula: Formula) -> None:
        scale = scale_at(self.scale, formula.moment, "AutoGuidance.scale")
        weaker = formula.branch(model=self.weaker, prediction_type=self.prediction_type)
        formula.value = towards(formula, formula.conditional, weaker, scale)


@final
@dataclass(frozen=True, eq=False)
class Composed(Guidance):
    """Further weighted conditions: adds Σᵢ wᵢ·(cᵢ − u) (Liu et al. 2022, arXiv 2206.01714, eq. 11).

    After ``ClassifierFree(s)`` this is u + s·(c − u) + Σᵢ wᵢ·(cᵢ − u); a negative weight steers away from cᵢ. In a run
    without a ``condition`` it is u + Σᵢ wᵢ·(cᵢ − u). One evaluation for each condition whose weight is not 0, and one
    for u.

    Args:
        terms: (condition, weight) pairs: keywords for the model as in ``condition``, and a scale.

    Raises:
        ConfigurationError: ``terms`` is not a list of such pairs, or is empty.
    """

    terms: Sequence[tuple[Mapping[str, Any], Scale]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", checked_terms(self.terms, "Composed"))

    @property
    def conditions(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(condition for condition, _ in self.terms)

    def write(self, formula: Formula) -> None:
        for i, (condition, weight) in enumerate(self.terms):
            scale = scale_at(weight, formula.moment, f"Composed.terms[{i}]")
            formula.value = formula.value + scale * (formula.branch(condition) - formula.unconditional)
