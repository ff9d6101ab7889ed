"""α and σ of a log-SNR, by the convention that a path keeps."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["straight", "variance_exploding", "variance_preserving"]


def variance_preserving(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ with α² + σ² = 1."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def variance_exploding(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """α = 1."""
    return torch.ones_like(log_snr), torch.exp(-log_snr / 2)


def straight(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """α + σ = 1."""
    return torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2)
