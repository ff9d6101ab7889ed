"""Guidance by a differentiable energy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from ..support.errors import ConfigurationError
from .base import Guidance
from .formula import Formula
from .scales import Moment, Scale, checked_scale, scale_at

__all__ = ["Energy"]

#: (sample, moment) ↦ one energy for each sample, or their sum; or the gradient, of the sample's shape.
EnergyFunction = Callable[[Tensor, Moment], Tensor]


@final
@dataclass(frozen=True, eq=False)
class Energy(Guidance):
    """ε + σ·s·∇ₓE: samples of p(x)·exp(−s·E) instead of p(x).

    If E is −log p(y | x) of a classifier on noisy samples, this is classifier guidance (Dhariwal & Nichol 2021, arXiv
    2105.05233, Alg. 2). If E is a function of the predicted clean sample, it is the guidance of DPS (Chung et al. 2022,
    arXiv 2209.14687) and of universal guidance (Bansal et al. 2023, arXiv 2302.07121). It does not need a condition or
    another evaluation; through the model it needs the model's backward pass. Where x has no signal (α = 0) it does
    nothing.

    Args:
        energy: E(sample, moment): one number for each sample, or their sum, differentiable.
        scale: s, as for :class:`ClassifierFree`.
        gradient: instead of ``energy``: ∇E(sample, moment), of the sample's shape.
        of: the argument of E: "sample", the clean sample predicted with the guidance before this one, or "x", the
            noisy state.
        through_model: for "sample": True (the default) differentiates the prediction by x, through the model. False
            keeps the predicted ε constant, so that ∂x₀/∂x = 1/α.

    Raises:
        ConfigurationError: none or both of ``energy`` and ``gradient``, or options that exclude each other.
    """

    energy: EnergyFunction | None = None
    scale: Scale = 1.0
    gradient: EnergyFunction | None = None
    of: str = "sample"
    through_model: bool | None = None

    def __post_init__(self) -> None:
        if (self.energy is None) == (self.gradient is None):
            raise ConfigurationError(
                "none or both of energy and gradient are given", where="Energy", suggestion="give one of the two"
            )
        try:
            inspect.signature(self._function).bind(None, None)
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"got {self._function!r}",
                where="Energy.energy" if self.gradient is None else "Energy.gradient",
                suggestion="give a function of (sample, moment)",
            ) from None
        object.__setattr__(self, "scale", checked_scale(self.scale, "Energy.scale"))
        if self.of not in ("sample", "x"):
            raise ConfigurationError(f"got {self.of!r}", where="Energy.of", suggestion="give 'sample' or 'x'")
        if self.through_model not in (None, True, False) or (self.of == "x" and self.through_model):
            raise ConfigurationError(
                f"got {self.through_model!r}",
                where="Energy.through_model",
                why="an energy of x does not depend on the model" if self.of == "x" else "",
                suggestion="give True or False, and leave it out with of='x'",
            )

    @property
    def _function(self) -> EnergyFunction:
        function = self.energy or self.gradient
        assert function is not None
        return function

    def write(self, formula: Formula) -> None:
        level = formula.moment.level
        scale = scale_at(self.scale, formula.moment, "Energy.scale") * level.sigma
        if level.alpha == 0.0 or scale == 0.0:
            formula.keep()
            return
        slope = partial(self._slope, moment=formula.moment)
        if self.of == "x":
            gradient = formula.make(slope, formula.x)
        elif self.through_model is False:
            gradient = formula.make(slope, formula.to("sample", formula.value)) / level.alpha
        else:
            through = partial(self._through_model, moment=formula.moment)
            gradient = formula.make(through, formula.x, formula.to("sample", formula.value), tracks=True)
        formula.value = formula.value + formula.change("epsilon", scale * gradient)

    def _slope(self, sample: Tensor, moment: Moment) -> Tensor:
        """∇E at a sample."""
        if self.gradient is not None:
            return self._checked(self.gradient(sample, moment), sample)
        create_graph = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            if sample.is_inference():
                sample = sample.clone()
            if not (create_graph and sample.requires_grad):
                sample = sample.detach().requires_grad_()
            return torch.autograd.grad(self._total(sample, moment), sample, create_graph=create_graph)[0]

    def _through_model(self, x: Tensor, clean: Tensor, *, moment: Moment, create_graph: bool) -> Tensor:
        """∇ₓE of the predicted clean sample."""
        if self.gradient is not None:
            value, outer = clean, self._checked(self.gradient(clean, moment), clean)
        else:
            value, outer = self._total(clean, moment), None
        return torch.autograd.grad(value, x, outer, create_graph=create_graph, retain_graph=True)[0]

    def _total(self, sample: Tensor, moment: Moment) -> Tensor:
        """The sum of the batch's energies."""
        assert self.energy is not None
        energy = self.energy(sample, moment)
        if not isinstance(energy, Tensor) or energy.shape not in ((), sample.shape[:1]) or not energy.requires_grad:
            raise ConfigurationError(
                f"the energy is {_described(energy)}",
                where="Energy.energy",
                suggestion=f"return a tensor of shape ({sample.shape[0]},) that depends differentiably on the sample",
            )
        return energy.sum()

    def _checked(self, gradient: Tensor, sample: Tensor) -> Tensor:
        if not isinstance(gradient, Tensor) or gradient.shape != sample.shape:
            raise ConfigurationError(
                f"the gradient is {_described(gradient)}",
                where="Energy.gradient",
                suggestion=f"return a tensor of the sample's shape, {tuple(sample.shape)}",
            )
        return gradient


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"a tensor of shape {tuple(value.shape)}{'' if value.requires_grad else ' without a gradient'}"
