"""The page as a folder: written whole or not at all, small, and complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig, playground
from noise_scheduler_sampling_system.app.command_line import app
from noise_scheduler_sampling_system.playground import Choice, build
from noise_scheduler_sampling_system.playground import build as build_function
from noise_scheduler_sampling_system.playground.bundle import bundle, web_file
from noise_scheduler_sampling_system.support.errors import FileError

SMALL = Choice(paths=("linear",), spacings=("leading",), samplers=("ddim", "heun"), most_steps=3, seeds=1)


def data(folder: Path, name: str) -> Any:
    text = (folder / "data" / f"{name}.js").read_text(encoding="utf-8")
    return json.loads(text.split(f'["{name}"] = ')[1].rstrip(";\n"))


def test_the_folder_holds_the_page_and_a_plan_for_every_number_of_steps(tmp_path):
    size = build(tmp_path / "page", SMALL)
    written = [file for file in (tmp_path / "page").rglob("*") if file.is_file()]
    files = {file.relative_to(tmp_path / "page").as_posix(): file.stat().st_size for file in written}
    assert sum(files.values()) == size
    assert set(files) == {
        "index.html", "page.css", "playground.js", "start.js", "data/catalog.js", "data/digits.js", "data/noise-0.js",
        "data/grid-linear-leading.js", "data/plans-linear-leading-ddim.js", "data/plans-linear-leading-heun.js",
    }  # fmt: skip
    plans = data(tmp_path / "page", "plans-linear-leading-heun")
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="leading"), "heun")
    assert "signal outweighs noise" in plans.pop("1")["problem"]
    assert {int(steps): plan["hash"] for steps, plan in plans.items()} == {
        steps: pipeline.plan(steps).fingerprint for steps in (2, 3)
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "page"], "no temporary folder is left"


def test_all_plans_of_the_default_choice_take_less_than_15_megabytes(tmp_path):
    full = Choice()
    build(tmp_path / "page", Choice(paths=("flow",), spacings=("kl_optimal",), seeds=1))
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "page").rglob("*.*") if file.is_file()}
    plans = sum(size for name, size in sizes.items() if name.startswith(("plans", "grid")))
    noise = sizes["noise-0.js"] * full.seeds
    assert plans * len(full.paths) * len(full.spacings) + noise < 15e6


def test_a_number_of_steps_that_a_path_does_not_have_is_told_in_its_place(tmp_path, registries):
    from noise_scheduler_sampling_system.config.registries import SPACINGS

    def few(path: Any, steps: int) -> Any:
        if steps > 2:
            raise ConfigurationError("has two levels", where="num_inference_steps", suggestion="give at most 2")
        return SPACINGS.get("leading")(path, steps)

    SPACINGS.register("few", few)
    build(tmp_path / "page", Choice(paths=("linear",), spacings=("few",), samplers=("ddim",), most_steps=3, seeds=1))
    plans = data(tmp_path / "page", "plans-linear-few-ddim")
    assert "rows" in plans["2"]
    assert "has two levels" in plans["3"]["problem"]


def test_an_earlier_page_is_replaced_and_other_content_is_not(tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    build(folder, SMALL)
    (folder / "data" / "old.js").write_text("")
    build(folder, SMALL)
    assert not (folder / "data" / "old.js").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(FileError, match="holds no playground"):
        build(other, SMALL)
    assert [file.name for file in other.iterdir()] == ["thesis.txt"]
    with pytest.raises(FileError, match="is a file"):
        build(other / "thesis.txt", SMALL)


def test_a_build_that_fails_leaves_the_earlier_page(tmp_path):
    build(tmp_path / "page", SMALL)
    before = {file.name: file.read_bytes() for file in (tmp_path / "page").rglob("*.js")}

    def stops(name: str, share: float) -> None:
        if name.startswith("data/plans"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "page", SMALL, progress=stops)
    assert {file.name: file.read_bytes() for file in (tmp_path / "page").rglob("*.js")} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "page"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"samplers": ()}, "samplers: is empty"),
        ({"most_steps": 0}, "most_steps"),
        ({"seeds": 0}, "seeds"),
    ],
)
def test_a_choice_of_nothing_is_refused(change, told):
    with pytest.raises(ConfigurationError, match=told):
        Choice(**change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"paths": ("liner",)}, "linear"),
        ({"spacings": ("nothing",)}, "nothing"),
        ({"samplers": ("dpmpp_sde",)}, "adds noise of stage 1"),
        ({"samplers": ("adaptive",)}, "not known before the run"),
    ],
)
def test_a_choice_that_cannot_be_built_leaves_nothing(tmp_path, change, told):
    plain = {"paths": ("linear",), "spacings": ("leading",), "samplers": ("ddim",), "most_steps": 3}
    with pytest.raises(ConfigurationError, match=told):
        build(tmp_path / "page", Choice(**{**plain, **change}))
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(playground, "build", lambda folder, progress: build_function(folder, SMALL, progress=progress))
    done = CliRunner().invoke(app, ["playground", "--build", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    assert re.search(r"wrote .*index\.html \(0\.\d MB", done.output)
    refused = CliRunner().invoke(app, ["playground", "--build", str(tmp_path / "page"), "--model", "mnist"])
    assert refused.exit_code != 0
    assert "has the digits only" in refused.output


def test_the_bundle_defines_every_module_after_those_that_it_imports():
    text = bundle()
    order = re.findall(r"^playground\.(\w+) = ", text, re.M)
    assert len(order) == len(set(order))
    assert "import " not in re.sub(r"//.*|/\*.*?\*/", "", text, flags=re.S)
    for name in order:
        for other in re.findall(r'from "\./(\w+)\.js"', web_file(f"{name}.js")):
            assert order.index(other) < order.index(name)


def test_the_page_asks_for_nothing_from_elsewhere():
    for name in ("index.html", "page.css", "start.js"):
        assert "//" not in web_file(name).replace("http://www.w3.org", "")
    assert set(re.findall(r"https?://[^\s\"'`)]+", bundle())) == {"http://www.w3.org/2000/svg"}
