"""The noises that training adds: white, with an offset, or with low frequencies. All are drawn by key."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor

from ..config.options import Option
from ..config.registries import NOISES
from ..support.errors import ConfigurationError
from .choice import Choice
from .draws import Draws, Purpose

__all__ = ["OffsetNoise", "PyramidNoise", "TrainingNoise", "WhiteNoise"]


@dataclass(frozen=True, eq=False)
class TrainingNoise(Choice):
    """The noise of training samples. A subclass is a frozen dataclass that writes :meth:`draw`."""

    @abstractmethod
    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        """The noise of a batch, shape (B, *shape)."""


@final
@NOISES.register("white")
@dataclass(frozen=True, eq=False)
class WhiteNoise(TrainingNoise):
    """Independent normal numbers, those that every sampler here assumes."""

    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        return draws.normal(shape, Purpose.NOISE)


@final
@NOISES.register("offset")
@dataclass(frozen=True, eq=False)
class OffsetNoise(TrainingNoise):
    """White noise plus one number for each channel, so that a network learns to change the brightness of a whole image
    (Guttenberg 2023, "Diffusion with Offset Noise", crosslabs.org).

    A constant image has the variance 1 + n·strength² in it, n pixels, against 1 in white noise. A schedule that ends
    without signal is the cleaner remedy (:func:`.check_terminal_snr`).

    Attributes:
        strength: the standard deviation of the offset; 0.05 to 0.1 is usual.
    """

    strength: Annotated[float, Option(minimum=0.0, maximum=10.0)] = 0.1

    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        offset = draws.normal((*shape[:1], *[1] * (len(shape) - 1)), Purpose.OFFSET)
        return draws.normal(shape, Purpose.NOISE) + self.strength * offset


@final
@NOISES.register("pyramid")
@dataclass(frozen=True, eq=False)
class PyramidNoise(TrainingNoise):
    """White noise plus coarser noises, scaled up linearly, over the root of their mean variance (Whitaker 2023,
    "Multi-Resolution Noise for Diffusion Model Training", wandb.ai).

    Each level has half the height and width of the one before. Kohya's version draws the factors between 2 and 4, and
    divides a batch by its own standard deviation; this one divides by the exact number.

    Attributes:
        discount: the factor of each further level.
        levels: the most levels, the white one not counted.
    """

    discount: Annotated[float, Option(above=0.0, maximum=1.0)] = 0.4
    levels: Annotated[int, Option(kind=int, minimum=1, maximum=16)] = 6

    def draw(self, draws: Draws, shape: tuple[int, ...]) -> Tensor:
        if len(shape) != 3:
            raise ConfigurationError(
                f"got samples of shape {shape}", where="noise", suggestion="pyramid noise is for (C, H, W)"
            )
        noise, variance, size = draws.normal(shape, Purpose.NOISE), 1.0, shape[1:]
        for level in range(1, self.levels + 1):
            if min(size) == 1:
                break
            size = (math.ceil(size[0] / 2), math.ceil(size[1] / 2))
            factor = self.discount**level
            noise = noise + factor * _enlarged(draws.normal((shape[0], *size), Purpose.PYRAMID + level), shape[1:])
            variance += factor**2 * math.prod(_mean_variance(n, to) for n, to in zip(size, shape[1:], strict=True))
        return noise / math.sqrt(variance)


def _enlarged(image: Tensor, size: tuple[int, ...]) -> Tensor:
    return torch.nn.functional.interpolate(image, size=size, mode="bilinear", align_corners=False)


def _mean_variance(size: int, to: int) -> float:
    """The mean variance of white noise of one dimension after it is enlarged linearly."""
    unit = torch.eye(size, dtype=torch.float64)[None]
    weights = torch.nn.functional.interpolate(unit, size=to, mode="linear", align_corners=False)
    return float(weights.square().sum(1).mean())


NOISES.alias("gaussian", of="white")
NOISES.alias("offset_noise", of="offset")
NOISES.alias("pyramid_noise", "multires", "multires_noise", of="pyramid")
