"""Noise as increments of one Brownian motion for each sample, shared by runs of every number of steps.

A :class:`NoiseSource` gives a stochastic sampler unrelated noise in 10 and in 100 steps, and so unrelated samples. Here
each noise is (W(b) − W(a))/√|b − a|, where the step goes from a to b in u = (2/π)·arctan(σ/α) (a plan's
``noise_span``). The samples of finer grids then converge.

W is computed by bisection and not stored (a virtual Brownian tree; Li et al. 2020, arXiv 2001.01328, §4). W(0) = 0, and
W(1) is normal. Between two known values, the middle one is their mean plus an independent normal number whose variance
is ¼ of the interval. Each of these numbers is keyed by its place, so W does not depend on the order of evaluation. Ends
of steps are rounded to 2⁻²⁴, where bisection ends. The noise has unit variance for every step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from ..plans.plan import SamplingPlan
from ..plans.plan_rows import Array
from ..support.errors import ConfigurationError
from .noise import NoiseSource

__all__ = ["BrownianNoise", "brownian"]

_DEPTH = 24
_WHOLE = 1 << _DEPTH
#: The step and the first stage of the keys of W, which the noise of a run never has.
_STEP, _STAGES = -1, 1 << 32


@final
@dataclass(frozen=True)
class BrownianNoise(NoiseSource):
    """A noise source whose noises are increments of Brownian motion over the intervals of a plan.

    A noise takes up to 48 draws on the host instead of one, usually 20 to 30. The values of one step are kept for the
    next, at most 49 arrays of float64.

    Args:
        spans: (step, stage) ↦ (a, b) in units of 2⁻²⁴. Other noises, and those with a = b after rounding, are
            independent like those of a :class:`NoiseSource`.
    """

    kind: ClassVar[str] = "brownian"

    spans: Mapping[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    #: The values of W that the last step computed, by place.
    _last: dict[int, Array] = field(default_factory=dict, init=False, repr=False, compare=False)

    def on_host(self, step: int, stage: int) -> Tensor:
        a, b = self.spans.get((step, stage), (0, 0))
        if a == b:
            return super().on_host(step, stage)
        known: dict[int, Array] = {}
        increment = self._at(b, known) - self._at(a, known)
        self._last.clear()
        self._last.update(known)
        drawn = torch.from_numpy(increment * math.sqrt(_WHOLE / abs(b - a))).to(self.dtype)
        return drawn.pin_memory() if self.device.type == "cuda" else drawn

    def _at(self, place: int, known: dict[int, Array]) -> Array:
        """W(place·2⁻²⁴).

        Args:
            place: from 0 to 2²⁴.
            known: values of W by place; all that are computed are added.
        """

        def value(k: int, mean: Array, variance: float) -> Array:
            if k not in known:
                known[k] = self._last[k] if k in self._last else mean + math.sqrt(variance) * self._normal(k)
            return known[k]

        low, high = 0, _WHOLE
        at_low = np.zeros((len(self.keys), *self.shape))
        at_high = value(_WHOLE, at_low, 1.0)
        while low < place < high:
            middle = (low + high) // 2
            between = value(middle, (at_low + at_high) / 2, (high - low) / (4 * _WHOLE))
            if place < middle:
                high, at_high = middle, between
            else:
                low, at_low = middle, between
        return at_high if place == high else at_low

    def _normal(self, k: int) -> Array:
        """The normal numbers of one place in the tree."""
        drawn: Array = self._independent(_STEP, _STAGES + k).numpy().astype(np.float64)
        return drawn

    @functools.cached_property
    def _independent(self) -> NoiseSource:
        return NoiseSource(self.keys, self.shape)


def brownian(plan: SamplingPlan, source: NoiseSource) -> BrownianNoise:
    """Brownian noise for a plan, with the keys, shape, type and device of ``source``.

    Plans on one noise schedule share the Brownian motions, whatever their steps. So do plans on schedules with the
    same σ/α.

    Raises:
        ConfigurationError: no noise of the plan is that of a diffusion from one level to another.
    """
    if plan.noise_span is None:
        raise ConfigurationError(
            f"the plan of {plan.sampler!r} has no noise that is an increment of Brownian motion",
            where="noise",
            why="its variance is learned, or it is not the noise of a step"
            if plan.stochastic
            else "the plan adds no noise",
            suggestion="use independent noise, or a sampler of a stochastic differential equation",
        )
    ends = (plan.noise_span * _WHOLE).round().astype(int).tolist()
    spans = {(step, stage): (a, b) for (step, stage), (a, b) in zip(plan.noise_key.tolist(), ends, strict=True)}
    return BrownianNoise(source.keys, source.shape, source.dtype, source.device, spans)
