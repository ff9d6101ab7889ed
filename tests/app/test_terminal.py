"""A terminal of 80 columns, a pipe, and Ctrl-C, in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from noise_scheduler_sampling_system.app.output import Output, complain

COMMAND = [sys.executable, "-m", "noise_scheduler_sampling_system"]
ANSI = re.compile(r"\x1b\[[0-9;]*m")
SLOW = """
import time
class Slow:
    shape, prediction_type = (1, 4, 4), "epsilon"
    def __call__(self, x, t):
        open("calls", "a").write(".")
        time.sleep(0.1)
        return 0.5 * x
net = Slow()
"""


class Terminal:
    """Stands for stdout: a terminal that keeps what is written."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in the test: pytest replaces stdout after the fixtures."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "80")
    return shown


def test_a_wide_table_is_folded_or_printed_in_blocks(monkeypatch):
    terminal = terminal_of(monkeypatch)
    Output().table([("name", "about"), ("a", "several words " * 20), ("b", "few")], folds=(1,))
    rows = ANSI.sub("", terminal.text).splitlines()
    assert max(map(len, rows)) <= 80
    assert terminal.text.count("several") == 20
    terminal.text = ""
    Output().table([[f"column {k}" for k in range(20)], [str(k**9) for k in range(20)]], numbers=range(20))
    shown = ANSI.sub("", terminal.text)
    assert max(map(len, shown.splitlines())) <= 80
    assert all(str(k**9) in shown for k in range(20))
    assert shown.count("column 0") > 1, "each block has the first column"
    terminal.text = ""
    Output().table([("x", "y" * 30, "z" * 30, "text"), ("1", "2", "3", "some text " * 5)], folds=(3,), drops=(1,))
    assert "yyy" not in terminal.text
    assert "zzz" in terminal.text


def test_a_message_is_broken_between_words(monkeypatch):
    terminal = terminal_of(monkeypatch)
    complain("file: " + "a long message " * 20 + "\n  try: " + "something else " * 10, "configuration error")
    lines = ANSI.sub("", terminal.text).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("configuration error: file: a long message")
    assert "\x1b[31m" in terminal.text


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_shows_a_table_of_its_width_and_a_progress_bar(tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    shown, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    command = [*COMMAND, "compare", "ddim", "heun", "--nfe", "3,4,5,6,7,8,9,10", "--count", "2"]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color"}
    done = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment)
    os.close(theirs)
    read = b""
    while True:
        try:
            part = os.read(shown, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        read += part
    assert done.wait() == 0
    text = ANSI.sub("", read.decode())
    assert re.search(r"\d+/\d+ \[\d+:\d+<\d+:\d+, .*call/s", text), "calls a second, and the time that is left"
    table = [line for line in text.replace("\r\n", "\n").splitlines() if line.startswith(("sampler", "ddim", "heun"))]
    assert len(table) == 6, "two blocks of columns"
    assert max(map(len, table)) <= 80


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_control_c_keeps_what_is_done_and_ends_with_130(tmp_path):
    (tmp_path / "slow_of_a_test.py").write_text(SLOW)
    command = [*COMMAND, "sample", "--model", "slow_of_a_test:net", "--count", "100", "--max-batch-size", "2"]
    command += ["--steps", "4", "--seed", "0", "--out", "kept.npz"]
    done = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    calls, deadline = tmp_path / "calls", time.monotonic() + 60.0
    while (not calls.exists() or calls.stat().st_size < 6) and time.monotonic() < deadline:
        time.sleep(0.05)
    done.send_signal(signal.SIGINT)
    out, err = done.communicate(timeout=60)
    assert done.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted: kept.npz has the first" in err
    assert "wrote kept.npz" in out
    samples = np.load(Path(tmp_path) / "kept.npz")["samples"]
    assert 2 <= len(samples) < 100
