"""A check of a model's first output against the prediction type of the config."""

from __future__ import annotations

import contextlib
import logging
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor

from ..config.prediction import PREDICTION_TYPES, conversion
from ..schedules.path import Level
from ..schedules.times import traced
from ..support.errors import ConfigurationError

__all__ = ["Look", "Moments", "likely_types"]

logger = logging.getLogger(__name__)

#: The number of entries that are read at most, and the number that a check needs.
_MOST, _LEAST = 2**16, 64
#: The output is checked below this signal-to-noise ratio α²/σ², where the state is almost pure noise.
_LARGEST_SNR: Final = 0.25
#: Wider data than this is implausible where another type makes them three times as narrow. Images in [-1, 1] and
#: scaled latents have standard deviations of 0.2 to 1.5.
_WIDEST, _TIMES = 2.5, 3.0

#: The models that were checked, and the types that they were compared with.
_SEEN: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


class Moments(NamedTuple):
    """Means over the entries of a batch: of x², of x·output and of output²."""

    xx: float
    xo: float
    oo: float


@final
@dataclass(frozen=True)
class _Reading:
    """The statistics of an output, read as one type.

    Attributes:
        noise: ⟨ε, x⟩/σ; 1 for a perfect model, because E⟨E[ε|x], x⟩ = E⟨ε, x⟩ = σ.
        power: ⟨ε²⟩; at most 1, because it is the power of a conditional mean of unit noise.
        clean: the root mean square of x₀.
        correlation: of x₀ and ε; at least 0, because E⟨E[x₀|x], E[ε|x]⟩ = α/σ·E var(x₀|x).
        width: the root mean square of the data for which this output is exact: that of x₀, plus the variance that the
            correlation shows to be missing.
    """

    noise: float
    power: float
    clean: float
    correlation: float
    width: float

    @classmethod
    def of(cls, kind: str, moments: Moments, level: Level) -> _Reading | None:
        """Read an output as one type; None where it cannot be of the type.

        Args:
            kind: the type.
            moments: of the state and the output.
            level: their noise level.
        """
        _, alpha, sigma = level
        xx, xo, oo = moments
        try:
            a, b = conversion(kind, "sample", alpha, sigma)
        except ConfigurationError:  # without signal ε is x/σ, whatever the data
            off = xx / sigma**2 - 2.0 * xo / sigma + oo
            return cls(1.0, 1.0, 0.0, 0.0, 0.0) if off < 0.05 else None
        c, d = (1.0 - alpha * a) / sigma, -alpha * b / sigma
        clean = max(a * a * xx + 2.0 * a * b * xo + b * b * oo, 0.0)
        noise = max(c * c * xx + 2.0 * c * d * xo + d * d * oo, 0.0)
        cross = a * c * xx + (a * d + b * c) * xo + b * d * oo
        # without signal x₀ and ε are independent, and a correlation is rounding or chance
        missing = max(cross, 0.0) * sigma / max(alpha, 0.01)
        correlation = cross / math.sqrt(clean * noise) if clean * noise > 0.0 else 0.0
        return cls((c * xx + d * xo) / sigma, noise, math.sqrt(clean), correlation, math.sqrt(clean + missing))

    @property
    def possible(self) -> bool:
        return self.noise > 0.25 and self.power < 1.5 and self.correlation > -0.5


