"""Run diffusers' own tests with its schedulers replaced by PlanScheduler.

    git clone --depth 1 --branch v0.40.0 https://github.com/huggingface/diffusers
    python tools/diffusers_tests.py schedulers diffusers [options of pytest]
    python tools/diffusers_tests.py pipelines diffusers -k flux
    python tools/diffusers_tests.py twins diffusers [part of a name]

``schedulers`` runs ``tests/schedulers``. In every test class it replaces the schedulers that PlanScheduler reads, and
leaves out test classes that do not have any. ``pipelines`` runs the fast tests of pipelines and replaces the scheduler
of their small components. ``twins`` runs every pipeline class once with its own scheduler and once with PlanScheduler,
and prints how far the results differ. ``--own`` runs the same tests with diffusers' own schedulers; a test that fails
there says nothing about ours. The installed diffusers is tested, whatever the version of the sources.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# the installed one, imported before the tests put their own sources in front
import diffusers  # noqa: F401, I001
import pytest

from diffusers_stand_ins import StandIn, replace_hub, replaceable, stand_in
from diffusers_twins import compare_twins

from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler


class Schedulers:
    """A plugin of pytest that replaces the classes under test in ``tests/schedulers``, and leaves out other tests."""

    def __init__(self, own: bool) -> None:
        self._own = own
        self._kept: set[type[Any]] = set()

    def pytest_pycollect_makeitem(self, collector: Any, name: str, obj: Any) -> None:
        """Replace the classes of one test class."""
        classes = getattr(obj, "scheduler_classes", ())
        if not isinstance(obj, type):
            return
        if any(replaceable(cls) or isinstance(cls, StandIn) for cls in classes):  # those of a base class are replaced
            self._kept.add(obj)
        if self._own:
            return
        new = tuple(stand_in(cls) if replaceable(cls) else cls for cls in classes)
        for old, cls in zip(classes, new, strict=True):
            for key, value in list(vars(collector.obj).items()):
                if value is old:
                    setattr(collector.obj, key, cls)
        obj.scheduler_classes = new

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out tests in which nothing is replaced."""
        items[:] = [item for item in items if getattr(item, "cls", None) in self._kept]


class Pipelines:
    """A plugin of pytest that replaces the scheduler of the small components in ``tests/pipelines``."""

    def __init__(self, own: bool) -> None:
        self._own = own

    def pytest_pycollect_makeitem(self, collector: Any, name: str, obj: Any) -> None:
        """Wrap ``get_dummy_components`` of one test class."""
        function = getattr(obj, "get_dummy_components", None)
        if self._own or not isinstance(obj, type) or function is None or hasattr(function, "replaces"):
            return

        def components(test: Any, *positional: Any, **named: Any) -> dict[str, Any]:
            made: dict[str, Any] = function(test, *positional, **named)
            for key, part in made.items():
                if replaceable(type(part)):
                    made[key] = PlanScheduler.from_config(part)
            return made

        components.replaces = True  # type: ignore[attr-defined]
        obj.get_dummy_components = components


def main(arguments: list[str]) -> int:
    """Run what the command line says."""
    own = "--own" in arguments
    what, source, *options = [argument for argument in arguments if argument != "--own"] or ["", ""]
    if what not in ("schedulers", "pipelines", "twins") or not (Path(source) / "tests" / "schedulers").is_dir():
        print(__doc__)
        return 2
    os.chdir(source)
    sys.path.insert(0, os.getcwd())
    replace_hub()
    if what == "twins":
        return compare_twins(Path.cwd(), options[0] if options else "")
    plugin: Any = Schedulers(own) if what == "schedulers" else Pipelines(own)
    usual = ["-c", os.devnull, "--rootdir", os.getcwd(), "-p", "no:cacheprovider", "-q", "-W", "ignore"]
    return int(pytest.main([*usual, *options, f"tests/{what}"], plugins=[plugin]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
