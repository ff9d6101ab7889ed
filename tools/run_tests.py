"""Run the whole suite in as many processes as there are cores, whole test files to each.

    python tools/run_tests.py [options of pytest]

Prints the output of each group of files when it ends, and ends with 1 where any test fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
_GROUPS = 10


def parts(count: int) -> list[list[str]]:
    """Groups of test files, the largest first; a process takes the next group when it has done one."""
    files = sorted(TESTS.glob("test_*.py"), key=lambda path: -path.stat().st_size)
    return [[str(file) for file in files[k::count]] for k in range(count)]


def run(files: list[str]) -> int:
    """One process; its output is printed as a whole."""
    command = [sys.executable, "-m", "pytest", *sys.argv[1:], *files]
    done = subprocess.run(command, cwd=TESTS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    return done.returncode


if __name__ == "__main__":
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        sys.exit(any(list(pool.map(run, parts(_GROUPS)))))
