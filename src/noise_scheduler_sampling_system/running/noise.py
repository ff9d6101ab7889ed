"""Noise that depends only on the seed, the sample, the step and the stage.

A counter-based generator makes each noise tensor independently: Philox-4x64-10 (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), whose bits NumPy's ziggurat turns into normal numbers in float32. There is no stream of
numbers. The batch size, the device, the data type and a restart therefore do not change the noise of a sample. The bits
are generated on the CPU and are the same for every device.

Let a sample have d numbers, and g = max(1, ⌊4096/d⌋). The noise of sample i of a seed is row i mod g of the g×d normal
numbers with the key (seed, ⌊i/g⌋) and the counter (0, 0, stage, step + 1). The rows of a group are generated together,
because a generator takes as long as hundreds of numbers. Many generators of few numbers each, as of small samples with
a seed each, are evaluated at once (:mod:`.many_generators`), with the same result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, cast, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .many_generators import keyed, standard_normal
from .noise_keys import Key, Keys, Seed, calibration_keys, resolve_keys

__all__ = ["NoiseSource", "Seed", "calibration_keys", "resolve_keys"]

_CPU = torch.device("cpu")
#: (step, stage) of the initial noise.
INITIAL = (-1, 0)
#: Small samples are grouped up to this number of entries for one generator.
_GROUP = 4096
#: From this number of generators on, and up to this number of numbers from each, all generators are evaluated at once.
_MANY = 100
_FEW_NUMBERS = 96
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

    #: The kind of noise, and where its numbers are made: a stream of its own each.
    kind: ClassVar[str] = "independent"
    made_on: ClassVar[str] = "cpu"

    keys: Keys
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device = _CPU

    def __post_init__(self) -> None:
        if not isinstance(self.keys, Keys):
            object.__setattr__(self, "keys", Keys.of(cast("Iterable[Key]", self.keys)))

    def initial(self) -> Tensor:
        """The noise at the start of a run, shape (B, ...)."""
        return self(*INITIAL)

    def __call__(self, step: int, stage: int) -> Tensor:
        """The noise of one step, shape (B, ...); the stage numbers the noises of a step."""
        return self.placed(self.on_host(step, stage))

    def on_host(self, step: int, stage: int) -> Tensor:
        """The noise of one step on the host, where another thread may draw it; in pinned memory for CUDA."""
        batch, size = len(self.keys), math.prod(self.shape)
        if self.device != _CPU and self.device.type == "cuda":  # to name a type takes longer than to compare
            out = torch.empty((batch, *self.shape), dtype=torch.float32, device=_CPU, pin_memory=True)
            numbers = out.numpy().reshape(batch, size)
        else:
            numbers = np.empty((batch, size), dtype=np.float32)
            out = torch.from_numpy(numbers.reshape(batch, *self.shape))
        if batch:
            self._fill(numbers, stage, step + 1)
        return out

    def placed(self, drawn: Tensor) -> Tensor:
        """A noise of :meth:`on_host` on the device, in the type of the run; a copy to CUDA is not waited for."""
        if self.device != _CPU:
            drawn = drawn.to(self.device, non_blocking=self.device.type == "cuda")
        return drawn if self.dtype is torch.float32 else drawn.to(self.dtype)

    def _fill(self, out: npt.NDArray[np.float32], stage: int, step: int) -> None:
        """Write the noise of the batch into ``out``, shape (B, d)."""
        batch, size = out.shape
        if batch >= _MANY and size <= _FEW_NUMBERS:
            layout = self._layout
            count = layout.most_rows * size
            if len(layout.keys) >= _MANY and count <= _FEW_NUMBERS:
                drawn = standard_normal(layout.keys, stage, step, count)
                numbers = drawn.reshape(len(layout.keys), layout.most_rows, size)
                out[layout.members] = numbers[layout.generators, layout.rows]
                return

        groups = self._groups
        if len(groups) > 1 and out.size >= _WORTH_THREADS:
            with ThreadPoolExecutor(min(len(groups), torch.get_num_threads())) as pool:
                list(pool.map(lambda group: group.fill(out, stage, step), groups))
        else:
            for group in groups:
                group.fill(out, stage, step)

    @property
    def _group_size(self) -> int:
        """g, the number of samples of a generator."""
        return max(1, _GROUP // max(1, math.prod(self.shape)))

    @functools.cached_property
    def _layout(self) -> _Layout:
        """Which numbers of which generators the samples have."""
        size = self._group_size
        seeds, indices = self.keys.array.T
        groups, rows = indices // np.uint64(size), (indices % np.uint64(size)).astype(np.int64)
        order = np.lexsort((groups, seeds))  # stable: within a generator as in the batch
        seeds, groups, rows = seeds[order], groups[order], rows[order]
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = (seeds[1:] != seeds[:-1]) | (groups[1:] != groups[:-1])
        keys = np.stack([seeds[begins], groups[begins]], axis=1)
        return _Layout(keys, order, np.cumsum(begins) - 1, rows, int(rows.max()) + 1)

    @functools.cached_property
    def _groups(self) -> tuple[_Group, ...]:
        """The samples of the batch, grouped by generator."""
        if len(self.keys) < _MANY:  # as below, which would take longer than these noises
            found: dict[Key, tuple[list[int], list[int]]] = {}
            size = self._group_size
            for place, (seed, index) in enumerate(self.keys):
                members, rows = found.setdefault((seed, index // size), ([], []))
                members.append(place)
                rows.append(index % size)
            return tuple([_Group(key, members, rows, max(rows) + 1) for key, (members, rows) in found.items()])
        layout = self._layout
        starts = np.flatnonzero(np.diff(layout.generators)) + 1
        parts = zip(layout.keys.tolist(), np.split(layout.members, starts), np.split(layout.rows, starts), strict=True)
        return tuple(
            _Group((seed, group), members, rows, int(rows.max()) + 1) for (seed, group), members, rows in parts
        )

    def part(self, start: int, stop: int) -> NoiseSource:
        """The noise of samples start to stop."""
        return replace(self, keys=self.keys[start:stop])


@final
@dataclass(frozen=True)
class _Layout:
    """The samples of a batch, sorted by generator.

    Attributes:
        keys: of the generators, shape (G, 2).
        members: the places of the samples in the batch, shape (B,).
        generators: the number of the generator of each sample.
        rows: the row of each sample in the generator's numbers.
        most_rows: the largest number of rows that a generator must make.
    """

    keys: npt.NDArray[np.uint64]
    members: npt.NDArray[np.int64]
    generators: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    most_rows: int


class _Group(NamedTuple):
    """The samples of one generator.

    Attributes:
        key: of the generator.
        members: the places of the samples in the batch.
        rows: the row of each sample in the generator's numbers.
        most_rows: the number of rows to generate: up to the last one that a sample has.
    """

    key: Key
    members: Sequence[int] | npt.NDArray[np.int64]
    rows: Sequence[int] | npt.NDArray[np.int64]
    most_rows: int

    def fill(self, out: npt.NDArray[np.float32], stage: int, step: int) -> None:
        """Write the noise of these samples into ``out``, shape (B, d)."""
        generator = keyed(*self.key, stage, step)
        if len(self.members) == self.most_rows == 1:
            generator.standard_normal(dtype=np.float32, out=out[self.members[0]])  # in-place
        else:
            drawn = generator.standard_normal((self.most_rows, out.shape[1]), dtype=np.float32)
            out[self.members] = drawn[self.rows]
