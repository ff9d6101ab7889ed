"""The list of finished shards: a file to which one line is appended for each, so that it stays cheap to keep.

A line is the beginning of the SHA-256 of its text, and the text, which is JSON. A line that a crash cut off does not
match, and neither does one that was changed. A later line about a shard replaces the earlier ones.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, final

from ..support.errors import FileError
from ..support.files import write_atomic
from .formats.base import sync

__all__ = ["Journal", "ShardRecord"]

_DIGITS: Final = 16


@final
@dataclass(frozen=True)
class ShardRecord:
    """What is known of a finished shard.

    Attributes:
        shard: its number.
        first, count: its samples, those that failed included.
        file: its name in the folder of shards.
        bytes, sha256: of its content.
        batch_size: with which it was made.
        failed: (first, last, reason) of consecutive samples that are not in it.
    """

    shard: int
    first: int
    count: int
    file: str
    bytes: int
    sha256: str
    batch_size: int
    failed: tuple[tuple[int, int, str], ...] = ()

    @property
    def num_failed(self) -> int:
        """The number of samples that failed."""
        return sum(last - first + 1 for first, last, _ in self.failed)


@final
@dataclass
class Journal:
    """The finished shards of a set, in memory and in a file.

    Attributes:
        path: of the file.
        records: by the number of the shard.
        damaged: the numbers of the lines that are not valid, from 1.
        lines: of the file.
    """

    path: Path
    records: dict[int, ShardRecord] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)
    lines: int = 0

    @classmethod
    def read(cls, path: Path) -> Journal:
        """The journal in a file; an empty one where there is no file.

        Raises:
            FileError: the file cannot be read.
        """
        journal = cls(path)
        try:
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    journal.lines = number
                    record = _parsed(line)
                    if record is None:
                        journal.damaged.append(number)
                    else:
                        journal.records[record.shard] = record
        except OSError as error:
            raise FileError(
                "cannot be read", where=str(path), why=error.strerror or str(error), suggestion="check the path"
            ) from error
        return journal

    def compact(self) -> None:
        """Write the file anew if it holds lines that are cut off, changed or replaced. Only the holder of the lock may.

        Raises:
            OSError: the file cannot be written.
        """
        if self.lines > len(self.records):
            write_atomic(self.path, b"".join(_line(self.records[number]) for number in sorted(self.records)))
            sync(self.path.parent)
            self.lines, self.damaged = len(self.records), []

    def append(self, record: ShardRecord) -> None:
        """Add a record, on disk first. A line that does not fit is taken back.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        line = _line(record)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self.path, flags, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # the disk took a part of it
                os.fsync(descriptor)
                if not before:  # the file may be new
                    sync(self.path.parent)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        self.records[record.shard] = record
        self.lines += 1

    def forget(self, shard: int) -> None:
        """Leave a shard out, in memory: it will be made again, and its line replaced."""
        self.records.pop(shard, None)


def _line(record: ShardRecord) -> bytes:
    text = json.dumps(asdict(record), separators=(",", ":"))
    return f"{_check(text)} {text}\n".encode()


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _parsed(line: bytes) -> ShardRecord | None:
    """The record of a line; None if it is cut off or was changed."""
    try:
        check, _, text = line.decode("utf-8").removesuffix("\n").partition(" ")
        if not line.endswith(b"\n") or check != _check(text):
            return None
        data: dict[str, Any] = json.loads(text)
        failed = tuple((int(first), int(last), str(reason)) for first, last, reason in data.pop("failed"))
        record = ShardRecord(**data, failed=failed)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    numbers = (record.shard, record.first, record.count, record.bytes, record.batch_size)
    texts = (record.file, record.sha256)
    valid = all(type(n) is int and n >= 0 for n in numbers) and all(type(s) is str for s in texts)
    # a name from a file must not lead out of the folder
    return record if valid and record.file and os.path.basename(record.file) == record.file else None
