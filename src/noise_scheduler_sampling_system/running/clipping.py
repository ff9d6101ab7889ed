"""Limits on the predicted clean sample: static clipping and dynamic thresholding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..config.settings import NoiseSchedulerConfig

__all__ = ["clip_of", "dynamic_threshold"]


def clip_of(config: NoiseSchedulerConfig) -> Callable[[Tensor], Tensor] | None:
    """The config's limit on a predicted clean sample, or None. The function may overwrite its input."""
    if config.clip_sample:
        return partial(torch.clamp_, min=-config.clip_sample_range, max=config.clip_sample_range)
    if config.thresholding:
        return partial(
            dynamic_threshold,
            ratio=config.dynamic_thresholding_ratio,
            smallest=config.sample_padding_norm,
            largest=config.sample_max_value,
            padding=config.sample_padding_threshold,
        )
    return None


def dynamic_threshold(
    clean: Tensor, *, ratio: float, smallest: float = 1.0, largest: float = float("inf"), padding: float = 0.0
) -> Tensor:
    """clamp(x₀, −s, s)/s with s a quantile of |x₀| over each sample (Saharia et al. 2022, §2.3).

    Args:
        clean: predicted clean samples x₀, shape (B, ...).
        ratio: the quantile, in [0, 1], interpolated linearly.
        smallest, largest: limits of s.
        padding: entries with |x₀| below this are padding, and the quantile leaves them out. For a sample that is
            all padding, s is ``smallest``.
    """
    magnitudes = clean.abs().flatten(1).to(torch.float32 if clean.element_size() < 4 else clean.dtype)
    magnitudes = magnitudes.sort(dim=1).values
    count = magnitudes.shape[1]
    # padding has the smallest magnitudes, so it comes first
    left_out = (magnitudes < padding).sum(dim=1, keepdim=True)
    rank = left_out + ratio * (count - 1 - left_out).clamp(min=0).to(magnitudes.dtype)
    below = rank.floor().long().clamp(max=count - 1)
    low, high = magnitudes.gather(1, below), magnitudes.gather(1, (below + 1).clamp(max=count - 1))
    s = torch.lerp(low, high, (rank - below).to(magnitudes.dtype))
    s = torch.where(left_out == count, smallest, s.clamp(smallest, largest))
    s = s.to(clean.dtype).reshape(-1, *[1] * (clean.ndim - 1))
    return torch.minimum(torch.maximum(clean, -s), s).div_(s)
