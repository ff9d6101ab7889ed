"""Every example runs by itself, and examples/README.md lists every one."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*.py"))
#: What makes an example that takes minutes short.
SHORT = {"train_digits": ["--steps", "2", "--samples", "10"]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_runs(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(file), *SHORT.get(file.stem, [])])
    runpy.run_path(str(file), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert not list(tmp_path.iterdir())


def test_every_example_is_listed():
    listed = set(re.findall(r"\]\((\S+\.py)\)", (EXAMPLES / "README.md").read_text()))
    assert listed == {file.relative_to(EXAMPLES).as_posix() for file in FILES}
