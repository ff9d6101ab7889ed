"""The folder of a set: what it holds, which shards are finished, and how a shard enters it.

``dataset.json`` says what the set is. ``journal`` lists the finished shards (:mod:`.journal`). ``shards/`` holds them.
A worker writes a shard under a temporary name. The one process that holds the lock renames it and adds its line to the
journal, in this order, each of them on disk before the next. A crash between leaves a shard without a line, which is
made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from ..support.data_files import read_json, write_json
from ..support.errors import ConfigurationError, FileError, shown
from ..support.files import checked_path, of_file
from .formats.base import sync
from .journal import Journal, ShardRecord
from .layout import MOST_SHARDS, Layout
from .lock import only_writer

__all__ = ["TEMPORARY", "SetFolder", "content_of", "reads_content", "removed"]

_FORMAT: Final = 1
_ABOUT, _JOURNAL, _SHARDS = "dataset.json", "journal", "shards"
#: The beginning of temporary names. No reader of a set takes a hidden name for a shard.
TEMPORARY: Final = ".writing-"
_CHUNK: Final = 2**20


@final
@dataclass
class SetFolder:
    """A set in a folder, which this process may write.

    Attributes:
        path: of the folder.
        about: what ``dataset.json`` holds.
        journal: the finished shards.
    """

    path: Path
    about: dict[str, Any]
    journal: Journal

    @classmethod
    @contextlib.contextmanager
    def writing(cls, path: str | os.PathLike[str]) -> Iterator[SetFolder]:
        """The folder, locked; it is made where it is missing. ``about`` is empty for a new set.

        Raises:
            FileError: another process writes it, it holds something else, or it cannot be written.
        """
        folder = checked_path(path)
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            other = [each.name for each in folder.iterdir() if not each.name.startswith(".")]  # locks, unfinished files
            if other and not (folder / _ABOUT).is_file():
                raise FileError(
                    f"is not empty and holds no {_ABOUT}", where=str(folder),
                    why=f"it holds {', '.join(sorted(other)[:3])}", suggestion="name a new folder",
                )  # fmt: skip
            lock = only_writer(folder)
            lock.__enter__()
        try:
            about = _read_about(folder) if (folder / _ABOUT).exists() else {}
            if about:
                with storing(folder):
                    (folder / _SHARDS).mkdir(exist_ok=True)
                _swept(folder / _SHARDS)  # after a run that was killed
            journal = Journal.read(folder / _JOURNAL)
            with storing(folder):
                journal.compact()
            try:
                yield cls(folder, about, journal)
            finally:
                _swept(folder / _SHARDS)  # after workers that were killed
        finally:
            lock.__exit__(None, None, None)

    @classmethod
    def reading(cls, path: str | os.PathLike[str]) -> SetFolder:
        """The folder of a set that another process may be writing.

        Raises:
            FileError: it holds no set.
        """
        folder = checked_path(path)
        if not (folder / _ABOUT).is_file():
            raise FileError(f"holds no {_ABOUT}", where=str(folder), suggestion="give the folder of generate_dataset")
        return cls(folder, _read_about(folder), Journal.read(folder / _JOURNAL))

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.path / _SHARDS

    @property
    def layout(self) -> Layout:
        """The shards that the set has when it is finished."""
        return Layout(self.about["num_samples"], self.about["shard_size"])

    def describe(self, about: dict[str, Any]) -> None:
        """Write ``dataset.json``.

        Raises:
            FileError: it cannot be written.
        """
        self.about = {"format_version": _FORMAT, **about}
        write_json(self.path / _ABOUT, self.about)
        with storing(self.path):
            self.shards.mkdir(exist_ok=True)
            sync(self.path)

    def accept(self, temporary: Path, record: ShardRecord) -> None:
        """Give a written shard its name, and add it to the journal.

        Raises:
            FileError: the disk is full, or the shard is gone.
        """
        final_place = self.shards / record.file
        with storing(final_place):
            if final_place.is_dir():  # os.replace does not replace a folder that holds something
                old = self.shards / f"{TEMPORARY}old-{record.file}"
                removed(old)
                os.replace(final_place, old)
                os.replace(temporary, final_place)
                removed(old)
            else:
                os.replace(temporary, final_place)
            sync(self.shards)
            self.journal.append(record)

    def problem(self, number: int, *, hashes: bool) -> str | None:
        """What is wrong with a shard; None where it is whole.

        Args:
            number: of the shard.
            hashes: read its content; otherwise its size alone is checked.
        """
        shard, record = self.layout[number], self.journal.records.get(number)
        place = self.shards / (record.file if record else shard.name)
        if record is None:
            return "it was not finished"
        if (record.first, record.count) != (shard.first, shard.count):
            return f"it holds {record.count} samples from {record.first} on, not {shard.count} from {shard.first} on"
        try:
            size, sha256 = content_of(place, hashes=hashes)
        except FileNotFoundError:
            return f"{place.name} is missing"
        except OSError as error:
            return f"{place.name} cannot be read: {error.strerror or error}"
        if size != record.bytes:
            return f"{place.name} has {size} bytes, and had {record.bytes} when it was written"
        if hashes and sha256 != record.sha256:
            return f"the content of {place.name} was changed: its SHA-256 is another one"
        return None


def reads_content(check: Any) -> bool:
    """Whether a check of shards reads their content ("full"), or looks at their sizes alone ("size").

    Raises:
        ConfigurationError: another check.
    """
    if not isinstance(check, str) or check not in ("full", "size"):
        raise ConfigurationError(f"got {shown(check)}", where="check", suggestion="give 'full' or 'size'")
    return check == "full"


def _swept(shards: Path) -> None:
    """Remove what unfinished shards left. What cannot be removed stays: no reader takes it for a shard."""
    with contextlib.suppress(OSError):
        for entry in list(shards.iterdir()):
            if entry.name.startswith(TEMPORARY):
                removed(entry)


def _read_about(folder: Path) -> dict[str, Any]:
    with of_file(folder / _ABOUT, "does not describe a set", "restore it, or name a new folder"):
        about = read_json(folder / _ABOUT)
        if not isinstance(about, dict) or about.get("format_version") != _FORMAT:
            raise ValueError("it is of another format")
        for name in ("num_samples", "shard_size", "batch_size"):
            if type(about.get(name)) is not int or about[name] < 1:
                raise ValueError(f"{name} is {shown(about.get(name))}")
        if -(-about["num_samples"] // about["shard_size"]) > MOST_SHARDS:
            raise ValueError(f"it has more than {MOST_SHARDS:,} shards")
        if not isinstance(about.get("identity"), dict):
            raise ConfigurationError("is missing", where="identity", suggestion="restore the file")
        return about


def content_of(place: Path, *, hashes: bool = True) -> tuple[int, str]:
    """The bytes and the SHA-256 of a file, or of the names and the content of the files in a folder.

    Raises:
        OSError: it cannot be read.
    """
    if not place.is_dir():
        return _of_file(place, hashes)
    total, digest = 0, hashlib.sha256()
    for entry in sorted(os.listdir(place)):
        size, inner = _of_file(place / entry, hashes)
        total += size
        digest.update(f"{entry} {size} {inner}\n".encode())
    return total, digest.hexdigest() if hashes else ""


def _of_file(place: Path, hashes: bool) -> tuple[int, str]:
    if not hashes:
        return place.stat().st_size, ""
    digest, size = hashlib.sha256(), 0
    with open(place, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def removed(place: Path) -> None:
    """Remove a file or a folder, if it is there."""
    with contextlib.suppress(OSError):
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink()


@contextlib.contextmanager
def storing(place: Path) -> Iterator[None]:
    """Turn an OSError into a FileError that says what to do when the disk is full."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            "cannot be written",
            where=str(place),
            why=error.strerror or str(error),
            suggestion="free space or correct the folder's rights, and run the same command again: it goes on",
        ) from error
