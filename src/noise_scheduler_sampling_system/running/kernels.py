"""Linear combinations in as few passes over memory as PyTorch's eager kernels allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..config.prediction import IDENTITY, Affine
from .fused import WORTH_FUSING, fused_combination

__all__ = ["Factor", "add", "affine", "combine", "pair", "pair_into", "scaled"]

#: From this number of entries on, one pass over memory costs more than three views of a tensor.
_WORTH_VIEWS = 1 << 15
_EXACT = (torch.float32, torch.float64)
_CPU = torch.device("cpu")
_MOST_CONSTANTS = 8192
_NUMBER = (float, int)
_constants: dict[Any, Tensor] = {}


#: A coefficient: a number on the host, or a tensor () of a run that is captured for several plans.
Factor: TypeAlias = Any


def scaled(x: Tensor, a: Factor) -> Tensor:
    """a·x in a new tensor of x's type."""
    if isinstance(a, _NUMBER):
        return x * float(a)
    return _by_tensors(x.dtype, (x, a))


def add(total: Tensor, term: Tensor, factor: Factor) -> Tensor:
    """total + factor·term; in-place for a factor on the host."""
    if isinstance(factor, _NUMBER):
        return total.add_(term, alpha=factor)
    return _by_tensors(total.dtype, (total, None), (term, factor))


def _by_tensors(dtype: torch.dtype, *terms: tuple[Tensor, Factor]) -> Tensor:
    """Σ factor·term with factors on the device, computed in at least float32."""
    (first, factor), *others = terms
    wide = torch.promote_types(first.dtype, torch.float32)
    total = first.to(wide) if factor is None else first.to(wide) * factor
    for term, each in others:
        total = torch.addcmul(total, term.to(wide), each)
    return total.to(dtype)


def pair(x: Tensor, a: Factor, y: Tensor, b: Factor) -> Tensor:
    """a·x + b·y in a new tensor of x's type and device, in one pass where PyTorch has one operation for it."""
    if not isinstance(b, _NUMBER):
        made = fused_combination(x, a, y, b, (), None) if x.is_cuda else None
        return _by_tensors(x.dtype, (x, a), (y, b)) if made is None else made[0]
    if b == 0.0:
        return x * float(a)
    if a == 0.0:
        return y.to(x.dtype) * b
    if a == 1.0 and x.dtype == y.dtype:
        return torch.add(x, y, alpha=b)
    if _fits_one_pass(x, y):
        return torch.addr(x.view(-1, 1), y.view(-1), _one(x), beta=a, alpha=b).view(x.shape)
    return (x * _factor(a, x)).add_(y, alpha=b)


def combine(
    x: Tensor, a: Factor, y: Tensor, b: Factor, terms: Sequence[tuple[Tensor, Factor]], keep: Affine | None
) -> tuple[Tensor, Tensor | None]:
    """a·x + b·y + Σ factor·term in a new tensor, and ``keep`` of (x, y), in as few passes as possible.

    Args:
        x, y: the state and the output.
        a, b: their factors.
        terms: further tensors with their factors.
        keep: the conversion to the prediction that is kept; None: nothing is kept.
    """
    converts = keep is not None and keep is not IDENTITY
    if (terms or converts) and (x.numel() >= WORTH_FUSING or x.is_cuda):
        made = fused_combination(x, a, y, b, terms, keep if converts else None)
        if made is not None:
            return made[0], made[1] if converts else (y if keep is not None else None)
    kept = None
    if keep is not None:
        kept = affine(keep, x, y) if converts else y
    after = pair(x, a, y, b)
    for term, factor in terms:
        after = add(after, term, factor)
    return after, kept


def pair_into(x: Tensor, a: Factor, y: Tensor, b: Factor) -> Tensor:
    """a·x + b·y, in the memory of x (in-place) for factors on the host."""
    if not isinstance(b, _NUMBER):
        return _by_tensors(x.dtype, (x, a), (y, b))
    if b != 0.0 and _fits_one_pass(x, y):
        x.view(-1, 1).addr_(y.view(-1), _one(x), beta=a, alpha=b)
        return x
    if a != 1.0:
        x.mul_(a)
    return x.add_(y, alpha=b) if b != 0.0 else x


def _fits_one_pass(x: Tensor, y: Tensor) -> bool:
    """Whether ``addr`` (β·M + α·u⊗v, here with v = (1)) can and should compute a·x + b·y.

    It is PyTorch's only elementwise kernel with two factors. Its views pay for large tensors only.
    """
    return (
        x.numel() >= _WORTH_VIEWS
        and type(x) is Tensor
        and x.dtype == y.dtype
        and x.is_contiguous()
        and y.is_contiguous()
        and not torch.is_autocast_enabled()  # it would compute addr in half precision
    )


def _factor(a: float, x: Tensor) -> Tensor | float:
    """A factor of x as a tensor of x's type, which takes a third less time than a Python number."""
    if x.dtype not in _EXACT or type(x) is not Tensor:
        return a  # half precision would round it, and a traced or wrapped x does not mix with a plain tensor
    return _cached((a, x.dtype), a, (), x.dtype, _CPU)


def _one(x: Tensor) -> Tensor:
    """The vector (1), with x's type and device."""
    return _cached((x.dtype, x.device), 1.0, (1,), x.dtype, x.device)


def _cached(key: Any, value: float, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A constant tensor, made once."""
    known = _constants.get(key)
    if known is not None:
        return known
    with torch.inference_mode(False):  # it must work outside that mode too
        made = torch.full(shape, value, dtype=dtype, device=device)
    if type(made) is Tensor:  # a tracing mode makes another type
        if len(_constants) >= _MOST_CONSTANTS:
            _constants.clear()
        _constants[key] = made
    return made


def affine(factors: Affine, x: Tensor, y: Tensor) -> Tensor:
    """The change of variables x_factor·x + y_factor·y, in a new tensor."""
    return pair(x, factors.x_factor, y, factors.y_factor)
