"""Shards as tar files in the layout of WebDataset."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from .base import Batch, SetFacts, ShardWriter

__all__ = ["WebDatasetWriter"]


@final
class WebDatasetWriter(ShardWriter):
    """``000000000123.npy`` (the sample) and ``000000000123.json`` (what it is) for sample 123."""

    suffix: ClassVar[str] = ".tar"

    def __init__(self, path: Path, facts: SetFacts) -> None:
        super().__init__(path, facts)
        self._file = open(path, "xb")  # noqa: SIM115  # close() closes it
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def write(self, batch: Batch) -> None:
        for place, index in enumerate(batch.indices.tolist()):
            buffer = io.BytesIO()
            np.save(buffer, batch.arrays[place], allow_pickle=False)
            self._add(f"{index:012d}.npy", buffer.getvalue())
            self._add(f"{index:012d}.json", json.dumps(self.about(batch, place)).encode())

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)  # without time and owner: the same samples make the same file
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))

    def close(self) -> None:
        try:
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def release(self) -> None:
        self._file.close()
