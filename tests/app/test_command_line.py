"""The command line: the same job as in Python, and bad input ends in a short message with an exit code."""

from __future__ import annotations

import inspect
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    ConfigurationError,
    DiffusionPipeline,
    NoiseSchedulerConfig,
    calibrate,
    comparison,
    recommend,
)
from noise_scheduler_sampling_system.app import command_line as cli
from noise_scheduler_sampling_system.app.commands.calibrate import calibrate as calibrate_command
from noise_scheduler_sampling_system.app.commands.compare import compare
from noise_scheduler_sampling_system.app.commands.plan import show
from noise_scheduler_sampling_system.app.commands.recommend import recommend as recommend_command
from noise_scheduler_sampling_system.app.commands.sample import sample
from noise_scheduler_sampling_system.guidance import CachedGuidance
from noise_scheduler_sampling_system.pipeline.request import DEFAULT_SCALE

MODELS = """
import torch

def no_time(x): return x
def nothing(): return 1
def fails(x, t, **c): raise RuntimeError("a fault of its own")
def stops(x, t, **c): raise StopIteration
def word(x, t, **c): return "hello"
def wide(x, t, **c): return torch.cat([x, x])
def nan(x, t, **c): return x * float("nan")
number = 5
class Network:
    def __call__(self, x, t): return x
"""


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, list(words))
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models_of_a_test.py").write_text(MODELS)
    Path("ok.yaml").write_text("a_ddim: {beta_schedule: cosine}\n")
    Path("broken.yaml").write_text("a: [1\n")
    Path("misspelt.yaml").write_text("a_ddim: {beta_schedul: cosine}\n")
    Path("two.yaml").write_text("a_ddim: {}\nb_ddim: {}\n")
    return tmp_path


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
@pytest.mark.parametrize("labels", [None, [3], [1, 2, 3]])
@pytest.mark.parametrize("scale", [None, 7.5, 1.0, 2.0])
def test_the_command_draws_what_python_draws(method, labels, scale):
    words = ["sample", "--out", "a.safetensors", "--seed", "5", "--method", method, "--steps", "6"]
    words += [] if labels is None else ["--labels", ",".join(map(str, labels))]
    words += [] if scale is None else ["--guidance-scale", str(scale)]
    code, output = run(*words)
    told: dict[str, Any] = {} if scale is None else {"guidance_scale": scale}
    if labels is not None:
        told["condition"] = {"class_labels": labels}
    shape = (10 if labels is None else len(labels), 1, 8, 8)

    def python() -> torch.Tensor:
        pipeline = DiffusionPipeline(NoiseSchedulerConfig(), method)
        samples: torch.Tensor = pipeline.sample(shape=shape, num_inference_steps=6, seed=5, **told)
        return samples

    if labels is None and scale == 2.0:
        assert code == 3
        assert "needs a condition" in output
        with pytest.raises(ConfigurationError, match="needs a condition"):
            python()
        return
    assert code == 0, output
    assert torch.equal(load_file("a.safetensors")["samples"], python())


def test_a_scale_beside_a_plan_that_holds_another_is_refused():
    plan = CachedGuidance(3.0, calls=(0, 1)).folded_into(DiffusionPipeline(NoiseSchedulerConfig(), "ddim").plan(4))
    plan.save("folded.json")
    words = ["sample", "--out", "a.safetensors", "--plan", "folded.json", "--labels", "1,2", "--seed", "5"]
    assert run(*words)[0] == 0
    for scale in ("7.5", "7.4"):
        code, output = run(*words, "--guidance-scale", scale)
        assert code == 3
        assert "holds guidance of scale 3" in output


def test_the_command_compares_what_python_compares(monkeypatch):
    kept = {}
    inner = AdvancedDiffusionSystem.compare_schedulers
    monkeypatch.setattr(
        AdvancedDiffusionSystem, "compare_schedulers", lambda self, *a, **k: kept.update(inner(self, *a, **k)) or kept
    )
    code, output = run("compare", "two.yaml", "--out", "a.png", "--steps", "4")
    assert code == 0, output
    told = {"condition": {"class_labels": torch.arange(10)}, "seed": 0}
    expected = inner(AdvancedDiffusionSystem("two.yaml"), (10, 1, 8, 8), 4, **told)
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_defaults_are_those_of_python():
    """A default of a command is that of the function which does its work; None stands for it."""
    pairs: list[tuple[Any, Any, dict[str, str]]] = [
        (sample, DiffusionPipeline.sample, {"steps": "num_inference_steps"}),
        (compare, comparison.compare, {}),
        (show, DiffusionPipeline.plan, {"steps": "num_inference_steps"}),
        (calibrate_command, calibrate, {}),
        (recommend_command, recommend, {}),
    ]
    for command, function, names in pairs:
        here, there = inspect.signature(command).parameters, inspect.signature(function).parameters
        shared = 0
        for name, parameter in here.items():
            other = None if name in ("model", "device") else there.get(names.get(name, name))  # names; "auto"
            if other is None or parameter.default in (None, parameter.empty) or other.default is other.empty:
                continue
            assert parameter.default == other.default, (command.__name__, name)
            shared += 1
        assert shared or command is recommend_command
    assert inspect.signature(DiffusionPipeline.sample).parameters["guidance_scale"].default == DEFAULT_SCALE == 7.5


CALIBRATE = "calibrate --out a.json --nfe 2 --trajectories 4 --passes 2 --teacher-calls 4"
OWN = f"{CALIBRATE} --shape 1,4,4 --model models_of_a_test"


