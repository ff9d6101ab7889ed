"""Files written whole or not at all, and read with errors that name them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import FileError, NoiseSamplingError

try:
    import fcntl
except ImportError:  # not on Windows, where what a killed process leaves is not removed
    fcntl = None  # type: ignore[assignment]

__all__ = ["checked_path", "cut", "of_file", "read_bytes", "refuse_missing_folder", "replacing", "write_atomic"]

#: Characters of another library's message that an error repeats.
_REASON = 400
#: Bytes of a file's name that its temporary name repeats, so that this one is not too long itself.
_NAME = 150


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The path as such.

    Raises:
        FileError: no text and no path, or a text that no file can be called.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise FileError(f"got {type(path).__name__}", where="path", suggestion="give the file's name")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise FileError("is no name of a file", where=cut(repr(path), 100), suggestion="give the file's name")
    return Path(path)


def cut(text: object, length: int = _REASON) -> str:
    """A text, or the message of another library, so short that an error can repeat it."""
    whole = str(text)
    return whole if len(whole) <= length else f"{whole[:length]}..."


@contextlib.contextmanager
def of_file(path: str | os.PathLike[str], what: str, suggestion: str) -> Iterator[None]:
    """Errors of the library about what a file holds, as FileError that names the file."""
    try:
        yield
    except FileError as error:
        raise FileError(f"{what}: {error.what}", where=str(path), why=error.why, suggestion=error.suggestion) from None
    except (NoiseSamplingError, ValueError) as error:
        raise FileError(what, where=str(path), why=cut(error), suggestion=suggestion) from error


def refuse_missing_folder(path: str | os.PathLike[str]) -> None:
    """Raises FileError where a file could not be written in the end, before what it is to hold is made."""
    target = checked_path(path)
    folder = target.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise FileError(
            f"its folder {folder} is missing, or not writable", where=str(path), suggestion="make it, or name another"
        )
    _refuse_special(target)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name beside it and move it into place.

    Raises:
        FileError: the folder is missing or not writable, or the disk is full; the old file is then untouched.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty temporary file beside a file, which takes its place when the block ends, and is removed if it fails.

    Until then it is locked. So what a killed process has left of an earlier write is known by having no lock, and is
    removed here, and the file of a process that still writes is not.

    Raises:
        FileError: an OSError of the block, or of what is done here; the old file is then untouched.
    """
    target = checked_path(path)
    try:
        if target.is_symlink():  # replace what the link points to, not the link
            target = target.resolve()
        _refuse_special(target)
        _remove_leftovers(target)
        with _locked_file(target) as (temporary, descriptor):
            yield temporary
            os.fsync(descriptor)
            if target.exists():
                os.chmod(temporary, target.stat().st_mode & 0o777)
            os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            "cannot be written",
            where=str(path),
            why=error.strerror or str(error),
            suggestion="check that the folder exists and is writable, and that the disk is not full",
        ) from error


@contextlib.contextmanager
def _locked_file(target: Path) -> Iterator[tuple[Path, int]]:
    """A new file beside the target, with its descriptor; locked, and removed at the end where it is still there."""
    while True:
        temporary = target.with_name(f"{_prefix(target)}{uuid.uuid4().hex}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock(descriptor)
            if not temporary.exists():  # taken for a leftover before it had its lock
                continue
            yield temporary, descriptor
            return
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    """How the temporary names of a file begin."""
    name = target.name
    if len(os.fsencode(name)) > _NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{name}."


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of a target that no process holds."""
    if fcntl is None:
        return
    ours = re.compile(re.escape(_prefix(target)) + r"[0-9a-f]{32}\.tmp")
    for entry in target.parent.iterdir():
        if not ours.fullmatch(entry.name):
            continue
        with contextlib.suppress(OSError):  # held by a live process, gone by now, or not ours to remove
            descriptor = os.open(entry, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                _lock(descriptor, only=True)
                entry.unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int, *, only: bool = False) -> None:
    """Lock a file; with ``only`` raise OSError where that cannot be, else do without where a disk has no locks."""
    if fcntl is None:
        return
    with contextlib.nullcontext() if only else contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The content of a file of at most ``limit`` bytes.

    Raises:
        FileError: it is missing, unreadable, too large, or no regular file.
    """
    target = checked_path(path)
    try:
        _refuse_special(target)  # before it is opened: a pipe may be waiting for somebody
        with open(target, "rb") as file:
            data = file.read() if limit is None else file.read(limit + 1)
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(
            "cannot be read",
            where=str(path),
            why=getattr(error, "strerror", None) or str(error),
            suggestion="check the path",
        ) from error
    if limit is not None and len(data) > limit:
        raise FileError(
            f"is larger than {limit // 2**20} MiB", where=str(path), suggestion="give the file that was meant"
        )
    return data


def _refuse_special(target: Path) -> None:
    """Raise where a path is that of a folder, a device or a pipe: read it may never end, replaced it would be lost."""
    try:
        mode = target.stat().st_mode
    except OSError:  # nothing there yet
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise FileError("is no file", where=str(target), why=f"it is {kind}", suggestion="give the file's name")
