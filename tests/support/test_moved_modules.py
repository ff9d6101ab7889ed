"""Module names and pickles of version 1.3, before the modules moved into packages, are found."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch

from noise_scheduler_sampling_system.support.moved_modules import MOVED, RENAMED
from places import DATA
from public_values import VALUES, alike

ROOT = "noise_scheduler_sampling_system"
ARCHIVE = DATA / "values_of_version_1_3.zip"


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_module_name_is_the_new_module(old, new):
    module = importlib.import_module(f"{ROOT}.{old}")
    assert module is importlib.import_module(f"{ROOT}.{new}")
    assert module.__name__ == f"{ROOT}.{new}"
    assert module.__spec__.name == f"{ROOT}.{new}"


@pytest.mark.parametrize(("module", "names"), RENAMED.items())
def test_an_old_class_name_is_the_new_class(module, names):
    found = importlib.import_module(f"{ROOT}.{module}")
    assert all(getattr(found, old) is getattr(found, new) for old, new in names.items())


def test_values_that_version_1_3_pickled_are_read():
    with zipfile.ZipFile(ARCHIVE) as archive:
        values = {name: pickle.loads(archive.read(name)) for name in archive.namelist()}
    assert len(values) > 70
    measured = {"result", "report"}  # a profile holds times; orders are measured, with times in float64 since then
    unequal = [name for name, value in values.items() if name not in measured and not alike(value, VALUES[name])]
    assert unequal == []
    assert torch.equal(values["result"].samples, VALUES["result"].samples)
    old, new = (each["report"].paths[0] for each in (values, VALUES))
    assert (old.path, old.refused) == (new.path, new.refused)
    assert old.order == pytest.approx(new.order, abs=1e-4)


def test_an_old_name_is_found_where_the_new_one_was_not_imported():
    code = f"import {ROOT}.cli as old, {ROOT}.app.command_line as new; assert old is new; import {ROOT}.rowwise"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_old_module_name_does_not_hide_a_public_name():
    """``import noise_scheduler_sampling_system.recommend`` leaves the function ``recommend`` in its place."""
    code = f"""
import importlib, {ROOT} as library
from {ROOT}.support.moved_modules import MOVED
before = dict(vars(library))
for old in MOVED:
    if not old.startswith("integrations."):
        importlib.import_module(f"{ROOT}.{{old}}")
assert all(getattr(library, name) is value for name, value in before.items() if not name.startswith("__"))
assert callable(library.recommend) and callable(library.check_sampler)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_other_name_is_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{ROOT}.nothing_here")
