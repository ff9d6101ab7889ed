"""Noise that depends on (seed, sample, step) only.

Each tensor of noise is drawn for itself from a counter-based generator: Philox-4x64-10
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") whose bits become normal
numbers by NumPy's ziggurat in float32. There is no stream to consume, so neither the batch
size, nor the device, nor the data type, nor a restart can change sample 17; the bits are made
on the host, the same for every device.

The noise of sample i of a seed, with d numbers a sample and g = max(1, ⌊4096/d⌋): row i mod g
of the g×d normal numbers of the key (seed, ⌊i/g⌋) and the counter (0, 0, stage, step + 1). The
rows of a group are drawn together because a generator costs as much as a thousand numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import ConfigurationError

__all__ = ["NoiseSource", "Seed", "calibration_keys", "resolve_keys"]

Seed = int | Sequence[int]
#: (seed, index of the sample under that seed)
Key = tuple[int, int]
_CPU = torch.device("cpu")
#: The first sample of a seed that a calibration takes.
_APART = 1 << 40
#: The step of the initial noise.
INITIAL = (-1, 0)
#: Numbers that one generator draws at least, where samples are small.
_GROUP = 4096
#: Below this many numbers threads cost more than they bring.
_WORTH_THREADS = 1 << 16


def calibration_keys(seed: Seed | None, count: int) -> tuple[Key, ...]:
    """Keys of a seed that no run has: a plan must not be judged on the noise that it was fitted to.

    Raises:
        ConfigurationError: the seed is not one whole number in range.
    """
    return tuple((_checked(seed), _APART + i) for i in range(count))


def resolve_keys(seed: Seed | None, generator: Any, batch: int) -> tuple[Key, ...]:
    """The key of every sample of a batch.

    Args:
        seed: one seed for the whole batch (its samples are numbered), or one a sample (each
            is then sample 0 of its seed). ``None`` draws one from ``generator``.
        generator: a ``torch.Generator``, a list of one a sample, or ``None`` for PyTorch's
            global one; drawing advances it.
        batch: the number of samples.

    Raises:
        ConfigurationError: both given, a seed out of range, or the wrong number of them.
    """
    if seed is not None and generator is not None:
        raise ConfigurationError("seed and generator are both given", where="seed", suggestion="give one of them")
    if seed is None:
        many = isinstance(generator, list | tuple)
        seed = [_draw(g) for g in generator] if many else _draw(generator)
    if isinstance(seed, Tensor | np.ndarray):
        seed = seed.tolist()
    if isinstance(seed, int | np.integer):
        checked = _checked(seed)
        return tuple((checked, i) for i in range(batch))
    if not isinstance(seed, Sequence) or isinstance(seed, str | bytes) or len(seed) != batch:
        raise ConfigurationError(
            f"got {seed!r} for a batch of {batch}", where="seed", suggestion="give one whole number, or one a sample"
        )
    return tuple((_checked(s), 0) for s in seed)


def _draw(generator: torch.Generator | None) -> int:
    if not isinstance(generator, torch.Generator | None):
        raise ConfigurationError(
            f"got {generator!r}", where="generator", suggestion="give a torch.Generator, or seed=... for a number"
        )
    device = generator.device if generator is not None else "cpu"
    return int(torch.randint(2**63 - 1, (1,), generator=generator, device=device).item())


def _checked(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**64:
        raise ConfigurationError(
            f"got {seed!r}", where="seed", suggestion="a seed is a whole number from 0 to 2**64 − 1"
        )
    return int(seed)


@dataclass(frozen=True)
class NoiseSource:
    """Unit-variance noise for a batch of samples.

    Args:
        keys: (seed, index) of each sample.
        shape: the shape of one sample, without the batch.
        dtype, device: of the tensors returned; the numbers do not depend on them.
    """

    keys: tuple[Key, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device = _CPU

    def initial(self) -> Tensor:
        """The noise that a run starts from, shape (B, ...)."""
        return self(*INITIAL)

    def __call__(self, step: int, stage: int) -> Tensor:
        """The noise of one step, shape (B, ...); stages tell several in one step apart."""
        pinned = self.device.type == "cuda"
        out = torch.empty((len(self.keys), *self.shape), dtype=torch.float32, device=_CPU, pin_memory=pinned)
        rows = out.numpy().reshape(len(self.keys), -1)

        def fill(group: _Group) -> None:
            generator = np.random.Generator(_philox(*group.key, stage, step + 1))
            if len(group.members) == group.count == 1:
                generator.standard_normal(dtype=np.float32, out=rows[group.members[0]])  # in place
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
        """The batch's samples by the generator that draws them."""
        size = max(1, _GROUP // max(1, math.prod(self.shape)))
        members: dict[Key, list[int]] = {}
        for i, (seed, index) in enumerate(self.keys):
            members.setdefault((seed, index // size), []).append(i)
        return tuple(
            _Group(key, np.array(found), np.array([self.keys[i][1] % size for i in found]))
            for key, found in members.items()
        )

    def part(self, start: int, stop: int) -> NoiseSource:
        """The source of samples start to stop."""
        return replace(self, keys=self.keys[start:stop])


@dataclass(frozen=True)
class _Group:
    """Samples drawn by one generator: their places in the batch, and their rows of what it draws."""

    key: Key
    members: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """Rows to draw: up to the last one wanted."""
        return int(self.rows.max()) + 1


def _philox(seed: int, index: int, stage: int, step: int) -> np.random.Philox:
    key = np.array([seed, index], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, stage, step], dtype=np.uint64))
