"""An exact class-conditional model of handwritten digits, for images of any size."""

from __future__ import annotations

import functools
import math
from importlib import resources
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..schedules.path import NoisePath
from ..support.argument_checks import checked_number
from ..support.errors import ConfigurationError
from .constants import Constants, as_double
from .embedding import Embedding
from .exact import ExactModel
from .prior import Mixture, Prior

__all__ = ["DigitsModel", "load_digits"]

_SIZE = 8
_CLASSES = 10


def load_digits() -> tuple[Tensor, Tensor]:
    """The 1,797 digits of ``data/digits.npz``: images (1797, 8, 8) in [-1, 1], float64, and labels (1797,)."""
    with resources.files(__package__).joinpath("data", "digits.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        images, labels = stored["images"], stored["labels"]
    return (
        torch.from_numpy(images.reshape(-1, _SIZE, _SIZE) / 8.0 - 1.0),
        torch.from_numpy(labels.astype(np.int64)),
    )


@final
class DigitsModel(ExactModel):
    """The UCI handwritten digits, smoothed by a Gaussian, at any image size.

    A sample is E(digit + ``bandwidth``·n) with n standard normal in 8×8 pixels. E takes the DCT of the digit, keeps
    the min(8, H)×min(8, W) lowest frequencies, evaluates them on H×W pixels, and repeats the image over channels (and
    frames). Pixel values stay in [-1, 1] up to ringing. At (1, 8, 8) E is the identity; a side below 8 loses detail.
    E is an isometry up to a factor, so at any size a prediction needs only the ≤ 64 coefficients of x. Off that
    subspace the clean sample is 0.

    A call takes ``class_labels`` 0..9, or 10 (``null_class``) for any digit.

    Args:
        path: the forward process.
        prediction_type: as for :class:`ExactModel`.
        bandwidth: standard deviation of the smoothing in 8×8 pixels, above 0.

    Raises:
        ConfigurationError: a bandwidth that is not above 0; in a call, samples of fewer than three dimensions
            (B, H, W).
    """

    #: Its images are white strokes on black; figures draw them dark on light.
    white_on_black: ClassVar[bool] = True

    def __init__(self, path: NoisePath, prediction_type: str | None = None, bandwidth: float = 0.1) -> None:
        self.bandwidth = checked_number(bandwidth, "bandwidth")
        if self.bandwidth <= 0.0:
            raise ConfigurationError(f"got {bandwidth!r}", where="bandwidth", suggestion="give a finite number above 0")
        super().__init__(path, prediction_type, num_classes=_CLASSES)

    def _data_tensors(self) -> tuple[Tensor, ...]:
        return (as_double(self.bandwidth),)

    def _data(self, shape: torch.Size) -> tuple[Embedding, Prior]:
        if len(shape) < 2 or 0 in shape:
            raise ConfigurationError(
                f"samples of shape {tuple(shape)} are not images",
                where="x",
                suggestion="give a tensor (B, C, H, W) or (B, H, W)",
            )
        return _embedding(shape), _law(min(_SIZE, shape[-2]), min(_SIZE, shape[-1]), self.bandwidth)


@final
class _Upsampling(Embedding):
    """The lowest frequencies of the DCT of an image, the same in every channel."""

    def __init__(self, shape: torch.Size) -> None:
        *self._leading, height, width = shape
        self._copies = math.prod(self._leading)
        self.scale = math.sqrt(math.prod(shape)) / _SIZE
        self._bases = Constants(_cosines(height), _cosines(width))
        self.size = min(_SIZE, height) * min(_SIZE, width)
        self.complete = self.size == math.prod(shape)

    def coordinates(self, x: Tensor) -> Tensor:
        rows, columns = self._bases.on(x.device)
        image = x.reshape(x.shape[0], self._copies, *x.shape[-2:]).sum(1) / math.sqrt(self._copies)
        return (rows.T @ image @ columns).flatten(1)

    def lift(self, coordinates: Tensor) -> Tensor:
        rows, columns = self._bases.on(coordinates.device)
        table = coordinates.reshape(coordinates.shape[0], rows.shape[1], columns.shape[1])
        image = rows @ table @ columns.T / math.sqrt(self._copies)
        single = image.reshape(image.shape[0], *[1] * len(self._leading), *image.shape[1:])
        return single.expand(-1, *self._leading, -1, -1)


def _cosines(size: int) -> Tensor:
    """The lowest ≤ 8 vectors of the orthonormal DCT-II basis, as columns: (size, min(8, size))."""
    frequency = np.arange(min(_SIZE, size))
    waves: npt.NDArray[np.float64] = np.cos(np.pi * (np.arange(size)[:, None] + 0.5) * frequency / size)
    return torch.from_numpy(waves * np.sqrt(np.where(frequency == 0, 1.0, 2.0) / size))


@functools.lru_cache(maxsize=64)
def _embedding(shape: torch.Size) -> _Upsampling:
    return _Upsampling(shape)


@functools.lru_cache(maxsize=16)
def _law(rows: int, columns: int, bandwidth: float) -> Mixture:
    """The law of the lowest rows × columns DCT coefficients of a digit."""
    images, labels = load_digits()
    basis = _cosines(_SIZE)
    low = (basis.T @ images @ basis)[:, :rows, :columns]
    return Mixture(low.flatten(1), as_double(bandwidth**2), labels=labels)
