"""Noise that depends only on the seed, the sample, the step and the stage.

A counter-based generator makes each noise tensor independently: Philox-4x64-10 (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), whose bits NumPy's ziggurat turns into normal numbers in float32. There is no stream of
numbers. The batch size, the device, the data type and a restart therefore do not change the noise of a sample. The bits
are generated on the CPU and are the same for every device.

Let a sample have d numbers, and g = max(1, ⌊4096/d⌋). The noise of sample i of a seed is row i mod g of the g×d normal
numbers with the key (seed, ⌊i/g⌋) and the counter (0, 0, stage, step + 1). The rows of a group are generated together,
because a generator takes as long as a thousand numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import cast, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .noise_keys import Key, Keys, Seed, calibration_keys, resolve_keys

__all__ = ["NoiseSource", "Seed", "calibration_keys", "resolve_keys"]

_CPU = torch.device("cpu")
#: (step, stage) of the initial noise.
INITIAL = (-1, 0)
#: Small samples are grouped up to this number of entries for one generator.
_GROUP = 4096
#: Threads pay from this number of entries on.
_WORTH_THREADS = 1 << 16


@dataclass(frozen=True)
class NoiseSource:
    """Unit-variance noise for a batch of samples.

    Args:
        keys: (seed, index) of each sample, as :class:`~.noise_keys.Keys` or as pairs.
        shape: of one sample, without the batch.
        dtype, device: of the tensors returned; the numbers do not depend on them.
    """

    keys: Keys
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device = _CPU

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", Keys.of(cast("Iterable[Key]", self.keys)))

    def initial(self) -> Tensor:
        """The noise at the start of a run, shape (B, ...)."""
        return self(*INITIAL)

    def __call__(self, step: int, stage: int) -> Tensor:
        """The noise of one step, shape (B, ...); the stage numbers the noises of a step."""
        pinned = self.device.type == "cuda"
        out = torch.empty((len(self.keys), *self.shape), dtype=torch.float32, device=_CPU, pin_memory=pinned)
        rows = out.numpy().reshape(len(self.keys), -1)

        def fill(group: _Group) -> None:
            generator = np.random.Generator(_philox(*group.key, stage, step + 1))
            if len(group.members) == group.count == 1:
                generator.standard_normal(dtype=np.float32, out=rows[group.members[0]])  # in-place
            else:
                drawn = generator.standard_normal((group.count, rows.shape[1]), dtype=np.float32)
                rows[group.members] = drawn[group.rows]

        if len(self._groups) > 1 and rows.size >= _WORTH_THREADS:
            with ThreadPoolExecutor(min(len(self._groups), torch.get_num_threads())) as pool:
                list(pool.map(fill, self._groups))
        else:
            for group in self._groups:
                fill(group)
        return out.to(self.device, non_blocking=pinned).to(self.dtype)

    @functools.cached_property
    def _groups(self) -> tuple[_Group, ...]:
        """The samples of the batch, grouped by generator."""
        size = max(1, _GROUP // max(1, math.prod(self.shape)))
        seeds, indices = self.keys.array.T
        groups, rows = indices // np.uint64(size), (indices % np.uint64(size)).astype(np.int64)
        order = np.lexsort((groups, seeds))  # stable: within a group as in the batch
        if not len(order):
            return ()
        seeds, groups, rows = seeds[order], groups[order], rows[order]
        starts = np.flatnonzero((np.diff(seeds) != 0) | (np.diff(groups) != 0)) + 1
        return tuple(
            _Group((int(seeds[part[0]]), int(groups[part[0]])), order[part], rows[part])
            for part in np.split(np.arange(len(order)), starts)
        )

    def part(self, start: int, stop: int) -> NoiseSource:
        """The noise of samples start to stop."""
        return replace(self, keys=self.keys[start:stop])


@final
@dataclass(frozen=True)
class _Group:
    """The samples of one generator.

    Attributes:
        key: of the generator.
        members: the places of the samples in the batch.
        rows: the row of each sample in the generator's numbers.
    """

    key: Key
    members: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """The number of rows to generate: up to the last one that a sample has."""
        return int(self.rows.max()) + 1


def _philox(seed: int, index: int, stage: int, step: int) -> np.random.Philox:
    key = np.array([seed, index], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, stage, step], dtype=np.uint64))
