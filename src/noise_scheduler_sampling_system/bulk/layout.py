"""How the samples of a set are split into shards and batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

__all__ = ["MOST_SHARDS", "Layout", "Shard", "suggested_shard_size"]

#: The most shards of a set: the journal is held in memory.
MOST_SHARDS: Final = 2_000_000
#: Unless the user says otherwise, shards hold 1,024 samples, or more where there would be more than this number of
#: shards; and at most this number of bytes.
_SHARDS, _SAMPLES, _BYTES = 100_000, 1024, 64 * 2**20


@final
@dataclass(frozen=True)
class Shard:
    """Consecutive samples of a set, which are made and written together.

    Attributes:
        number: of the shard, from 0.
        first: the index of its first sample.
        count: the number of its samples.
    """

    number: int
    first: int
    count: int

    @property
    def name(self) -> str:
        """The name of its file or folder, without an ending."""
        return f"shard-{self.number:07d}"

    def batches(self, size: int) -> Iterator[tuple[int, int]]:
        """(first, count) of its batches. They begin at the shard's first sample, so that every run makes the same."""
        for first in range(self.first, self.first + self.count, size):
            yield first, min(size, self.first + self.count - first)


@final
@dataclass(frozen=True)
class Layout:
    """The shards of a set.

    Attributes:
        num_samples: of the set.
        shard_size: samples of a shard; the last one may have fewer.
    """

    num_samples: int
    shard_size: int

    def __len__(self) -> int:
        return -(-self.num_samples // self.shard_size)

    def __getitem__(self, number: int) -> Shard:
        first = number * self.shard_size
        if not 0 <= first < self.num_samples:
            raise IndexError(number)
        return Shard(number, first, min(self.shard_size, self.num_samples - first))


def suggested_shard_size(num_samples: int, shape: tuple[int, ...], batch_size: int) -> int:
    """About a thousand samples, or more for more than 10⁸; at most 64 MiB in float32, and whole batches."""
    fits = _BYTES // (4 * math.prod(shape))
    return max(1, min(max(_SAMPLES, num_samples // _SHARDS), fits) // batch_size) * batch_size
