"""The noise keys of a batch, and the seeds that they come from."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, final, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..support.errors import ConfigurationError, shown

__all__ = ["MOST_SAMPLES", "Key", "Keys", "Seed", "calibration_keys", "checked_index", "resolve_keys"]

Seed = int | Sequence[int]
#: (seed, index of the sample with that seed)
Key = tuple[int, int]
#: The index of the first sample of a calibration.
_CALIBRATION = 1 << 40
#: Seeds that are drawn are below this one.
_MOST_DRAWN: Final = 2**63 - 1
#: Samples of a seed have indices below this one; those above belong to calibrations.
MOST_SAMPLES: Final = _CALIBRATION


@final
class Keys(Sequence[Key]):
    """(seed, index) of each sample of a batch: a sequence of pairs, equal to a tuple of the same pairs.

    The pairs are in one array, because a batch may have millions of samples. Those of numbered samples of one seed
    are put there when they are first read.

    Args:
        array: shape (B, 2), of uint64.
    """

    __slots__ = ("_array", "_numbered")
    _array: npt.NDArray[np.uint64] | None
    #: (seed, first index, B) of numbered samples.
    _numbered: tuple[int, int, int] | None

    def __init__(self, array: npt.NDArray[np.uint64]) -> None:
        array.setflags(write=False)
        object.__setattr__(self, "_array", array)
        object.__setattr__(self, "_numbered", None)

    @classmethod
    def of(cls, pairs: Iterable[Key]) -> Keys:
        """Make keys from pairs of whole numbers from 0 to 2⁶⁴ − 1."""
        if isinstance(pairs, Keys):
            return pairs
        listed = list(pairs)
        return cls(np.array(listed, dtype=np.uint64).reshape(len(listed), 2))

    @classmethod
    def numbered(cls, seed: int, count: int, first: int = 0) -> Keys:
        """The keys of ``count`` samples of one seed, with indices from ``first`` on."""
        keys = object.__new__(cls)
        object.__setattr__(keys, "_array", None)
        object.__setattr__(keys, "_numbered", (seed, first, count))
        return keys

    @property
    def array(self) -> npt.NDArray[np.uint64]:
        """The pairs, shape (B, 2), read-only."""
        if self._array is not None:
            return self._array
        assert self._numbered is not None  # one of the two is set
        seed, first, count = self._numbered
        array = np.empty((count, 2), dtype=np.uint64)
        array[:, 0] = seed
        array[:, 1] = np.arange(first, first + count, dtype=np.uint64)
        array.setflags(write=False)
        object.__setattr__(self, "_array", array)
        return array

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of Keys cannot be set")

    def __len__(self) -> int:
        return len(self.array) if self._numbered is None else self._numbered[2]

    @overload
    def __getitem__(self, index: int) -> Key: ...

    @overload
    def __getitem__(self, index: slice) -> Keys: ...

    def __getitem__(self, index: int | slice) -> Key | Keys:
        if isinstance(index, slice):
            return Keys(self.array[index])
        seed, number = self.array[index].tolist()
        return seed, number

    def __iter__(self) -> Iterator[Key]:
        if self._numbered is None:
            return ((seed, number) for seed, number in self.array.tolist())
        seed, first, count = self._numbered
        return ((seed, number) for number in range(first, first + count))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Keys):
            return np.array_equal(self.array, other.array)
        return (
            isinstance(other, tuple | list)
            and len(other) == len(self)
            and all(a == tuple(b) if isinstance(b, tuple | list) else False for a, b in zip(self, other, strict=True))
        )

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        if len(self) <= 8:
            return repr(tuple(self))
        return f"({', '.join(map(repr, self[:3]))}, ... {len(self)} keys)"

    def __reduce__(self) -> tuple[Any, ...]:
        return Keys, (np.array(self.array),)


def checked_index(index: Any, where: str = "first_index") -> int:
    """The number of a sample among those of a seed.

    Raises:
        ConfigurationError: not a whole number from 0 to 2⁴⁰ − 1.
    """
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < MOST_SAMPLES:
        raise ConfigurationError(
            f"got {shown(index)}", where=where, suggestion="give the number of a sample, from 0 to 2⁴⁰ − 1"
        )
    return int(index)


def calibration_keys(seed: Seed | None, count: int) -> Keys:
    """Keys that runs never have, because a plan must not be judged on the noise that it was fitted to.

    Raises:
        ConfigurationError: the seed is not one whole number in range.
    """
    return Keys.numbered(_checked_seed(seed), count, _CALIBRATION)


def resolve_keys(seed: Seed | None, generator: Any, batch: int, first: int = 0) -> Keys:
    """The key of every sample of a batch.

    Args:
        seed: one seed for the whole batch (its samples are numbered), or one seed for each sample (the sample then
            has index 0). ``None`` draws a seed from ``generator``.
        generator: a ``torch.Generator``, a list with one for each sample, or ``None`` for PyTorch's global one. A draw
            advances it.
        batch: B, the number of samples.
        first: the index of the first sample of one seed; the batch then holds samples first to first + B − 1.

    Raises:
        ConfigurationError: both are given, a seed is out of range, the number of seeds is not B, or ``first`` is given
            without one seed.
    """
    if seed is not None and generator is not None:
        raise ConfigurationError("seed and generator are both given", where="seed", suggestion="give one of them")
    if first:
        _refuse_numbering(seed, generator, batch, first)
    if seed is None:
        if not isinstance(generator, list | tuple):
            return Keys.numbered(_draw(generator), batch, first)
        seed = [_draw(g) for g in generator]
    seed = _listed(seed)
    if isinstance(seed, int | np.integer):
        return Keys.numbered(_checked_seed(seed), batch, first)
    if not isinstance(seed, Sequence) or isinstance(seed, str | bytes) or len(seed) != batch:
        raise ConfigurationError(
            f"got {shown(seed)} for a batch of {batch}",
            where="seed",
            suggestion="give one whole number, or one for each sample",
        )
    array = np.zeros((batch, 2), dtype=np.uint64)
    array[:, 0] = [_checked_seed(s) for s in seed]
    return Keys(array)


def _refuse_numbering(seed: Any, generator: Any, batch: int, first: int) -> None:
    """Raise where samples from ``first`` on do not exist, or where no seed says which samples they are."""
    if generator is not None or seed is None:
        raise ConfigurationError(
            f"got {first}, and the seed is drawn",
            where="first_index",
            why="the samples before it would be of an unknown seed",
            suggestion="give seed=..., one whole number",
        )
    if not isinstance(_listed(seed), int | np.integer):
        raise ConfigurationError(
            f"got {first} with a seed for each sample",
            where="first_index",
            why="each of these samples is number 0 of its own seed",
            suggestion="give one whole number as the seed, or leave first_index out",
        )
    if first + batch > MOST_SAMPLES:
        raise ConfigurationError(
            f"got {first} with a batch of {batch}",
            where="first_index",
            why="a seed has 2⁴⁰ samples; the noise after them belongs to calibrations",
            suggestion="give another seed",
        )


def _listed(seed: Any) -> Any:
    """Seeds in a tensor or an array as plain numbers; other values are returned unchanged and refused later."""
    if not isinstance(seed, Tensor | np.ndarray):
        return seed
    try:
        return seed.tolist()
    except (RuntimeError, NotImplementedError):  # sparse, meta, quantised
        return seed


@final
class _Drawn(threading.local):
    """The number that a thread draws from PyTorch's global generator; a new tensor takes twice the time."""

    number: Tensor | None = None


_DRAWN: Final = _Drawn()


def _new_number() -> Tensor:
    with torch.inference_mode(False):  # it must work outside that mode too
        made = torch.empty(1, dtype=torch.int64, device="cpu")
    if type(made) is Tensor:  # a tracing mode makes another type
        _DRAWN.number = made
    return made


def _draw(generator: torch.Generator | None) -> int:
    if generator is None:
        number = _DRAWN.number
        return int((_new_number() if number is None else number).random_(_MOST_DRAWN).item())
    if not isinstance(generator, torch.Generator):
        raise ConfigurationError(
            f"got {shown(generator)}", where="generator", suggestion="give a torch.Generator, or seed=... for a number"
        )
    return int(torch.randint(_MOST_DRAWN, (1,), generator=generator, device=generator.device).item())


def _checked_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**64:
        raise ConfigurationError(
            f"got {shown(seed)}", where="seed", suggestion="a seed is a whole number from 0 to 2**64 − 1"
        )
    return int(seed)
