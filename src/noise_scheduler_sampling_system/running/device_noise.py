"""Noise that is made on the GPU: another stream than the host's, keyed by the same numbers.

Each noise depends only on (seed, sample, step, stage), as on the host, so batch size, data type and a restart do not
change it. Its algorithm is another, so its numbers are, too: number n of a sample is number n mod 4 of the block ⌊n/4⌋.
A block is made by Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"):

    key     (seed mod 2³², ⌊seed/2³²⌋)
    counter (⌊n/4⌋, index mod 2³², ⌊index/2³²⌋, 256·(step + 1) + stage)

Its four words w₀ to w₃ make two pairs of normal numbers (Box and Muller 1958):

    √(−2·ln((w₀ + ½)/2³²)) · (cos, sin)(π·w₁/2³¹), with w₁ as a signed number; and the same of w₂ and w₃.

They are computed in float32, so other kinds of GPU may differ in the last bits.

PyTorch's own keyed generator (``torch.func._random`` of 2.13, experimental) is not used: it would be a third stream.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import numpy as np
import torch
from torch import Tensor

from ..support.errors import ConfigurationError
from .host_copies import sent
from .noise import NoiseSource
from .noise_keys import Keys

__all__ = ["STREAMS", "DeviceNoise", "draw", "kernel", "source_of"]

#: Where noise can be made; each has its own numbers.
STREAMS: Final = ("cpu", "cuda")
_BLOCK: Final = 256
_STAGES: Final = 1 << 8
_STEPS: Final = 1 << 24


@functools.cache
def kernel() -> Any | None:
    """The kernel; None without Triton."""
    try:
        from .philox_kernel import draw_normal
    except ImportError:
        return None
    return draw_normal


@final
@dataclass(frozen=True)
class DeviceNoise(NoiseSource):
    """A noise source that makes its numbers on the device."""

    made_on: ClassVar[str] = "cuda"

    def __call__(self, step: int, stage: int) -> Tensor:
        """The noise of one step, shape (B, ...); the stage numbers the noises of a step."""
        return draw(self.words, self.shape, self.dtype, step, stage)

    @functools.cached_property
    def words(self) -> Tensor:
        """The seed and the index of each sample in halves of 32 bits, the low one first; shape (B, 4), int32."""
        keys = np.ascontiguousarray(self.keys.array, dtype="<u8")
        halves = torch.from_numpy(keys.view("<i4").reshape(len(self.keys), 4).copy())
        return sent(halves, self.device)


def source_of(
    made_on: str, keys: Keys, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> NoiseSource:
    """The noise of a batch from the stream with this name, one of :data:`STREAMS`.

    Raises:
        ConfigurationError: the run is not on the device that would make the noise, or Triton is not installed.
    """
    if made_on != "cuda":
        return NoiseSource(keys, shape, dtype, device)
    if device.type != "cuda":
        raise ConfigurationError(
            f"the run is on {device}, and noise of 'cuda' is made on the GPU of its run",
            where="noise_device",
            why="the host makes other numbers, so it cannot stand in",
            suggestion="use noise_device='cpu', or move the run to CUDA",
        )
    _needed_kernel()
    return DeviceNoise(keys, shape, dtype, device)


def _needed_kernel() -> Any:
    run = kernel()
    if run is None:
        raise ConfigurationError(
            "noise on the device needs Triton, which is not installed",
            where="noise_device",
            suggestion="pip install triton, or use noise_device='cpu'",
        )
    return run


def draw(words: Tensor, shape: tuple[int, ...], dtype: torch.dtype, step: int, stage: int) -> Tensor:
    """The noise of one step, shape (B, *shape), on the device of the words.

    Args:
        words: of the keys, as :attr:`DeviceNoise.words`; a captured run reads them when it is started.
        shape: of one sample.
        dtype: of the noise; the numbers do not depend on it.
        step, stage: the noise of a run; ``step`` is −1 for the initial one.

    Raises:
        ConfigurationError: Triton is not installed, or the step or the stage has no counter.
    """
    run = _needed_kernel()
    if not (0 <= stage < _STAGES and 0 <= step + 1 < _STEPS):
        raise ConfigurationError(
            f"step {step}, stage {stage} is beyond the counter of the noise on the device",
            where="noise_device",
            suggestion=f"use at most {_STEPS - 2} steps and {_STAGES} noises a step, or noise_device='cpu'",
        )
    size = math.prod(shape)
    out = torch.empty((len(words), *shape), dtype=dtype, device=words.device)
    blocks = -(-size // 4)
    total = blocks * len(words)
    if total:
        with torch.cuda.device(words.device if words.is_cuda else -1):  # −1: no change
            place, grid = _STAGES * (step + 1) + stage, (-(-total // _BLOCK),)
            run[grid](out, words, place, blocks, size, total, BLOCK=_BLOCK, enable_fp_fusion=True)
    return out
