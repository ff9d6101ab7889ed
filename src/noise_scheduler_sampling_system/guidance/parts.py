"""What several kinds of guidance share: sums of branches, projections of tensors, and lists of conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..plans.linear_form import Form
from ..support.errors import ConfigurationError
from .base import per_sample
from .formula import Formula
from .scales import Scale, checked_scale

__all__ = ["checked_terms", "dot", "projection", "square", "towards"]


def towards(formula: Formula, better: Form, worse: Form, scale: float) -> Form:
    """The value + (scale − 1)·(better − worse), without rounding if the value is ``better``."""
    return (formula.value - better) + (worse * (1.0 - scale) + better * scale)


def projection(u: Tensor, c: Tensor) -> Tensor:
    """⟨c, u⟩/‖u‖²·u, the projection of c on u, for each sample."""
    return u * per_sample(dot(u, c) / square(u), u)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ for each sample, shape (B,), in float32 at least: the sums of large images overflow float16."""
    wide = torch.promote_types(torch.float32, a.dtype)
    return (a.flatten(1).to(wide) * b.flatten(1).to(wide)).sum(1)


def square(a: Tensor) -> Tensor:
    """‖a‖² for each sample, as :func:`dot`; where it is 0, the smallest normal number, so that a division is finite."""
    wide = torch.promote_types(torch.float32, a.dtype)
    square: Tensor = torch.linalg.vector_norm(a.flatten(1), dim=1, dtype=wide).square()
    return square.clamp_min(torch.finfo(wide).tiny)


def checked_terms(terms: Any, where: str) -> tuple[tuple[Mapping[str, Any], Scale], ...]:
    """Pairs of a condition and a weight.

    Raises:
        ConfigurationError: ``terms`` is not a list of such pairs, or is empty.
    """
    try:
        pairs = tuple((condition, weight) for condition, weight in terms)
    except (TypeError, ValueError):
        pairs = ()
    if not pairs or not all(isinstance(condition, Mapping) and condition for condition, _ in pairs):
        raise ConfigurationError(
            "is not a list of pairs of a condition and a weight",
            where=f"{where}.terms",
            suggestion='give [({"class_labels": labels}, 2.0), ...]',
        )
    return tuple((c, checked_scale(w, f"{where}.terms[{i}]")) for i, (c, w) in enumerate(pairs))
