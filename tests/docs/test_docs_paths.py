"""Every file, module and link that the documentation names exists."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig

ROOT = Path(__file__).parents[2]
NAME = "noise_scheduler_sampling_system"
PACKAGE = ROOT / "src" / NAME
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [ROOT / "examples/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = sorted(path for folder in ("src", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py"))

#: A file that the repository holds: Python, Markdown, or data below a folder of the repository.
FILE = re.compile(
    r"(?<![\w/.:-])((?:[\w-]+/)*[\w-]+\.(?:py|md)|(?:docs|benchmarks|tests|tools|src)/[\w/.-]*\w)(?![\w/])"
)
#: A folder in backticks, such as `guidance/`.
FOLDER = re.compile(r"`((?:[\w-]+/)+)`")
#: A dotted name in backticks, without its arguments, or after the ":::" of a reference page.
DOTTED = re.compile(r"(?:`|^::: )((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: Names of packages that are names of variables in the documentation, too.
VARIABLES = {"pipeline": DiffusionPipeline, "config": NoiseSchedulerConfig}


def prose(page: Path) -> str:
    """A page without its code blocks, which other tests run."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def places(page: Path, line: str) -> list[Path]:
    """The folders that a relative path in this line may start from: a row of a table on a package starts there, too."""
    package = re.match(r"\| `(\w+)` \|", line)
    return [ROOT, PACKAGE, page.parent, *([PACKAGE / package[1]] if package else [])]


def named_modules(dotted: str) -> bool:
    """Whether a dotted name that starts with a package of the library leads to something; True for other names."""
    parts = dotted.removeprefix(f"{NAME}.").split(".")
    if parts[-1] in ("py", "md") or (not (PACKAGE / parts[0]).is_dir() and not dotted.startswith(NAME)):
        return True
    if parts[0] in VARIABLES and parts[1] in {
        *dir(VARIABLES[parts[0]]),
        *NoiseSchedulerConfig.model_fields,
        "scheduler",
    }:
        return True
    at, module = PACKAGE, NAME
    while parts and ((at / parts[0]).is_dir() or (at / f"{parts[0]}.py").is_file()):
        at, module = at / parts[0], f"{module}.{parts.pop(0)}"
    found = importlib.import_module(module)
    for part in parts:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_and_module_that_a_page_names_exists(page):
    missing = []
    for line in prose(page).splitlines():
        files = {*FILE.findall(line), *FOLDER.findall(line)}
        missing += [name for name in files if not any((place / name).exists() for place in places(page, line))]
        missing += [name for name in DOTTED.findall(line) if not named_modules(name)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page):
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_and_command_that_the_code_names_exists():
    named = re.compile(r"\b((?:docs|benchmarks|tests|tools)/[\w/]+\.(?:py|md|csv|png))\b")
    for path in CODE:
        missing = [name for name in named.findall(path.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
        assert not missing, path


def test_the_check_finds_what_does_not_exist():
    assert FILE.findall("see (nothing/here.py), docs/data/a.csv and config.yaml") == [
        "nothing/here.py",
        "docs/data/a.csv",
    ]
    assert named_modules("running.loop")
    assert named_modules("models.mnist_unet")
    assert not named_modules("running.run")
    assert not named_modules("guidance.program.compile")
    assert named_modules("pipeline.sample")
    assert not named_modules("pipeline.setup")
