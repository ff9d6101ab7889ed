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

from .errors import FileError, NoiseSamplingError, cut

try:
    import fcntl
except ImportError:  # not on Windows, where the files of killed processes stay
    fcntl = None  # type: ignore[assignment]

__all__ = ["checked_path", "of_file", "read_bytes", "refuse_missing_folder", "replacing", "write_atomic"]

#: The most bytes of a file's name that its temporary name repeats. A longer one may exceed the system's limit.
_NAME_BYTES = 150


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The path as a :class:`Path`.

    Raises:
        FileError: neither a text nor a path, or a text that cannot be the name of a file.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise FileError(f"got {type(path).__name__}", where="path", suggestion="give the file's name")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise FileError("is not the name of a file", where=cut(repr(path), 100), suggestion="give the file's name")
    return Path(path)


@contextlib.contextmanager
def of_file(path: str | os.PathLike[str], what: str, suggestion: str) -> Iterator[None]:
    """Turn errors about the content of a file into a FileError that names the file."""
    try:
        yield
    except FileError as error:
        raise FileError(f"{what}: {error.what}", where=str(path), why=error.why, suggestion=error.suggestion) from None
    except (NoiseSamplingError, ValueError) as error:
        raise FileError(what, where=str(path), why=cut(error), suggestion=suggestion) from error


def refuse_missing_folder(path: str | os.PathLike[str]) -> None:
    """Raise FileError where a file cannot be written. For use before the long work whose result it will hold."""
    target = checked_path(path)
    folder = target.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise FileError(
            f"its folder {folder} is missing or not writable", where=str(path), suggestion="make it, or name another"
        )
    _refuse_special(target)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name in its folder, and move it into place.

    Raises:
        FileError: the folder is missing or not writable, or the disk is full. The old file is then untouched.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary file that replaces a file when the block ends; if the block raises, it is removed.

    The temporary file is locked while a process writes it. One without a lock was left by a process that was killed,
    and is removed here.

    Raises:
        FileError: the block or the replacement raised an OSError. The old file is then untouched.
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
    """Yield a new, locked file in the folder of the target, and its descriptor; if it is still there, remove it."""
    while True:
        temporary = target.with_name(f"{_prefix(target)}{uuid.uuid4().hex}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock(descriptor)
            if not temporary.exists():  # another process removed it before it was locked
                continue
            yield temporary, descriptor
            return
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    """The beginning of the temporary names of a file."""
    name = target.name
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{name}."


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of a target that are not locked."""
    if fcntl is None:
        return
    ours = re.compile(re.escape(_prefix(target)) + r"[0-9a-f]{32}\.tmp")
    for entry in target.parent.iterdir():
        if not ours.fullmatch(entry.name):
            continue
        with contextlib.suppress(OSError):  # locked by a live process, removed by another, or not ours
            descriptor = os.open(entry, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                _lock(descriptor, required=True)
                entry.unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int, *, required: bool = False) -> None:
    """Lock a file. Where that fails, raise OSError if the lock is ``required``; some disks have no locks."""
    if fcntl is None:
        return
    with contextlib.nullcontext() if required else contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The content of a file of at most ``limit`` bytes.

    Raises:
        FileError: it is missing, unreadable, too large, or not a regular file.
    """
    target = checked_path(path)
    try:
        _refuse_special(target)  # before it is opened: to open a pipe may block
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
    """Raise for a folder, a device or a pipe: reading may never end, and writing would replace it."""
    try:
        mode = target.stat().st_mode
    except OSError:  # it does not exist yet
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise FileError("is not a file", where=str(target), why=f"it is {kind}", suggestion="give the file's name")
