"""Run the whole suite in as many processes as there are cores, whole test files to each.

    python tools/run_tests.py [options of pytest]

Prints each process's output when it ends, and ends with 1 where any test fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"


def parts(count: int) -> list[list[str]]:
    """The test files in so many parts of about the same size, the longest files first."""
    shares: list[list[str]] = [[] for _ in range(count)]
    sizes = [0] * count
    for file in sorted(TESTS.glob("test_*.py"), key=lambda path: -path.stat().st_size):
        k = sizes.index(min(sizes))
        shares[k].append(str(file))
        sizes[k] += file.stat().st_size
    return [share for share in shares if share]


def run(files: list[str]) -> int:
    """One process; its output is printed as a whole."""
    command = [sys.executable, "-m", "pytest", *sys.argv[1:], *files]
    done = subprocess.run(command, cwd=TESTS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    return done.returncode


if __name__ == "__main__":
    shares = parts(max(1, min(4, os.cpu_count() or 1)))
    with ThreadPoolExecutor(len(shares)) as pool:
        sys.exit(any(pool.map(run, shares)))