def likely_types(configured: str, moments: Moments, level: Level, *, straight: bool) -> tuple[str, ...]:
    """The likely types of an output at almost pure noise that does not fit the configured type.

    Almost pure noise x is nearly proportional to ε, and x₀ and v hardly depend on it. An output that is read as a
    wrong type therefore makes an implausible clean sample. "v_prediction" and "sample" are each other's negative there
    and cannot be told apart.

    Args:
        configured: the type in the config.
        moments: of the state and the output.
        level: their noise level.
        straight: whether the path is α + σ = 1. Networks on it predict ε − x₀; they do not predict ε, which does not
            determine x₀ at the noisiest level. Networks on other paths do not predict ε − x₀; they predict v on paths
            that preserve the variance.

    Returns:
        The other types, the likeliest first; empty where the configured type is possible, or where no other type is.
    """
    preserving = not straight and level.alpha**2 + level.sigma**2 < 2.0
    used = {"flow_prediction": straight, "v_prediction": preserving or straight, "epsilon": not straight}
    considered = [kind for kind in PREDICTION_TYPES if used.get(kind, True) or kind == configured]
    readings = {kind: _Reading.of(kind, moments, level) for kind in considered}
    own = readings.pop(configured)
    others = {kind: reading for kind, reading in readings.items() if reading is not None and reading.possible}
    if own is None or not others:
        return ()
    narrowest = min(reading.width for reading in others.values())
    if own.possible and not (own.width > _WIDEST and own.width > _TIMES * narrowest):
        return ()
    usual = ("flow_prediction", "v_prediction", "epsilon", "sample")
    near = {kind for kind, reading in others.items() if reading.width <= max(1.5 * narrowest, 0.1)}
    twins = {"v_prediction", "sample"}
    if near & twins:
        near |= {kind for kind in twins & set(others) if others[kind].clean <= 1.2 * others[min(near & twins)].clean}
    return tuple(sorted(near, key=usual.index))


@final
class Look(NamedTuple):
    """Checks the first output of a model, once for each model; the check reads three numbers from the device.

    Attributes:
        model: whose output is checked.
        prediction_type: the type in the config.
        straight: whether the path is straight.
    """

    model: Any
    prediction_type: str
    straight: bool

    def around(
        self, call: Callable[[Tensor, int], Any], levels: Callable[[int], Level]
    ) -> Callable[[Tensor, int], Any]:
        """The same call with a check of its first output; the call itself where the model was checked before.

        Args:
            call: (x, row) ↦ the output.
            levels: row ↦ its noise level.
        """
        if self.is_done:
            return call

        pending = True

        def looking(x: Tensor, row: int) -> Any:
            nonlocal pending
            output = call(x, row)
            if pending:  # after the first check this costs nothing
                pending = x.numel() >= _LEAST and not self.is_done
                if pending:
                    self.at(x, output, levels(row))
            return output

        return looking

    @property
    def is_done(self) -> bool:
        """Whether an output of the model was compared with this type."""
        try:
            return self.prediction_type in _SEEN.get(self.model, ())
        except TypeError:  # the model has no hash
            return False

    def at(self, x: Tensor, output: Any, level: Level) -> None:
        """Log a warning where an output does not look like the configured type.

        Args:
            x: the state.
            output: of the model.
            level: of x; a level with much signal is passed over.
        """
        if not isinstance(output, Tensor) or x.numel() < _LEAST or not level.sigma > 0.0 or traced():
            return
        if level.alpha**2 > _LARGEST_SNR * level.sigma**2 or x.device.type == "meta":
            return
        if x.device.type == "cuda" and torch.cuda.is_current_stream_capturing():  # a CUDA graph cannot read
            return
        with contextlib.suppress(TypeError):  # the model has no weak references
            _SEEN.setdefault(self.model, set()).add(self.prediction_type)
        moments = _moments(x, output)
        likely = () if moments is None else likely_types(self.prediction_type, moments, level, straight=self.straight)
        if likely:
            logger.warning(
                "the model's first output (t = %g) does not look like prediction_type=%r: its clean sample would be "
                "implausible. It looks like %s: if the model was trained with it, set it in the config",
                level.t, self.prediction_type, " or ".join(map(repr, likely)),
            )  # fmt: skip


@torch.no_grad()
def _moments(x: Tensor, output: Tensor) -> Moments | None:
    """The three means in one read; None for another shape, for values that are not finite, and for an output of 0."""
    output = output[: len(x)]  # the first of several branches in the batch
    if output.ndim > 1 and output.shape[1] == 2 * x.shape[1]:  # with a learned variance
        output = output[:, : x.shape[1]]
    if output.shape != x.shape:
        return None
    a, b = (each.detach().reshape(-1)[:_MOST].to(torch.float32) for each in (x, output))
    xx, xo, oo = (torch.stack([a @ a, a @ b, b @ b]) / len(a)).tolist()
    if not (math.isfinite(xx + xo + oo) and oo > 1e-12 * xx):
        return None
    return Moments(xx, xo, oo)
