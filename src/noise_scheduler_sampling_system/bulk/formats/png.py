"""Shards as folders of PNG files, with one line of JSON a sample."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np

from ...support.errors import ConfigurationError
from .base import Batch, SetFacts, ShardWriter, sync

__all__ = ["PngWriter"]

#: Threads that wait for the disk.
_WAITING: Final = 32


@final
class PngWriter(ShardWriter):
    """A folder with ``000000000123.png`` for sample 123, and ``samples.jsonl``, which says what each sample is.

    Samples are images of 1, 3 or 4 channels in [−1, 1]; values beyond are clipped, and 256 brightnesses are kept.
    """

    suffix: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ("PIL",)

    def __init__(self, path: Path, facts: SetFacts) -> None:
        super().__init__(path, facts)
        path.mkdir()
        self._list: list[str] = []

    @classmethod
    def refuse_shape(cls, shape: tuple[int, ...]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3, 4):
            raise ConfigurationError(
                f"samples of shape {shape} are not pictures",
                where="format",
                suggestion="use 'parquet' or 'webdataset'; PNG takes (channels, height, width) with 1, 3 or 4 channels",
            )

    def write(self, batch: Batch) -> None:
        self.refuse_shape(batch.arrays.shape[1:])
        for place, index in enumerate(batch.indices.tolist()):
            name = f"{index:012d}.png"
            with open(self.path / name, "xb") as file:
                _picture(batch.arrays[place]).save(file, format="png")
            self._list.append(json.dumps({"file": name, **self.about(batch, place)}))

    def close(self) -> None:
        with open(self.path / "samples.jsonl", "x", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self._list)
        with ThreadPoolExecutor(_WAITING) as pool:  # a disk ends many waits at once
            list(pool.map(sync, self.path.iterdir()))
        sync(self.path)

    def release(self) -> None:
        self._list.clear()


def _picture(image: Any) -> Any:
    """A PIL image of an array (C, H, W) in [−1, 1]."""
    from PIL import Image

    pixels = np.rint((image.astype(np.float64) + 1.0) * 127.5).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
