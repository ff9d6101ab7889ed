"""What the writers of all formats share."""

from __future__ import annotations

import hashlib
import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...support.errors import ConfigurationError

__all__ = ["Batch", "SetFacts", "ShardWriter", "plain", "sync"]

#: Arrays of a condition with more numbers than this are named in JSON by their shape and digest.
_MOST_NUMBERS: Final = 64


@final
@dataclass(frozen=True)
class SetFacts:
    """What all samples of a set have in common.

    Attributes:
        seed: of the noise.
        plan_hash: the content hash of the plan.
    """

    seed: int
    plan_hash: str


@final
@dataclass(frozen=True)
class Batch:
    """Finished samples, in the order of their indices.

    Attributes:
        indices: shape (B,).
        arrays: shape (B, ...), in a type that NumPy has.
        dtype: the name of the type of the samples, e.g. "bfloat16".
        condition: by keyword, one entry a sample.
    """

    indices: npt.NDArray[np.int64]
    arrays: npt.NDArray[Any]
    dtype: str
    condition: Mapping[str, list[Any]]

    @classmethod
    def of(cls, indices: npt.NDArray[np.int64], samples: Tensor, condition: Mapping[str, Any]) -> Batch:
        """The batch of samples of shape (B, ...); conditions without a row a sample are repeated."""
        values = samples.detach().cpu()
        wide = values.float() if values.dtype is torch.bfloat16 else values  # exact
        columns = {name: _column(value, len(indices)) for name, value in condition.items()}
        return cls(indices, np.ascontiguousarray(wide.numpy()), str(values.dtype).removeprefix("torch."), columns)

    def without(self, places: set[int]) -> Batch:
        """The batch without the samples at these places."""
        kept = [place for place in range(len(self.indices)) if place not in places]
        columns = {name: [column[place] for place in kept] for name, column in self.condition.items()}
        return Batch(self.indices[kept], self.arrays[kept], self.dtype, columns)


class ShardWriter(ABC):
    """Writes the batches of one shard to a temporary place, which the caller then renames.

    Args:
        path: where to; it must not exist.
        facts: of the set.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """

    #: The ending of a shard's name; "" for a folder.
    suffix: ClassVar[str]
    #: The packages that the format needs, as they are imported, and the extra that installs them.
    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, facts: SetFacts) -> None:
        self.path, self.facts = path, facts

    @classmethod
    def refuse_missing_packages(cls) -> None:
        """Raise ConfigurationError where a package of the format is missing."""
        try:
            for package in cls.packages:
                importlib.import_module(package)
        except ImportError as error:
            raise ConfigurationError(
                f"{package} cannot be imported",
                where="format",
                why=str(error),
                suggestion="pip install 'noise-scheduler-sampling-system[bulk]'",
            ) from None

    @classmethod  # noqa: B027  # most formats take every shape
    def refuse_shape(cls, shape: tuple[int, ...]) -> None:
        """Raise ConfigurationError where samples of a shape do not fit the format."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Write finished samples; they are on disk only after :meth:`close`."""

    @abstractmethod
    def close(self) -> None:
        """End the shard and wait until it is on disk."""

    @abstractmethod
    def release(self) -> None:
        """Close what is open after a failure; what was written is removed by the caller."""

    def about(self, batch: Batch, place: int) -> dict[str, Any]:
        """What formats with a JSON entry a sample say about it."""
        return {
            "index": int(batch.indices[place]),
            "seed": self.facts.seed,
            "shape": list(batch.arrays.shape[1:]),
            "dtype": batch.dtype,
            "condition": {name: plain(column[place]) for name, column in batch.condition.items()},
            "plan_hash": self.facts.plan_hash,
        }


def plain(value: Any) -> Any:
    """A value of a condition as JSON has it; large arrays are named by shape, type and SHA-256."""
    if isinstance(value, np.ndarray):
        if value.size <= _MOST_NUMBERS:
            return value.tolist()
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": digest}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _column(value: Any, count: int) -> list[Any]:
    """One entry a sample."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    if isinstance(value, np.ndarray) and value.ndim and len(value) == count:
        return list(value)
    if isinstance(value, list | tuple) and len(value) == count:
        return list(value)
    if isinstance(value, Mapping):
        columns = {name: _column(item, count) for name, item in value.items()}
        return [{name: column[i] for name, column in columns.items()} for i in range(count)]
    return [value] * count


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk. Windows cannot wait for a folder."""
    on_windows = os.name == "nt"
    if on_windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)  # Windows waits only for what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
