"""docs/design.md: the files that the number of steps passes are those that it passes."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

from typer.testing import CliRunner

import noise_scheduler_sampling_system as package
from noise_scheduler_sampling_system.app.command_line import app

ROOT = Path(package.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "design.md"
#: A number that nothing else in the call is.
STEPS = 37
#: What the number of steps is called where it is an argument.
NAMES = ("steps", "num_inference_steps", "count")


def walk() -> list[str]:
    """The files of the documented walk, in order."""
    section = PAGE.read_text(encoding="utf-8").split("### A walk of one value")[1].split("\n## ")[0]
    return re.findall(r"^\| `([\w/.]+)` \|", section, re.MULTILINE)


def test_the_number_of_steps_passes_each_file_once_and_in_the_documented_order(tmp_path):
    carriers: list[str] = []  # files whose functions are given the number
    entered: dict[str, None] = {}  # all files, in the order of their first function after the pipeline is given it

    def trace(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event != "call" or not path.is_relative_to(ROOT):
            return
        file = path.relative_to(ROOT).as_posix()
        carries = any(frame.f_locals.get(name) == STEPS for name in NAMES if type(frame.f_locals.get(name)) is int)
        if entered or (carries and carriers):
            entered[file] = None
        if carries and not file.startswith("support/"):  # the check of a number returns it at once
            carriers.append(file)

    command = ["sample", "--steps", str(STEPS), "--seed", "0", "--out", str(tmp_path / "digits.safetensors")]
    assert CliRunner().invoke(app, command).exit_code == 0  # modules are imported, once
    before = sys.getprofile()
    sys.setprofile(trace)
    try:
        result = CliRunner().invoke(app, command)
    finally:
        sys.setprofile(before)
    assert result.exit_code == 0, result.output

    documented = walk()
    passed = [file for file, _ in groupby(carriers)]
    assert len(passed) == len(set(passed)), "the number of steps goes back to a file"
    assert passed == [file for file in documented if file in passed]
    assert [file for file in entered if file in documented] == documented[1:]
