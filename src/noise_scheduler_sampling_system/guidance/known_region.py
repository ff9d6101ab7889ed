"""Inpainting as guidance: where the clean sample is known, it replaces the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ..support.errors import ConfigurationError
from .base import Guidance
from .formula import Formula, TensorAsModel

__all__ = ["KnownRegion"]


@final
@dataclass(frozen=True, eq=False)
class KnownRegion(Guidance):
    """x₀ ← mask·x₀ + (1 − mask)·known, after all other guidance (RePaint's conditioning, Lugmayr et al. 2022,
    arXiv 2201.09865, eq. 8, on the prediction instead of the state).

    Other methods paste a noised copy of the image into the state after every step. This needs fresh noise, and the
    sampler's history then belongs to another state. Here the prediction is replaced, and plans are exact for constant
    data. So the known region follows its own trajectory from the first noise to the known values, with every model,
    sampler, order and noise. For deterministic first-order samplers the two are the same. The known values are exact up
    to the rounding of the state's dtype.

    It should be the last of a sequence. It does not need an evaluation of a model.

    Args:
        known: clean samples, shape (B or 1, ...), in the units of the samples.
        mask: 1 where samples are generated, 0 where they are known, or a value between. It broadcasts to the samples'
            shape: leading dimensions may be absent or 1.

    Raises:
        ConfigurationError: a value is not finite, or the mask is outside [0, 1]; before a run: a shape does not fit.
    """

    known: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        known, mask = _values(self.known, "KnownRegion.known"), _values(self.mask, "KnownRegion.mask")
        if mask.numel() and not (mask.min() >= 0.0 and mask.max() <= 1.0):
            raise ConfigurationError(
                f"has values from {float(mask.min()):g} to {float(mask.max()):g}",
                where="KnownRegion.mask",
                suggestion="give 1 where samples are generated and 0 where they are known",
            )
        mask = mask.reshape(*[1] * (known.ndim - mask.ndim), *mask.shape)
        object.__setattr__(self, "known", known)
        object.__setattr__(self, "mask", mask)
        # made once, so that every level has the same branches
        object.__setattr__(self, "_branches", tuple((TensorAsModel(), {"given": t}) for t in (known, mask)))

    def refuse_shape(self, shape: tuple[int, ...]) -> None:
        for name, value in {"known": self.known, "mask": self.mask}.items():
            fits = value.ndim == len(shape) and all(n in (1, m) for n, m in zip(value.shape, shape, strict=True))
            if not fits:
                raise ConfigurationError(
                    f"has shape {tuple(value.shape)}, the samples {tuple(shape)}",
                    where=f"KnownRegion.{name}",
                    suggestion=f"give (B or 1, ...): {('B', *shape[1:])}, or 1 in place of any of them".replace(
                        "'", ""
                    ),
                )

    def write(self, formula: Formula) -> None:
        branches: Any = getattr(self, "_branches")  # noqa: B009 - not a field of the frozen class
        known, mask = (formula.branch(condition, model=model) for model, condition in branches)
        clean = formula.make(_pasted, formula.to("sample", formula.value), known, mask)
        formula.value = formula.of("sample", clean)

    @property
    def uniform(self) -> bool:
        return False


def _values(given: Any, where: str) -> Tensor:
    """A tensor or array of numbers as a floating-point tensor."""
    try:
        value = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
        value = value if value.is_floating_point() else value.to(torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigurationError(
            f"got {type(given).__name__}", where=where, suggestion="give a tensor of the samples' shape"
        ) from None
    if not torch.isfinite(value).all():
        raise ConfigurationError("holds NaN or Inf", where=where, suggestion="check how it was made")
    return value


def _pasted(clean: Tensor, known: Tensor, mask: Tensor) -> Tensor:
    return torch.lerp(known, clean, mask)
