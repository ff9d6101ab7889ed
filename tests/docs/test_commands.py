"""Every command and every file of settings that a page shows is one that the library accepts."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from noise_scheduler_sampling_system import AdvancedDiffusionSystem, NoiseSchedulerConfig
from noise_scheduler_sampling_system.app.command_line import app
from noise_scheduler_sampling_system.app.default_command import ShowByDefault
from noise_scheduler_sampling_system.app.exit_codes import ExitCode
from noise_scheduler_sampling_system.support import errors
from places import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
#: A word that stands for what a reader puts in.
PLACEHOLDER = re.compile(r"[A-Z]{1,}|\.\.\.|…")


def commands(page: Path) -> list[tuple[str, bool]]:
    """The calls of noise-sampling in a page's blocks, which are whole, and in its text, which may leave things out."""
    text = page.read_text("utf-8")
    blocks = [block for language, block in FENCE.findall(text) if language in ("bash", "sh", "console")]
    lines = [(line, True) for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [(call, False) for call in re.findall(r"`(noise-sampling [^`\n]+)`", FENCE.sub("", text))]
    called = [(line.strip().removeprefix("$ "), whole) for line, whole in lines]
    return [(line, whole) for line, whole in called if re.match(r"noise-sampling\b", line)]


def check(line: str, whole: bool = True) -> None:
    """Hold a call against the commands and options that exist; values are not converted, and nothing runs."""
    command: Any = get_command(app)
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((at for at, word in enumerate(words) if word in ("|", ">", "&&", "||")), len(words))]
    context = command.context_class(command, info_name="noise-sampling")
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if PLACEHOLDER.fullmatch(name):
            return
        if name not in command.commands and isinstance(command, ShowByDefault):
            name, words = "show", [name, *words]
        assert name in command.commands, f"there is no command {name!r}: {line}"
        command = command.commands[name]
        context = command.context_class(command, info_name=name, parent=context)
    try:
        given, _, _ = command.make_parser(context).parse_args(words)
    except Exception as error:  # Typer has its own copy of click, whose errors have no public name
        pytest.fail(f"{line}: {error}")
    needed = [parameter.name for parameter in command.params if parameter.required and parameter.name not in given]
    assert not (whole and needed), f"{line}: needs {needed}"


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_every_command_of_a_page_exists_with_its_options(page):
    for line, whole in commands(page):
        check(line, whole)


@pytest.mark.parametrize(
    "line", ["noise-sampling nothing", "noise-sampling samplers --nothing 3", "noise-sampling calibrate"]
)
def test_a_command_that_does_not_exist_is_noticed(line):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(line)


SETTINGS = [
    (page, block) for page in PAGES for language, block in FENCE.findall(page.read_text("utf-8")) if language == "yaml"
]


@pytest.mark.parametrize(("page", "block"), SETTINGS, ids=[page.name for page, _ in SETTINGS])
def test_every_file_of_settings_is_accepted(page, block, tmp_path):
    table = yaml.safe_load(block)
    if set(table) <= set(NoiseSchedulerConfig.model_fields):
        NoiseSchedulerConfig.from_dict(table)
        return
    (tmp_path / "config.yaml").write_text(block)
    assert AdvancedDiffusionSystem(tmp_path / "config.yaml").list_pipelines()


def test_every_exit_code_is_in_the_page_of_errors():
    text = (ROOT / "docs/errors.md").read_text("utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)} == set(map(int, ExitCode))


def test_every_error_is_in_the_page_of_errors_with_its_category_and_base():
    rows = re.findall(r"^\| `(\w+Error)` \| ([\w ]+) \| `(\w+)` \|", (ROOT / "docs/errors.md").read_text("utf-8"), re.M)
    kinds = [kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type)]
    kinds.remove(errors.NoiseSamplingError)
    assert {name for name, _, _ in rows} == {kind.__name__ for kind in kinds}
    for name, category, base in rows:
        kind = getattr(errors, name)
        assert kind.category == category
        assert base in {parent.__name__ for parent in kind.__mro__}
