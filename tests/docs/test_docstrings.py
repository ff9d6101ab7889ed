"""The code in docstrings runs and prints what is shown; every name of the root has an example."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import noise_scheduler_sampling_system as package

SOURCE = Path(package.__file__).parent
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text("utf-8")]


def dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_the_examples_of_a_module_print_what_is_shown(path, tmp_path, monkeypatch, registries):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(dotted(path))
    found = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    assert found, "the examples are in docstrings"
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in found:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_every_name_of_the_root_has_an_example():
    without = [name for name in package.__all__ if ">>> " not in (inspect.getdoc(getattr(package, name)) or "")]
    assert without == []


def test_code_in_docstrings_is_written_as_examples_that_run():
    """No block after "::", which nothing would run, and no fence."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                assert not re.search(r"::\s*$|^\s*```", text, re.M), f"{path}: {text[:80]}"