#: Exit codes, as docs/command-line.md says.
CODES = {"configuration": 3, "file": 4, "model output": 5, "numerics": 5, "device": 6, "memory": 6}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (f"{OWN}:no_time", "model"),
        (f"{OWN}:nothing", "model"),
        (f"{OWN}:fails", "a fault of its own"),
        (f"{OWN}:stops", "StopIteration"),
        (f"{OWN}:word", "the model returned str"),
        (f"{OWN}:wide", "the model returned shape"),
        (f"{OWN}:nan", "model"),
        (f"{OWN}:number", "name a callable"),
        (f"{OWN}:Network", "the class Network"),
        (f"{OWN}:missing", "cannot be imported"),
        (f"{CALIBRATE} --model :n --shape 1", "module:attribute"),
        (f"{CALIBRATE} --model .:n --shape 1", "cannot be imported"),
        (f"{CALIBRATE} --model models_of_a_test:fails", "shape"),
        (f"{CALIBRATE} --labels 11", "0 to 10"),
        (f"{CALIBRATE} --labels -1", "labels"),
        (f"{CALIBRATE} --labels 99999999999999999999", "labels"),
        (f"{CALIBRATE} --labels a", "labels"),
        (f"{CALIBRATE} --guidance-scale 3", "needs a condition"),
        (f"{CALIBRATE} --prediction foo", "prediction_type"),
        (f"{CALIBRATE} --device foo", "device"),
        (f"{CALIBRATE} --seed -1", "seed"),
        (f"{CALIBRATE} --stages foo", "stages"),
        (f"{CALIBRATE} --first foo", "first"),
        (f"{CALIBRATE} --plot a.txt", "a.txt"),
        ("calibrate --out a.json --nfe 0", "nfe"),
        ("calibrate --out a.json --nfe 9999999999999999999999", "nfe"),
        ("sample --out a.png --labels 11", "class_labels"),
        ("sample --out a.png --labels 1,2 --shape 3,1,8,8", "condition"),
        ("sample --out a.png --shape 0,1,8,8", "shape"),
        ("sample --out a.png --shape 99999999999999999999999,1,8,8", "shape"),
        ("sample --out a.png --shape 100000000000,1,8,8", ""),
        ("sample --out a.png --shape 4,2,8,8", "cannot be drawn"),
        ("sample --out a.png --shape 4", "cannot be drawn"),
        ("sample --out a.png --steps 0", "num_inference_steps"),
        ("sample --out a.png --seed -5", "seed"),
        ("sample --out a.png --guidance-scale nan --labels 1", "guidance_scale"),
        ("sample --out a.png --guidance-scale 1e300 --labels 1", "guidance"),
        ("sample --out a.png --config none.yaml", "none.yaml"),
        ("sample --out a.png --config broken.yaml", "broken.yaml"),
        ("sample --out a.png --config misspelt.yaml", "beta_schedule"),
        ("sample --out a.png --config two.yaml", "choose one of"),
        ("sample --out a.png --config ok.yaml --pipeline b", "no pipeline has the name"),
        ("sample --out a.png --config ok.yaml --method ddim", "is set by the file"),
        ("sample --out a.png --method foo", "there is no sampler"),
        ("sample --out a.png -o eta", "key=value"),
        ("sample --out a.png -o eta=x", "eta"),
        ("sample --out a.png -o eta=!!timestamp", "eta"),
        ("sample --out a.png -o steps=3", "num_inference_steps"),
        ("sample --out a.png --schedule foo", "beta_schedule"),
        ("sample --out a.png --schedule-option shift=3", "of flow"),
        ("sample --out a.png --preset foo", "preset"),
        ("plan euler --preset flux-2:big", "NAME:TOKENS"),
        ("plan euler --preset flux-2:0", "tokens"),
        ("plan euler --preset sd3:4096", "the same for every size"),
        ("sample --out none/a.png", "folder"),
        ("sample --out a.txt", "a.txt"),
        ("plan foo", "there is no sampler"),
        ("plan ddim --steps 0", "num_inference_steps"),
        ("plan ddim --save a.txt", "a.txt"),
        ("plan adaptive", "adaptive"),
        ("compare none.yaml --out a.png", "none.yaml"),
        ("compare ok.yaml --out a.png --steps 0", "num_inference_steps"),
        ("compare ok.yaml --out a.png --seed -1", "seed"),
        ("config check broken.yaml", "broken.yaml"),
        ("config check ok.yaml --steps 0", "num_inference_steps"),
        ("demo --out a.txt", "a.txt"),
    ],
)
def test_bad_input_ends_in_a_short_message(line, word, folder):
    code, output = run(*line.split())
    category = re.search(r"^(configuration|file|model output|numerics|device|memory) error: ", output, re.MULTILINE)
    assert code == (CODES[category[1]] if category else 1), output
    assert "Traceback" not in output
    assert word in output
    said = [text for text in output.splitlines() if text.strip() and "it/s" not in text and "%|" not in text]
    assert len(said) <= 6, output
    assert all(len(text) <= 700 for text in said)
    assert not {"a.png", "a.json", "a.safetensors"} & {path.name for path in folder.iterdir()}


def test_verbose_sets_the_level_of_the_whole_library():
    library = logging.getLogger("noise_scheduler_sampling_system")
    before = library.level
    try:
        for word, level in (("-v", logging.INFO), ("-vv", logging.DEBUG)):
            assert run(word, "plan", "ddim", "--steps", "2")[0] == 0
            assert library.level == level
    finally:
        library.setLevel(before)
