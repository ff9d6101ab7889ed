"""Run the whole suite in as many processes as there are cores.

    python tools/run_tests.py [options of pytest]

A process takes one test file after another, so that it imports PyTorch and diffusers once. Prints the output of each
file when it ends, and at last the files that failed. Ends with 1 where any test fails.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: The files that take longest come first, so that no process is left with one at the end; the others by their size.
_FIRST = (
    "test_calibration.py",
    "test_orders.py",
    "test_page.py",
    "test_samplers.py",
    "test_budgets_and_checkpoints.py",
    "test_twins.py",
    "test_site.py",
)


def files() -> list[Path]:
    """All test files, those that take longest first."""
    found = sorted((ROOT / "tests").rglob("test_*.py"), key=lambda path: -path.stat().st_size)
    return sorted(found, key=lambda path: _FIRST.index(path.name) if path.name in _FIRST else len(_FIRST))


def run(file: Path, options: list[str]) -> tuple[int, str]:
    """Run one file in this process; return pytest's exit code and what it printed."""
    os.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = pytest.main([*options, str(file)])
    return int(code), printed.getvalue()


def main(options: list[str]) -> int:
    """Run every file; return 1 where one of them failed or its process ended."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores
    began, failed = time.monotonic(), []
    with ProcessPoolExecutor(max(1, min(4, os.cpu_count() or 1)), mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run, file, options): file.relative_to(ROOT) for file in files()}
        for done in as_completed(running):
            try:
                code, printed = done.result()
            except Exception as error:  # the process was killed
                code, printed = 1, repr(error)
            print(f"{running[done]}\n{printed}", flush=True)
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                failed.append(str(running[done]))
    print(f"{len(running)} files in {time.monotonic() - began:.0f} s; failed: {', '.join(sorted(failed)) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
