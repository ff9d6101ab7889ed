"""Replacements in another library's arithmetic: given tensors for its noise, double for its single precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...support.errors import ConfigurationError

__all__ = ["BrownianIncrements", "WatchedArithmetic", "in_double"]

#: Returns the tensor that replaces the next unit noise.
Draw = Callable[[], Tensor]

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)
_NORMAL = (torch.randn, torch.randn_like)
_OTHER_RANDOM = (
    torch.rand, torch.rand_like, torch.randint, torch.randint_like, torch.randperm, torch.multinomial,
    torch.bernoulli, torch.normal, torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.bernoulli_,
    torch.Tensor.exponential_, torch.Tensor.random_,
)  # fmt: skip
_FACTORIES = (
    torch.tensor, torch.as_tensor, torch.zeros, torch.ones, torch.full, torch.linspace, torch.arange, torch.empty,
    torch.eye, torch.logspace,
)  # fmt: skip


@final
class WatchedArithmetic(TorchFunctionMode):
    """A context in which unit noise is what ``draw`` returns, and arithmetic is in float64; in this thread only.

    A table in float32 keeps its values. The formula is then exact to 1e-16 of the table, without the rounding of each
    operation in single precision.

    Args:
        draw: returns the next noise.

    Raises:
        ConfigurationError: the code draws random numbers that are not normal.
    """

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self._draw = draw

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _NORMAL:
            return self._draw()
        if func in _OTHER_RANDOM:
            raise ConfigurationError(
                f"it draws by torch.{func.__name__}",
                where="scheduler",
                why="the noise of a plan is Gaussian; a scheduler of tokens or masks is not linear",
                suggestion="run it in its own loop",
            )
        if func in _CASTS:
            return args[0].double()
        result = func(*map(_wide, args), **{name: _wide(value) for name, value in given.items()})
        if not isinstance(result, Tensor) or result.dtype not in _NARROW:
            return result
        return func(*args, **{**given, "dtype": torch.float64}) if func in _FACTORIES else result.double()


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


def in_double(owner: Any) -> None:
    """Convert an object's narrow floating-point tensors to float64, with unchanged values."""
    for name, value in vars(owner).items():
        if isinstance(value, Tensor) and value.dtype in _NARROW:
            setattr(owner, name, value.double())


@final
class BrownianIncrements:
    """Replaces k-diffusion's noise sampler: unit noise over an interval of one Brownian motion.

    An interval may contain earlier ones, whose noise is then reused.

    Args:
        draw: returns the next independent noise.

    Raises:
        ConfigurationError: an interval is a part of an earlier one.
    """

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._pieces: list[tuple[float, float, Tensor]] = []

    def __call__(self, start: Any, end: Any) -> Tensor:
        low, high = sorted((float(start), float(end)))
        slack = 1e-6 * (high - low)  # schedulers compute one end in several ways
        inside = [piece for piece in self._pieces if piece[1] > low + slack and piece[0] < high - slack]
        if any(a < low - slack or b > high + slack for a, b, _ in inside):
            raise ConfigurationError(
                f"it needs the noise of a part, {low:g} to {high:g}, of an earlier interval",
                where="scheduler",
                suggestion="run it in its own loop",
            )
        at, parts = low, []
        for a, b, noise in sorted(inside, key=lambda piece: piece[0]):
            if a > at + slack:
                parts.append(self._new(at, a))
            parts.append((a, b, noise))
            at = b
        if high > at + slack:
            parts.append(self._new(at, high))
        length = sum(b - a for a, b, _ in parts)
        terms = [math.sqrt((b - a) / length) * noise for a, b, noise in parts]
        return torch.stack(terms).sum(0)

    def _new(self, low: float, high: float) -> tuple[float, float, Tensor]:
        piece = (low, high, self._draw())
        self._pieces.append(piece)
        return piece
