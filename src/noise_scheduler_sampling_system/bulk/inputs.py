"""Conditions and decoders that a command names: rows taken in turn, tables in files, pictures of latents."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..integrations.named_models import NamedModel
from ..pipeline.pipeline import DiffusionPipeline
from ..running.digests import digest
from ..support.errors import ConfigurationError, FileError, cut, shown
from ..support.files import of_file, read_bytes

__all__ = ["InTurn", "Pictures", "condition_named", "table_in"]

#: The most bytes of a table; a larger set of conditions is a function.
_MOST_BYTES = 2**30


@final
@dataclass(frozen=True)
class InTurn:
    """A condition: sample i gets entry i mod L of each list of length L."""

    lists: Mapping[str, Sequence[Any]]

    @property
    def fingerprint(self) -> str:
        """All entries count."""
        return digest({name: list(values) for name, values in self.lists.items()})

    def __call__(self, indices: npt.NDArray[np.int64]) -> dict[str, Any]:
        rows = {name: [values[i % len(values)] for i in indices.tolist()] for name, values in self.lists.items()}
        return {name: _numbers(values) for name, values in rows.items()}


@final
@dataclass(frozen=True)
class Pictures:
    """A decoder: latents of a pipeline of diffusers as images in [−1, 1]."""

    known: NamedModel
    pipeline: DiffusionPipeline

    fingerprint = "pictures"

    def __call__(self, samples: Tensor) -> Tensor:
        return self.known.pictures(self.pipeline, samples)


def condition_named(name: str) -> Any:
    """The condition that a text names: a function ``module:attribute``, or a table in a file.

    Raises:
        ConfigurationError: no such function.
        FileError: no such table.
    """
    module, colon, attribute = name.partition(":")
    if not colon or Path(name).exists():
        return table_in(name)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{shown(name)} cannot be imported", where="condition", why=cut(error), suggestion="check PYTHONPATH"
        ) from None
    if not callable(found):
        raise ConfigurationError(
            f"{shown(name)} is of type {type(found).__name__}",
            where="condition",
            suggestion="name a function of an array of indices, or a .csv, .jsonl or .parquet file",
        )
    return found


def table_in(path: str) -> dict[str, Any]:
    """The columns of a table: .csv with headings, .jsonl with a mapping a line, or .parquet.

    Columns of numbers become arrays; other columns stay lists of texts.

    Raises:
        FileError: another ending, or a file that is missing or malformed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".jsonl", ".parquet"):
        raise FileError("is not a table", where=path, suggestion="give a .csv, .jsonl or .parquet file")
    data = read_bytes(path, _MOST_BYTES)
    with of_file(path, "is not a table", "give a row a sample, each with the same columns"):
        if suffix == ".parquet":
            return _parquet(data)
        lines = data.decode("utf-8-sig").splitlines()
        try:
            rows = list(csv.DictReader(lines, strict=True)) if suffix == ".csv" else [json.loads(x) for x in lines if x]
        except (csv.Error, RecursionError) as error:
            raise ValueError(str(error)) from None
        if not rows or not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
            raise ValueError("it has no rows, or rows with other columns than the first")
        if not all(isinstance(name, str) for name in rows[0]) or any(None in row.values() for row in rows):
            raise ValueError("a row has more or fewer values than there are headings")
        return {name: _numbers([row[name] for row in rows]) for name in rows[0]}


def _parquet(data: bytes) -> dict[str, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError(
            "pyarrow is not installed", where="condition",
            suggestion="pip install 'noise-scheduler-sampling-system[bulk]'",
        ) from None  # fmt: skip
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(str(error)) from None
    return {name: _numbers(table[name].to_pylist()) for name in table.column_names}


def _numbers(values: list[Any]) -> Any:
    """The values as an array, where all are numbers or texts of numbers, or lists of numbers of one length."""
    if values and all(isinstance(value, str) for value in values):
        whole, real = (_as(kind, values) for kind in (np.int64, np.float32))
        return values if real is None else real if whole is None else whole
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        return values
    return array if array.dtype.kind in "iub" else array.astype(np.float32) if array.dtype.kind == "f" else values


def _as(kind: Any, texts: list[str]) -> Any:
    try:
        return np.array(texts).astype(kind)
    except (ValueError, OverflowError):
        return None
