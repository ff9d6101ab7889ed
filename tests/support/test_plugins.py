"""Plug-ins: found by entry points, loaded once when needed, and never in the way of the library's own names."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    NoiseSchedulerFactory,
    SamplerFactory,
)
from noise_scheduler_sampling_system.config import PRESETS, SAMPLERS, SCHEDULES, SPACINGS
from noise_scheduler_sampling_system.config.sampler_aliases import resolve
from noise_scheduler_sampling_system.integrations.diffusers.pipelines.backbones import BACKBONES
from noise_scheduler_sampling_system.support import installed_plugins, plugins
from noise_scheduler_sampling_system.testing import check_plugin
from places import ROOT

#: A whole plug-in: one of each kind.
WHOLE = """
import numpy as np
from noise_scheduler_sampling_system import BaseNoiseScheduler, NoiseSchedulerFactory, SamplerFactory
from noise_scheduler_sampling_system.config import PRESETS, SPACINGS
from noise_scheduler_sampling_system.integrations.diffusers import Backbone, register_backbone
from noise_scheduler_sampling_system.samplers import MultistepSampler
from noise_scheduler_sampling_system.schedules.presets import Preset

@NoiseSchedulerFactory.register("cubic_root")
class CubicRoot(BaseNoiseScheduler):
    def _get_beta_schedule(self):
        low, high = self.config.beta_start ** (1 / 3), self.config.beta_end ** (1 / 3)
        return (low + (high - low) * self.grid_fractions) ** 3

@SamplerFactory.register("second_in_time")
class SecondInTime(MultistepSampler):
    order, space, variable = 2, "sample", "time"

@SPACINGS.register("square_root")
def square_root(path, steps):
    top, bottom = path.t_max ** 0.5, (path.t_min + 1.0) ** 0.5
    return np.linspace(top, bottom, steps) ** 2

@register_backbone("NoisyPipeline")
class Noisy(Backbone):
    def conditions(self, prompt):
        return {}, None

PRESETS.register("noisy-1", Preset({"beta_schedule": "cubic_root"}, "its paper", sampler="second_in_time", steps=5))
SamplerFactory.alias("Second Solver", of="second_in_time", spacing="square_root")
"""
SAMPLER = """
from noise_scheduler_sampling_system import SamplerFactory
from noise_scheduler_sampling_system.samplers import MultistepSampler

