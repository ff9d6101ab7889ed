"""Random numbers of training: each depends only on the seed, the step, the sample and what it is for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ..running.many_generators import keyed
from ..running.noise import NoiseSource, resolve_keys
from ..running.noise_keys import Keys
from ..support.argument_checks import checked_count
from ..support.errors import ConfigurationError, shown

__all__ = ["Draws", "Purpose"]

_CPU = torch.device("cpu")
#: The key of what the samples of a step share.
_SHARED = 1 << 63


class Purpose(IntEnum):
    """What a number is for: the stage of its noise key. A run of a sampler has smaller stages."""

    NOISE = 1 << 20
    TIME = 2 << 20
    STRATUM = 3 << 20
    DROPOUT = 4 << 20
    PERTURBATION = 5 << 20
    OFFSET = 6 << 20
    PYRAMID = 7 << 20


@final
@dataclass(frozen=True)
class Draws:
    """The random numbers of some samples of one training step.

    Attributes:
        keys: of the samples.
        step: of the training, from 0.
        first: the index of the first sample in the whole batch.
        whole: the size of the whole batch, of which these samples may be a part.
        device, dtype: of the noise.
    """

    keys: Keys
    step: int
    first: int
    whole: int
    device: torch.device = _CPU
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(
        cls, batch: int, seed: int | None, step: int, first: int = 0, whole: int | None = None,
        device: torch.device | None = None, dtype: torch.dtype = torch.float32,
    ) -> Draws:  # fmt: skip
        """The draws of samples ``first`` to ``first + batch − 1`` of a step.

        Args:
            batch: the number of samples.
            seed: a whole number; None draws one from PyTorch's global generator.
            step: of the training.
            first: the index of the first sample in the whole batch, as on the second of several GPUs.
            whole: the size of the whole batch; None: these samples are the last ones.
            device, dtype: of the noise.

        Raises:
            ConfigurationError: a seed that is not one whole number, or numbers that do not fit together.
        """
        batch = checked_count(batch, "batch")
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or not 0 <= step < 2**62:
            raise ConfigurationError(
                f"got {shown(step)}", where="step", suggestion="give the number of the training step, from 0"
            )
        if not isinstance(seed, int | np.integer | None):
            raise ConfigurationError(
                f"got {shown(seed)}",
                where="seed",
                suggestion="give one whole number; step= and first_index= do the rest",
            )
        keys = resolve_keys(None if seed is None else int(seed), None, batch, first)
        if seed is None:  # one for the whole batch
            keys = Keys.numbered(keys[0][0], batch, first)
        size = first + batch if whole is None else checked_count(whole, "whole_batch")
        if size < first + batch:
            raise ConfigurationError(
                f"got {size} for samples {first} to {first + batch - 1}",
                where="whole_batch",
                suggestion="give the number of samples of all parts together",
            )
        return cls(keys, int(step), first, size, device or _CPU, dtype)

    def normal(self, shape: tuple[int, ...], purpose: int) -> Tensor:
        """Normal numbers, shape (B, *shape)."""
        return NoiseSource(self.keys, shape, self.dtype, self.device)(self.step, purpose)

    def uniform(self, shape: tuple[int, ...], purpose: int) -> Tensor:
        """Uniform numbers in (0, 1), shape (B, *shape), float64 on the CPU: Φ of normal numbers."""
        numbers = NoiseSource(self.keys, shape or (1,), torch.float32)(self.step, purpose).double()
        drawn: Tensor = torch.special.ndtr(numbers)
        return drawn if shape else drawn[:, 0]

    def levels(self, frames: int | None, *, stratified: bool) -> Tensor:
        """Uniform numbers for the times, shape (B,) or (B, frames), float64.

        Stratified: of the whole batch of N samples, one lies in each interval [k/N, (k + 1)/N), for each frame alone.
        """
        shape = () if frames is None else (frames,)
        drawn = self.uniform(shape, Purpose.TIME)
        if not stratified:
            return drawn
        ranks = np.tile(np.arange(self.whole)[:, None], (1, frames or 1))
        seed = self.keys[0][0]
        generator: Any = keyed(seed, _SHARED, int(Purpose.STRATUM), self.step + 1)
        mixed = torch.from_numpy(generator.permuted(ranks, axis=0)[self.first : self.first + len(drawn)])
        return ((mixed if frames is not None else mixed[:, 0]) + drawn) / self.whole
