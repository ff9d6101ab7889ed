"""Inpainting as guidance: where the clean sample is known, it is the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ...guidance.base import Formula, Guidance

__all__ = ["KnownRegion"]


class _Given(torch.nn.Module):
    """A "model" that returns a tensor of its condition, so that it is split with the batch."""

    def forward(self, x: Tensor, t: Tensor, *, given: Tensor) -> Tensor:
        return given.to(x.dtype).expand_as(x)


@final
@dataclass(frozen=True, eq=False)
class KnownRegion(Guidance):
    """x₀ ← mask·x₀ + (1 − mask)·known, after all other guidance (RePaint's conditioning, Lugmayr et al. 2022,
    arXiv 2201.09865, eq. 8, on the prediction instead of the state).

    Pipelines of diffusers paste a noised copy of the image into the state after every step. That is another
    sampler's state than the one its history was made of, and needs fresh noise. Here the prediction is
    replaced, and plans carry constant data exactly: the known region follows its own trajectory from the first
    noise to the known values, with any sampler, order and noise, and every state is consistent. For
    deterministic first-order samplers it is the same.

    It is meant to stand last. Its two tensors count as evaluations of a model; they cost nothing.

    Args:
        known: clean samples, shape (B or 1, ...).
        mask: 1 where samples are to be made, 0 where they are known; broadcasts to the samples' shape.
    """

    known: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        # one object each, so that every level finds the same branches
        object.__setattr__(self, "_branches", tuple((_Given(), {"given": t}) for t in (self.known, self.mask)))

    def write(self, formula: Formula) -> None:
        branches: Any = getattr(self, "_branches")  # noqa: B009 - set for a frozen class
        known, mask = (formula.branch(condition, model=model) for model, condition in branches)
        clean = formula.make(_pasted, formula.to("sample", formula.value), known, mask)
        formula.value = formula.of("sample", clean)

    @property
    def uniform(self) -> bool:
        return False


def _pasted(clean: Tensor, known: Tensor, mask: Tensor) -> Tensor:
    return torch.lerp(known, clean, mask)