@SamplerFactory.register("{name}")
class Mine(MultistepSampler):
    order, space = 2, "sample"
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None) -> Iterator[Install]:
    """Install packages, as pip would lay them out, in a folder of ``sys.path``."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_LOADER", plugins._Loader())
    before = set(sys.modules)

    def install(package: str, code: str, *, entry: str = "", version: str = "1.0") -> None:
        (tmp_path / f"{package}.py").write_text(code)
        metadata = tmp_path / f"{package}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{package} = {entry or package}\n")

    yield install
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_plugin_provides_every_kind_of_name(install):
    install("noisy", WHOLE)
    assert "noisy" not in sys.modules
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cubic_root"), "second solver")
    assert pipeline.sample(shape=(2, 1, 8, 8), num_inference_steps=4, seed=0).isfinite().all()
    assert (pipeline.plan(4).sampler, pipeline.sampler.run_spacing) == ("second_in_time", "square_root")
    assert NoiseSchedulerConfig(timestep_spacing="Square Root").timestep_spacing == "square_root"
    assert NoiseSchedulerConfig.preset("noisy-1").beta_schedule == "cubic_root"
    assert "NoisyPipeline" in BACKBONES
    assert "second_in_time" in SamplerFactory.available()
    (plugin,) = installed_plugins()
    assert (plugin.name, plugin.package, plugin.problem) == ("noisy", "noisy 1.0", "")
    assert ("sampler", "second_in_time") in plugin.names


def test_a_plugin_passes_the_conformance_kit(install):
    install("noisy", WHOLE)
    report = str(check_plugin("noisy"))
    for words in ("declared order 2, 1 calls", "CubicRoot", "square_root: grids: 5 on"):
        assert words in report
    assert "5 model calls, its paper" in report


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", "registers nothing"),
        ("1 / 0", "division by zero"),
        (SAMPLER.format(name="wrong") + "    calls_per_step = 3\n", "calls_per_step"),
    ],
)
def test_the_kit_says_what_is_wrong_with_a_plugin(install, code, words):
    install("poor", code)
    with pytest.raises(ConfigurationError, match=words):
        check_plugin("poor")
    with pytest.raises(ConfigurationError, match="no plug-in 'other'"):
        check_plugin("other")


def test_the_librarys_own_names_load_no_plugin(tmp_path):
    """In a process of its own: the import, and runs with built-in names, do not even look for plug-ins."""
    (tmp_path / "loud.py").write_text("raise RuntimeError('loaded')")
    (tmp_path / "loud-1.dist-info").mkdir()
    (tmp_path / "loud-1.dist-info" / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nloud = loud\n")
    code = """if True:
        from noise_scheduler_sampling_system import AdvancedDiffusionSystem, DiffusionPipeline, NoiseSchedulerConfig
        from noise_scheduler_sampling_system.support import installed_plugins, plugins
        for name in ("ddim", "DPM++ 2M Karras", "Euler a", "DPMSolverMultistepScheduler"):
            DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cosine"), name).sample(shape=(1, 1, 8, 8),
                num_inference_steps=2, seed=0)
        config = NoiseSchedulerConfig.preset("sdxl").replace(timestep_spacing="karras").replace(timestep_spacing="auto")
        NoiseSchedulerConfig.from_dict(config.to_dict())
        print(plugins._LOADER._complete)
        print("loud" in str(plugins.installed_plugins()))"""
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.split() == ["False", "True"]


def test_a_broken_plugin_is_named_and_leaves_nothing(install, caplog):
    install("broken", SAMPLER.format(name="half") + "SamplerFactory.alias('Half Way', of='half')\nimport not_there\n")
    install("sound", SAMPLER.format(name="good"))
    with caplog.at_level(logging.WARNING):
        names = SamplerFactory.available()
    assert "good" in names
    assert "half" not in names
    assert SamplerFactory.create("ddim")
    (record,) = caplog.records
    assert "'broken' of the package broken 1.0 could not be loaded" in record.getMessage()
    assert "not_there" in record.getMessage()
    for name in ("half", "broken", "anything", "Half Way"):
        with pytest.raises(ConfigurationError, match=r"'broken' of the package broken 1\.0 could not be loaded: Mod"):
            SamplerFactory.create(name)
    assert [plugin.problem != "" for plugin in installed_plugins()] == [True, False]


@pytest.mark.parametrize("ending", ["raise SystemExit(3)", "SamplerFactory.register('ddim', Mine)", "x = y"])
def test_whatever_a_plugin_does_the_rest_works(install, ending):
    install("broken", SAMPLER.format(name="half") + ending)
    with pytest.raises(ConfigurationError, match="'broken'"):
        SamplerFactory.create("half")
    assert SAMPLERS.get("ddim").__name__ == "DDIMSampler"
    assert "half" not in SAMPLERS
    with pytest.raises(ConfigurationError, match="is not a timestep_spacing"):
        NoiseSchedulerConfig(timestep_spacing="of broken")


def test_an_interrupted_load_begins_anew(install, monkeypatch):
    install("slow", SAMPLER.format(name="slow_one") + "import stop_now\nif stop_now.PRESSED: raise KeyboardInterrupt\n")
    stop = type(sys)("stop_now")
    stop.PRESSED = True
    monkeypatch.setitem(sys.modules, "stop_now", stop)
    with pytest.raises(KeyboardInterrupt):
        SamplerFactory.available()
    assert "slow_one" not in SAMPLERS.entries
    stop.PRESSED = False
    assert "slow_one" in SamplerFactory.available()


@pytest.mark.parametrize(
    ("name", "taken"),
    [("ddim", "DDIMSampler"), ("DDIM", "DDIMSampler"), ("Euler A", "ancestral"), ("dpmpp-2m", "DPMpp2MSampler")],
)
def test_a_name_of_the_library_is_not_taken_over(install, caplog, name, taken):
    install("greedy", SAMPLER.format(name=name))
    before = resolve(name)
    with caplog.at_level(logging.WARNING):
        assert resolve(name) == before
        SamplerFactory.available()
    assert resolve(name) == before
    (record,) = caplog.records
    for words in (taken, "of noise_scheduler_sampling_system", "the plug-in 'greedy' of the package greedy 1.0"):
        assert words in record.getMessage()


def test_a_name_of_two_plugins_is_an_error_that_names_both(install):
    install("first", SAMPLER.format(name="same") + SAMPLER.format(name="other").replace("Mine", "Other"))
    install("second", SAMPLER.format(name="same") + SAMPLER.format(name="lost").replace("Mine", "Lost"))
    with pytest.raises(ConfigurationError) as raised:
        SamplerFactory.create("same")
    for package in ("'first' of the package first 1.0", "'second' of the package second 1.0"):
        assert package in str(raised.value)
    assert SamplerFactory.create("other").order == 2
    with pytest.raises(ConfigurationError, match="'second' of the package"):
        SamplerFactory.create("lost")
    assert "same" not in SamplerFactory.available()


def test_a_name_of_the_program_stays_and_a_name_of_a_plugin_is_not_given_again(install):
    @NoiseSchedulerFactory.register("of_both")
    class OfProgram(SCHEDULES.get("linear").__mro__[1]):  # type: ignore[misc]
        pass

    install("late", "from noise_scheduler_sampling_system import *\nfrom noise_scheduler_sampling_system import "
            "schedules\nNoiseSchedulerFactory.register('of_plugin', type('P', (schedules.VPPath,), {}))\n")  # fmt: skip
    assert "of_plugin" in NoiseSchedulerFactory.available()
    assert SCHEDULES.get("of_both") is OfProgram
    with pytest.raises(ConfigurationError, match=r"of the plug-in 'late' of the package late 1\.0"):
        NoiseSchedulerFactory.register("of_plugin", OfProgram)


FUNCTION = "def register():\n" + textwrap.indent(SAMPLER.format(name="by_call"), "    ")


@pytest.mark.parametrize(
    ("entry", "code", "works"),
    [
        ("called:register", FUNCTION, True),
        ("called:Thing", "class Thing: pass", False),
        ("called:number", "number = 3", False),
        ("called:absent", "", False),
        ("not a module!", "", False),
    ],
)
def test_an_entry_point_is_a_module_or_a_function(install, entry, code, works):
    install("called", code, entry=entry)
    assert ("by_call" in SamplerFactory.available()) is works
    (plugin,) = installed_plugins()
    assert (plugin.problem == "") is works


def test_the_environment_chooses_plugins(install, monkeypatch):
    install("first", SAMPLER.format(name="same"))
    install("second", SAMPLER.format(name="same"))
    monkeypatch.setenv(plugins.VARIABLE, "second")
    assert SamplerFactory.create("same")
    assert [plugin.name for plugin in installed_plugins()] == ["second"]


def test_threads_that_ask_at_once_load_once_and_all_find_it(install):
    install(
        "slow", f"import time, counted\ncounted.TIMES.append(1)\ntime.sleep(0.3)\n{SAMPLER.format(name='slow_one')}"
    )
    counted = type(sys)("counted")
    counted.TIMES = []
    sys.modules["counted"] = counted
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(SamplerFactory.create("slow_one"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    began = SamplerFactory.create("heun")  # a name of the library does not wait
    for thread in threads:
        thread.join()
    del sys.modules["counted"]
    assert began.order == 2
    assert counted.TIMES == [1]
    assert len(found) == 8


def test_a_plugin_may_look_names_up_while_it_is_loaded(install):
    code = SAMPLER.format(name="asking") + "assert 'ddim' in list(SamplerFactory.available())\n"
    install("asking", code + "assert SamplerFactory.create('asking').order == 2\n")
    assert "asking" in SAMPLERS
    assert not installed_plugins()[0].problem


def test_malformed_metadata_of_another_package_breaks_nothing(install, monkeypatch, caplog):
    def broken(**_: object) -> None:
        raise ValueError("no separator")

    monkeypatch.setattr(plugins, "entry_points", broken)
    with pytest.raises(ConfigurationError, match="there is no preset"):
        PRESETS.get("unknown")
    assert "could not be read: ValueError: no separator" in caplog.text
    assert "karras" in SPACINGS


def test_names_with_options_are_checked_when_they_are_added(registries):
    SamplerFactory.alias("My DDIM", of="ddim", eta=0.5)
    SamplerFactory.alias("my ddim", of="ddim", eta=0.5)
    assert SamplerFactory.create("my-ddim").options["eta"] == 0.5
    for arguments in ({"of": "nothing"}, {"of": "ddim", "etta": 1.0}, {"of": "ddim", "spacing": "nowhere"}):
        with pytest.raises(ConfigurationError):
            SamplerFactory.alias("another", **arguments)
    with pytest.raises(ConfigurationError, match="reads like 'ddim'"):
        SamplerFactory.alias("DD-IM", of="ddim", eta=0.5)
    for name, of in (("My DDIM", "ddim"), ("Euler a", "ddim"), ("heun", "ddim")):
        with pytest.raises(ConfigurationError, match="taken"):
            SamplerFactory.alias(name, of=of)


def test_the_plugin_of_the_page_is_installed_found_and_passes_its_own_test(install, monkeypatch):
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    (pyproject,) = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    module, its_test = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)[:2]
    (group,) = re.findall(r'^\[project\.entry-points\."(.+)"\]$', pyproject, re.M)
    ((entry, target),) = re.findall(r'^(\w+) = "(\w+)"$', pyproject.split(group)[1], re.M)
    assert group == plugins.GROUP
    install(target, module, entry=target)
    assert entry == target
    names: dict[str, Any] = {}
    exec(compile(its_test, "docs/plugins.md", "exec", dont_inherit=True), names)
    names["test_everything_it_registers_conforms"]()
