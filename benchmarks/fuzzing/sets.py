"""Folders of sets of samples whose description, journal or shards were changed: checked, and continued."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, final

import torch

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSamplingError
from noise_scheduler_sampling_system.bulk import generate_dataset, verify_dataset

from .case import Case, Kind
from .mutation import changed, changed_bytes, edited

__all__ = ["SetKind"]

_COUNT: Final = 6


class _Network:
    """A network of ε that depends on each sample alone."""

    fingerprint = "a network of sets"

    def __call__(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        return 0.5 * x


def _made(folder: Path, form: str) -> Any:
    shape = (1, 4, 4) if form == "png" else (2, 2)
    return generate_dataset(
        DiffusionPipeline(None, "ddim"), _Network(), _COUNT, folder, seed=7, shape=shape, num_inference_steps=2,
        batch_size=2, shard_size=2, format=form,
    )  # fmt: skip


@final
class SetKind(Kind):
    """Sets of which one file was changed, removed, or is joined by a stranger.

    Args:
        part: "manifest" (``dataset.json``), "journal" or "shard".
    """

    def __init__(self, part: str) -> None:
        self.name, self._part = part, part
        self._folder = tempfile.TemporaryDirectory()
        for form in ("parquet", "webdataset", "png"):
            _made(self._root / form, form)

    @property
    def _root(self) -> Path:
        return Path(self._folder.name)

    def close(self) -> None:
        self._folder.cleanup()

    def valid(self) -> list[Case]:
        return [self._case(form, "dataset.json", self._data(form, "dataset.json")) for form in self._forms()]

    def drawn(self, draw: random.Random) -> Case:
        form = draw.choice(self._forms())
        if self._part == "manifest":
            return self._case(form, "dataset.json", changed(self._data(form, "dataset.json"), draw, ".json"))
        if self._part == "journal":
            return self._case(form, "journal", _changed_journal(self._data(form, "journal"), draw))
        files = sorted(p for p in (self._root / form / "shards").rglob("*") if p.is_file())
        name = str(draw.choice(files).relative_to(self._root / form))
        data = changed_bytes(self._data(form, name), draw)
        if draw.random() < 0.1:
            return self._case(form, draw.choice(["shards/stranger", "shards/.writing-x", "shards/shard-9999999"]), data)
        return self._case(form, name, None if draw.random() < 0.1 else data)

    def _forms(self) -> list[str]:
        return sorted(each.name for each in self._root.iterdir())

    def _data(self, form: str, name: str) -> bytes:
        return (self._root / form / name).read_bytes()

    def _case(self, form: str, name: str, data: bytes | None) -> Case:
        """The set in which a file has other content, or is missing where there is none."""

        def use(folder: Path) -> None:
            there = folder / "set"
            shutil.copytree(self._root / form, there)
            if data is None:
                (there / name).unlink()
            else:
                (there / name).write_bytes(data)
            refusal: NoiseSamplingError | None = None
            try:
                str(verify_dataset(there))
            except NoiseSamplingError as error:
                refusal = error
            _made(there, form)
            checked = verify_dataset(there)
            assert checked.complete, f"it is not whole after a repeated run: {checked}"
            assert refusal is None, f"it was refused by verify_dataset alone: {refusal}"

        return Case({name: data or b"", "form.txt": form.encode()}, use)


def _changed_journal(data: bytes, draw: random.Random) -> bytes:
    """A journal with changed bytes, or with changed records whose checks hold."""
    if draw.random() < 0.4:
        return changed_bytes(data, draw)
    lines = data.decode().splitlines()
    at = draw.randrange(len(lines))
    text = json.dumps(edited(json.loads(lines[at].partition(" ")[2]), draw))
    lines[at] = f"{hashlib.sha256(text.encode()).hexdigest()[:16]} {text}"
    if draw.random() < 0.2:
        lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return ("\n".join(lines) + "\n").encode(errors="surrogatepass")
