"""Shards as Parquet files: one row a sample."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from ...support.errors import ConfigurationError, cut
from .base import Batch, SetFacts, ShardWriter

__all__ = ["ParquetWriter"]


@final
class ParquetWriter(ShardWriter):
    """Columns: index, seed, array (flat), shape, dtype, plan_hash, and ``condition.NAME`` for each keyword.

    ``numpy.array(row["array"]).reshape(row["shape"])`` is the sample. bfloat16, which Parquet does not have, is stored
    as float32 without loss; the column dtype names the type of the sample.
    """

    suffix: ClassVar[str] = ".parquet"
    packages: ClassVar[tuple[str, ...]] = ("pyarrow",)

    def __init__(self, path: Path, facts: SetFacts) -> None:
        super().__init__(path, facts)
        self._file = open(path, "xb")  # noqa: SIM115  # close() closes it
        self._writer: Any = None

    def write(self, batch: Batch) -> None:
        import pyarrow.parquet

        if not len(batch.indices):
            return
        table = _table(batch, self.facts)
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(
                self._file, table.schema, compression="none", use_dictionary=["seed", "dtype", "plan_hash"],
                write_statistics=["index"],
            )  # fmt: skip
        elif table.schema != self._writer.schema:
            table = _like(table, self._writer.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        import pyarrow.parquet

        try:
            if self._writer is None:  # every sample failed
                empty = pyarrow.table({"index": pyarrow.array([], pyarrow.int64())})
                pyarrow.parquet.write_table(empty, self._file)
            else:
                self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def release(self) -> None:
        if self._writer is not None:
            self._writer.is_open = False  # otherwise it writes a footer when it is deleted, to a file that is closed
        self._file.close()


def _like(table: Any, schema: Any) -> Any:
    """The table with the types of the shard's first batch.

    Raises:
        ConfigurationError: the values do not fit them.
    """
    try:
        return table.cast(schema)
    except (ValueError, TypeError, NotImplementedError) as error:  # each kind of ArrowException derives from one
        raise ConfigurationError(
            "samples or conditions of a shard differ in type from batch to batch",
            where="format",
            why=cut(error),
            suggestion="return the same shape and type for each batch from condition and decode, or use 'webdataset'",
        ) from None


def _table(batch: Batch, facts: SetFacts) -> Any:
    import pyarrow as pa

    count, size = len(batch.indices), int(np.prod(batch.arrays.shape[1:]))
    flat = pa.array(batch.arrays.reshape(-1))
    columns = {
        "index": pa.array(batch.indices),
        "seed": pa.array(np.full(count, facts.seed, dtype=np.uint64)),
        "array": pa.FixedSizeListArray.from_arrays(flat, size),
        "shape": pa.array([list(batch.arrays.shape[1:])] * count, pa.list_(pa.int32())),
        "dtype": pa.array([batch.dtype] * count),
        "plan_hash": pa.array([facts.plan_hash] * count),
    }
    for name, values in batch.condition.items():
        columns[f"condition.{name}"] = _column(values)
    return pa.table(columns)


def _column(values: list[Any]) -> Any:
    """A column of numbers, of texts, or of arrays as flat lists; other values as text."""
    import pyarrow as pa

    if isinstance(values[0], np.ndarray) and values[0].ndim:
        return pa.array([each.reshape(-1) for each in values])
    try:
        column = pa.array([each.item() if isinstance(each, np.ndarray | np.generic) else each for each in values])
        return column.cast(pa.string()) if pa.types.is_null(column.type) else column  # the next batch may hold texts
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.array([repr(each) for each in values])
