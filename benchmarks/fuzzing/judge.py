"""How a case ended: success, the library's own refusal, or a fault.

Faults are: an error of another library, a RuntimeWarning, more time or memory than the limits, a hidden file that is
left, a file written elsewhere, code that an input makes run, and a refusal without advice or of a length that nobody
reads.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from noise_scheduler_sampling_system import NoiseSamplingError

from .case import Case, RefusedInputError

__all__ = ["ADDRESSES", "HANGS", "MEMORY", "Outcome", "judged", "limited_memory"]

#: Seconds of the clock after which a case is given up.
HANGS: Final = 60.0
#: Bytes by which the resident memory may rise in a case.
MEMORY: Final = 256 * 2**20
#: Bytes of address space that the process may take beyond what it has at the start.
ADDRESSES: Final = 8 * 2**30
#: Characters of an error: nobody reads more.
MESSAGE: Final = 8000
#: Audit events of Python that no input may cause.
_CODE: Final = frozenset({
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pickle.find_class",
    "webbrowser.open", "socket.connect",
})  # fmt: skip
_WRITING: Final = os.O_WRONLY | os.O_RDWR


@final
@dataclass(frozen=True)
class Outcome:
    """The end of a case.

    Attributes:
        word: "succeeded", "refused" or "FAULT".
        by: the class of the refusal, or the kind of the fault.
        told: what is wrong, or the refusal.
    """

    word: str
    by: str = ""
    told: str = ""


class _HangsError(BaseException):
    """The time is up; no ``except Exception`` catches it."""


@final
class _Watch:
    """What Python does while a case runs: forbidden events, and files that are opened for writing elsewhere."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._event)

    def _event(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if name in _CODE:
            self.seen.append(f"{name}{str(arguments)[:200]}")
        elif name == "open":
            path, _, flags = arguments
            if isinstance(path, str) and isinstance(flags, int) and flags & _WRITING and not self._inside(path):
                self.seen.append(f"opened {path[:200]} for writing")

    def _inside(self, path: str) -> bool:
        return path == os.devnull or os.path.realpath(path).startswith(self.folder or "")


_WATCH: list[_Watch] = []  # a hook cannot be removed, so that there is one


def _watch() -> _Watch:
    if not _WATCH:
        sys.dont_write_bytecode = True
        _WATCH.append(_Watch())
    return _WATCH[0]


def limited_memory() -> None:
    """Bound the address space of this process, so that a bomb ends in a MemoryError and not in the machine's end."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + ADDRESSES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def judged(case: Case, folder: Path, *, memory: bool = True) -> Outcome:
    """Run a case in a new folder of this path, and say how it ended.

    Args:
        case: the input.
        folder: is made, and removed again.
        memory: measure the rise of the resident memory.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before = _peak(reset=True) if memory else 0
    begin = time.process_time()
    with _watched(folder) as watch:
        outcome = _ended(case, folder)
    seconds = time.process_time() - begin
    rise = _peak() - before if memory else 0
    # a locked folder keeps its lock; every other hidden file is a partial one
    left = [str(p.relative_to(folder)) for p in folder.rglob(".*") if p.name != ".lock"]
    shutil.rmtree(folder, ignore_errors=True)
    if outcome.word == "FAULT":
        return outcome
    after = f"after it was {outcome.word} {outcome.by}"
    if watch.seen:
        return Outcome("FAULT", "code or a file elsewhere", f"{'; '.join(watch.seen[:3])} {after}")
    if left:
        return Outcome("FAULT", "partial file", f"{', '.join(left[:5])} {after}")
    if seconds > case.seconds:
        return Outcome("FAULT", "slow", f"{seconds:.1f} s of the processor {after}")
    if rise > MEMORY:
        return Outcome("FAULT", "memory", f"{rise / 2**20:.0f} MiB {after}")
    return outcome


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[_Watch]:
    watch, here = _watch(), Path.cwd()
    watch.seen = []
    os.chdir(folder)
    watch.folder = os.path.realpath(folder)
    try:
        yield watch
    finally:
        watch.folder = None
        os.chdir(here)


def _ended(case: Case, folder: Path) -> Outcome:
    earlier = signal.signal(signal.SIGALRM, _hangs)
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)
            case.use(folder)
        return Outcome("succeeded")
    except RefusedInputError as refusal:
        return _refused(refusal.args[0], " ".join(refusal.args), advice=True)
    except NoiseSamplingError as error:
        return _refused(type(error).__name__, str(error), advice=bool(error.what and error.suggestion))
    except _HangsError:
        return Outcome("FAULT", "hangs", f"no end after {HANGS:g} s\n{traceback.format_exc(limit=-8)}")
    except Exception as error:
        return Outcome("FAULT", type(error).__name__, f"{str(error)[:300]}\n{traceback.format_exc(limit=-6)[:6000]}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, earlier)


def _refused(by: str, message: str, *, advice: bool) -> Outcome:
    if not advice:
        return Outcome("FAULT", "message without advice", message[:1000])
    if len(message) > MESSAGE:
        return Outcome("FAULT", "long message", f"{len(message)} characters: {message[:300]}")
    return Outcome("refused", by, message)


def _hangs(*_: object) -> None:
    raise _HangsError


def _peak(*, reset: bool = False) -> int:
    """The largest resident memory since the last reset, in bytes; after a reset the present one."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    with open("/proc/self/status") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), 0)
