"""A lock on a folder, so that one process at a time writes a set."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ..support.errors import FileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["only_writer"]

_NAME = ".lock"


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. The system releases it when the process ends, however it ends.

    The file stays; what counts is the lock on it, not that it exists. Network disks must support ``flock``.

    Raises:
        FileError: another process holds it, or the disk has no locks.
    """
    descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            _lock(descriptor)
        except OSError as error:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip()
            raise FileError(
                "is being written by another process" if holder else "cannot be locked",
                where=str(folder),
                why=holder or error.strerror or str(error),
                suggestion="wait for it to end, or name another folder",
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt  # Windows alone has it

    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
