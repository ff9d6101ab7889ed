"""The law of the data in coordinates: a = z + √v·n with n standard normal and z from a simple law.

With x = α·a + σ·ε, q² = α²v + σ², y = x/q and κ = α/q, the smoothing counts as noise:
y = κ·z + (standard normal). All that a diffusion model needs is then m(y, κ) = E[z | y], and
the probability-flow ODE is

    dy/dκ = m(y, κ),

smooth on a finite range: κ = 0 where there is no signal, κ = 1/√v at the clean end. (From
dx̄/ds = (x̄ − E[a | x])/s in x̄ = x/α, s = σ/α of Karras et al. 2022, arXiv 2206.00364, eq. 4,
with E[a | x] = (σ²m + αv·x)/q².)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from ..schedules.path import Level
from ..support.errors import ConfigurationError
from .constants import Constants
from .ode import integrate

__all__ = ["Mixture", "Point", "Prior"]

#: The most entries of the (batch, component) table at a time: 128 MiB of float64; on a CPU 8 MiB, which fit its caches.
_TABLE_LIMIT, _CACHED = 2**24, 2**20


class Prior(ABC):
    """The law of z, and the variance v of the smoothing.

    ``labels`` is a tensor (B,) of classes, or None for all classes. A value that is not a class also means all.
    """

    _constants: Constants

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that define it, on the CPU."""
        return self._constants.on(torch.device("cpu"))

    @abstractmethod
    def variance(self, device: torch.device) -> Tensor:
        """v, shape () or (d,)."""

    @abstractmethod
    def center(self, y: Tensor, kappa: Tensor | float, labels: Tensor | None) -> Tensor:
        """m = E[z | y], shape of y.

        Args:
            y: (B, d).
            kappa: κ, shape (B, 1), (1, 1), (B, d) or a number.
            labels: (B,) or None.
        """

    @abstractmethod
    def flow(self, x: Tensor, start: Level, end: Level, labels: Tensor | None) -> Tensor:
        """Follow the probability-flow ODE with coordinates (B, d) from one level to another."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        """``count`` independent z, shape (count, d) or (count, 1), on the CPU in float64."""

    def width(self, level: Level, device: torch.device) -> Tensor:
        """q = √(α²v + σ²), the standard deviation of x given z."""
        return (level.alpha**2 * self.variance(device) + level.sigma**2).sqrt()


@final
class Point(Prior):
    """A law with one value of z, so that the data is Gaussian.

    Args:
        center: z, shape (d,) or (1,).
        variance: v, shape (d,) or (); zeros are allowed.
    """

    def __init__(self, center: Tensor, variance: Tensor) -> None:
        self._constants = Constants(center, variance)

    def variance(self, device: torch.device) -> Tensor:
        return self._constants.on(device)[1]

    def center(self, y: Tensor, kappa: Tensor | float, labels: Tensor | None) -> Tensor:
        return self._constants.on(y.device)[0].expand_as(y)

    def flow(self, x: Tensor, start: Level, end: Level, labels: Tensor | None) -> Tensor:
        # y + m·(κ_end − κ_start), in a form that is defined for v = 0 and σ = 0
        center = self._constants.on(x.device)[0]
        shrink = self.width(end, x.device) / self.width(start, x.device)
        return shrink * (x - start.alpha * center) + end.alpha * center

    def draw(self, count: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        return self._constants.on(torch.device("cpu"))[0].expand(count, -1)


@final
class Mixture(Prior):
    """K isotropic Gaussians, or points.

    The smallest variance is the smoothing v. The excess of a component's variance over v belongs to z.

    Args:
        means: (K, d).
        variances: one, shape (), or one for each component, shape (K,).
        weights: (K,), with any sum; default equal.
        labels: (K,), the class of each component.
    """

    def __init__(
        self, means: Tensor, variances: Tensor, weights: Tensor | None = None, labels: Tensor | None = None
    ) -> None:
        count = means.shape[0]
        smallest = variances.min()
        self._alike = not bool((variances != smallest).any())
        excess = smallest.new_zeros(1) if self._alike else (variances - smallest).expand(count)
        weights = means.new_ones(count) if weights is None else weights
        self._labelled = labels is not None
        classes = torch.zeros(count, dtype=torch.int64, device="cpu") if labels is None else labels
        self._classes = int(classes.max()) + 1
        # side by side, so that one product gives the logits of center
        factors = torch.cat([means, means.square().sum(1, keepdim=True), weights.log()[:, None]], dim=1)
        self._constants = Constants(factors, excess, classes, smallest)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        factors, excess, classes, smallest = super().tensors
        return factors[:, :-2], excess, factors[:, -1], factors[:, -2], classes, smallest

    def variance(self, device: torch.device) -> Tensor:
        return self._constants.on(device)[3]

    def center(self, y: Tensor, kappa: Tensor | float, labels: Tensor | None) -> Tensor:
        limit = _CACHED if y.device.type == "cpu" else _TABLE_LIMIT
        rows = max(1, limit // self._constants.on(y.device)[0].shape[0])
        if y.shape[0] <= rows:
            return self._center(y, kappa, labels)
        each = torch.as_tensor(kappa, dtype=y.dtype, device=y.device).expand(y.shape[0], 1)
        pieces = [slice(first, first + rows) for first in range(0, y.shape[0], rows)]
        return torch.cat([self._center(y[p], each[p], None if labels is None else labels[p]) for p in pieces])

    def _center(self, y: Tensor, kappa: Tensor | float, labels: Tensor | None) -> Tensor:
        factors, excess, _, _ = self._constants.on(y.device)
        means, norms, log_weights = factors[:, :-2], factors[:, -2], factors[:, -1]
        if self._alike:  # the formula below, in fewer passes over the table
            one = y.new_ones(y.shape[0], 1)
            logits = torch.cat([kappa * y, -0.5 * kappa * kappa * one, one], dim=1) @ factors.T
            return self._of_class(logits, labels).softmax(1) @ means
        spread = kappa * kappa * excess  # the variance of y given the component is 1 + spread
        precision = 1.0 / (1.0 + spread)
        # log N(y; κμ, 1 + spread) without −|y|²/2, which all components share, so that no large terms cancel
        fit = kappa * (y @ means.T) - 0.5 * kappa * kappa * norms + 0.5 * spread * y.square().sum(1, keepdim=True)
        logits = log_weights + precision * fit - 0.5 * y.shape[1] * torch.log1p(spread)
        weights = self._of_class(logits, labels).softmax(1) * precision
        return weights @ means + kappa * (weights * excess).sum(1, keepdim=True) * y

    def _of_class(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Logits (B, K) with −∞ for the components of other classes."""
        if labels is None or not self._labelled:
            return logits
        classes = self._constants.on(logits.device)[2]
        other = (classes != labels[:, None]) & (labels < self._classes)[:, None]
        return logits.masked_fill(other, -torch.inf)

    def flow(self, x: Tensor, start: Level, end: Level, labels: Tensor | None) -> Tensor:
        before, after = self.width(start, x.device), self.width(end, x.device)
        if float(after) == 0.0:
            raise ConfigurationError(
                "the components have no width, so the flow is not smooth at its clean end",
                where="reference_solution",
                suggestion="give the components a variance above 0, or give t_end",
            )
        y = integrate(
            lambda y, kappa: self.center(y, kappa, labels),
            x / before,
            start.alpha / float(before),
            end.alpha / float(after),
        )
        return after * y

    def draw(self, count: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        means, excess, log_weights, _, _, _ = self.tensors
        weights = self._of_class(log_weights.expand(count, -1), labels).exp()
        chosen = torch.multinomial(weights, 1, generator=generator)[:, 0]
        noise = torch.randn(count, means.shape[1], generator=generator, dtype=means.dtype)
        return means[chosen] + excess.expand(means.shape[0])[chosen, None].sqrt() * noise
