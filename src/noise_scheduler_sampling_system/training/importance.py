"""A density that follows the running loss, for draws of low variance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, final

import torch
from torch import Tensor

from ..config.options import Option
from ..config.registries import DENSITIES
from ..support.errors import ConfigurationError, shown
from .choice import chosen
from .density import Density
from .noise_axis import NoiseAxis

__all__ = ["Importance"]

#: A moment of a bin without draws so far.
_UNSEEN = -1.0


@final
@DENSITIES.register("importance")
@dataclass(frozen=True, eq=False)
class Importance(Density):
    """A base density, times the root of the running mean of the squared loss in each of its bins (Nichol & Dhariwal
    2021, arXiv 2102.09672). The bins have equal probability under the base.

    It is a value: :meth:`observed` returns the next one. Until every bin has a loss, it is the base. An objective
    with this density is one ``over`` the base: weights are divided by the ratio of the densities, so the expected
    loss does not change.

    Attributes:
        base: the density that it begins as, and that the loss is over; a name, a mapping or a density.
        bins: their number.
        floor: the part of the draws that stay with the base, so that weights are at most 1/floor.
        decay: of the running means, for one step.
        moments: the running mean of the squared loss in each bin; −1 where there is none yet.
    """

    base: Annotated[Any, Option(kind=object)] = "uniform"
    bins: Annotated[int, Option(kind=int, minimum=2, maximum=1000)] = 20
    floor: Annotated[float, Option(above=0.0, maximum=1.0)] = 0.1
    decay: Annotated[float, Option(minimum=0.0, below=1.0)] = 0.95
    moments: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        base: Density = chosen(DENSITIES, Density, self.base, "density.base")
        moments = tuple(float(value) for value in self.moments) or (_UNSEEN,) * self.bins
        if isinstance(base, Importance) or self.shift not in (None, 1.0) or len(moments) != self.bins:
            raise ConfigurationError(
                f"got base={shown(base)}, shift={self.shift} and {len(moments)} moments for {self.bins} bins",
                where="density",
                suggestion="give a plain density as the base, with the shift, and one moment for each bin or none",
            )
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "moments", moments)

    def observed(self, y: Tensor, losses: Tensor, axis: NoiseAxis) -> Importance:
        """The density after the losses of a step, each without the ratio of densities. NaN and infinity do not count.

        Args:
            y: log(σ/α) of the draws, any shape.
            losses: of the draws, of the same shape.
            axis: the levels of the path.
        """
        squares, moments = losses.detach().double().flatten().cpu().square(), list(self.moments)
        finite = squares.isfinite()
        squares, y = squares[finite], y.flatten()[finite]
        bins = (self.base.cdf(y, axis) * self.bins).long().clamp(0, self.bins - 1)
        for at in bins.unique().tolist():
            new = float(squares[bins == at].mean())
            moments[at] = new if moments[at] == _UNSEEN else self.decay * moments[at] + (1.0 - self.decay) * new
        return replace(self, moments=tuple(moments))

    @property
    def shares(self) -> Tensor:
        """The probability of each bin, shape (bins,)."""
        even = torch.full((self.bins,), 1.0 / self.bins, dtype=torch.float64)
        roots = torch.tensor(self.moments, dtype=torch.float64).sqrt()
        total = roots.sum()
        return even if not total > 0.0 else self.floor * even + (1.0 - self.floor) * roots / total

    def _cdf(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        position, ends = self.base.cdf(y, axis) * self.bins, self._ends_of_bins
        at = position.long().clamp(0, self.bins - 1)
        below: Tensor = ends[at] + (position - at) * self.shares[at]
        return below

    def _quantile(self, u: Tensor, axis: NoiseAxis) -> Tensor:
        ends = self._ends_of_bins
        at = (torch.searchsorted(ends, u.contiguous(), right=True) - 1).clamp(0, self.bins - 1)
        of_base = ((at + (u - ends[at]) / self.shares[at]) / self.bins).clamp(0.0, 1.0)
        y: Tensor = self.base.quantile(of_base, axis)
        return y

    def _log_density(self, y: Tensor, axis: NoiseAxis) -> Tensor:
        at = (self.base.cdf(y, axis) * self.bins).long().clamp(0, self.bins - 1)
        of_base: Tensor = self.base.log_density(y, axis)
        return of_base + (self.shares[at] * self.bins).log()

    def _move(self, axis: NoiseAxis) -> float:
        return 0.0  # the base is shifted

    @property
    def _ends_of_bins(self) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.float64), self.shares.cumsum(0)])
