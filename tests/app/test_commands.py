"""Every command: what it does with each kind of model, its JSON, its files, and what it says in a pipe."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner, Result

import tiny_pipelines
from noise_scheduler_sampling_system import AdvancedDiffusionSystem, DiffusionPipeline, SamplingPlan
from noise_scheduler_sampling_system.app import command_line as cli
from noise_scheduler_sampling_system.app import completion
from noise_scheduler_sampling_system.app.commands.calibrate import _on_all_trajectories
from noise_scheduler_sampling_system.config.registries import PRESETS, SAMPLERS, SCHEDULES, SPACINGS
from noise_scheduler_sampling_system.guidance import CachedGuidance
from noise_scheduler_sampling_system.plans import PlanSet

MODELS = """
import torch

class Half:
    shape, prediction_type = (2, 4), "epsilon"
    calls = 0
    def __call__(self, x, t):
        self.calls += 1
        if self.calls == 12:
            raise KeyboardInterrupt
        return 0.5 * x
half = Half()
half_again = Half()
never = lambda x, t: 0.5 * x
"""
BAD = """
a_ddim: {beta_start: 5, beta_schedul: cosine}
b: {method: foo}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("two.yaml").write_text("a_ddim: {beta_schedule: cosine}\nb_heun: {}\n")
    Path("bad.yaml").write_text(BAD)
    return tmp_path


def run(line: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, line.split())
    assert result.exit_code == code, result.output
    assert "\x1b" not in result.stdout, "no colours in a pipe"
    return result


def data(line: str, code: int = 0) -> Any:
    """What a command prints as JSON; nothing else is on stdout."""
    return json.loads(run(f"{line} --json", code).stdout)


@pytest.mark.parametrize(
    ("command", "table"),
    [("samplers", SAMPLERS), ("schedules", SCHEDULES), ("spacings", SPACINGS), ("presets", PRESETS)],
)
def test_lists_hold_every_name(command, table):
    assert [each["name"] for each in data(command)] == sorted(table)
    assert run(f"{command} --quiet").stdout.split() == sorted(table)
    lines = run(command).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == sorted(table), "one line a name"


def test_a_plan_is_shown_compared_exported_and_run():
    assert run("plan heun --steps 4").stdout == run("plan show heun --steps 4").stdout
    assert run("plan --steps 4 heun").stdout == run("plan show heun --steps 4").stdout
    assert SamplingPlan.from_dict(data("plan show heun --steps 4")) == DiffusionPipeline(None, "heun").plan(4)
    assert "..." in run("plan ddim --steps 40").stdout
    assert "..." not in run("plan ddim --steps 40 --all").stdout
    assert data("plan export heun --nfe 4,8 --out plans.json")["plans"][1]["nfe"] == 7
    assert list(PlanSet.load("plans.json")) == [3, 7]
    found = data("plan diff plans.json heun --nfe 7 --steps 4")
    assert found["same_numbers"]
    assert "order: 2 and 1" in run("plan diff heun ddim --steps 4").stdout
    run("plan export heun --steps 4 --out plan.csv")
    rows = list(csv.DictReader(Path("plan.csv").read_text(encoding="utf-8").splitlines()))
    plan = DiffusionPipeline(None, "heun").plan(4)
    assert [float(row["a"]) for row in rows] == plan.a.tolist()
    run("sample --plan plans.json --steps 7 --seed 3 --out planned.safetensors")
    for ignored in ("--method heun", "--option eta=1", "--spacing karras"):
        assert "is set by the plan" in run(f"sample --plan plans.json --steps 7 {ignored} --out no.npz", 3).output
    run("sample --method heun --steps 4 --seed 3 --out named.safetensors")
    assert Path("planned.safetensors").stat().st_size > 1000
    assert "plans of 3, 7" in run("plan show plans.json", 3).output


def test_plans_of_evaluations_are_chosen_by_them():
    plan = DiffusionPipeline(None, "unipc").plan(5)
    made = {n: CachedGuidance(3.0, evaluations=n).folded_into(plan) for n in (8, 9)}
    PlanSet(made, "evaluations").save("guided.json")
    assert "has plans of 8, 9 evaluations" in run("plan show guided.json", 3).output
    assert "--evaluations N" in run("plan show guided.json", 3).output
    assert "those of 8, 9 evaluations" in run("plan show guided.json --nfe 8", 3).output
    for n, plan in made.items():
        assert SamplingPlan.from_dict(data(f"plan show guided.json --evaluations {n}")) == plan
        run(f"plan export guided.json --evaluations {n} --out one.json")
        assert SamplingPlan.load("one.json") == plan
        assert not data(f"plan diff guided.json one.json --evaluations {n}")["differs"]
        line = f"--plan guided.json --evaluations {n} --labels 1,2 --quiet"
        assert data(f"sample {line} --out a.npz")["evaluations"] == n
        run(f"generate {line} --num-samples 2 --output set{n}")
        assert plan.content_hash in Path(f"set{n}", "dataset.json").read_text()
    exported = data("plan export guided.json --evaluations 8,9 --out both.json")["plans"]
    assert [each["evaluations"] for each in exported] == [8, 9]
    assert PlanSet.load("both.json") == PlanSet(made, "evaluations")
    for command in ("show", "verify", "export --out no.json"):
        name, *rest = command.split()
        line = f"plan {name} guided.json {' '.join(rest)}"
        assert "give one of 8, 9" in run(f"{line} --evaluations 7", 3).output
        assert "both given" in run(f"{line} --evaluations 8 --nfe 5", 3).output
    assert "give --plan" in run("sample --evaluations 8 --out a.npz", 3).output
    DiffusionPipeline(None, "unipc").plan(5).save("plain.json")
    assert "hold no guidance" in run("plan show plain.json --evaluations 5", 3).output
    line = "compare guided.json --labels 0..1 --count 2 --reference none"
    assert [each["evaluations"] for each in data(f"{line} --evaluations 8,9")["cells"]] == [8, 9]
    assert "both given" in run(f"{line} --evaluations 8 --nfe 5", 3).output


def test_a_plan_is_traced_from_a_class_a_module_and_a_folder():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.save_pretrained("saved")
    Path("mine_of_a_test.py").write_text(
        "from diffusers import EulerDiscreteScheduler\nmade = EulerDiscreteScheduler(use_karras_sigmas=True)\n"
    )
    texts = {
        run(f"plan trace {name} --steps 4").stdout
        for name in ("EulerDiscreteScheduler -o use_karras_sigmas=true", "mine_of_a_test:made", "saved")
    }
    assert len(texts) == 1
    assert "did you mean 'EulerDiscreteScheduler'" in run("plan trace EulerDiscreteSheduler", 3).output


def test_samples_are_written_in_every_format(folder):
    Path("mine_to_sample.py").write_text(MODELS)
    told = data("sample --model mine_to_sample:never --shape 3,2,4 --steps 4 --seed 1 --out a.npz")
    assert (told["samples"], told["nfe"], told["seed"]) == (3, 4, 1)
    stored = np.load("a.npz")
    expected = DiffusionPipeline().sample(lambda x, t: 0.5 * x, (3, 2, 4), 4, seed=1)
    assert np.array_equal(stored["samples"], expected.numpy())
    assert SamplingPlan.from_dict(json.loads(str(stored["plan"]))) == DiffusionPipeline().plan(4)
    assert "cannot be drawn" in run("sample --model mine_to_sample:never --shape 3,2,4,4 --out b.png", 3).output
    assert run("sample --count 2 --steps 3 --out c.png --quiet").output == ""
    assert Path("c.png").exists()


def test_digits_are_dark_on_light_and_other_grey_images_as_they_are():
    Path("mine_in_grey.py").write_text("black = lambda x, t: x + 1.0\n")
    run("sample --count 2 --steps 3 --seed 0 --out digits.png --quiet")
    run("sample --model mine_in_grey:black --shape 1,1,8,8 --prediction flow --schedule flow --steps 3 --out grey.png")
    digits, grey = (matplotlib.image.imread(name)[..., :3] for name in ("digits.png", "grey.png"))
    assert 0.5 < np.median(digits[:4]) < 0.95  # the corners are paper
    assert grey.mean() < 0.2
    # (B, C, L), a sound, is no picture
    assert "cannot be drawn" in run("sample --model mine_in_grey:black --shape 1,2,64 --out a.png", 3).output


def test_the_prediction_type_is_an_option_of_every_command_that_runs_a_model():
    Path("mine_to_predict.py").write_text("clean = lambda x, t: 0.0 * x + 0.5\n")
    told = "--model mine_to_predict:clean --prediction sample"
    run(f"sample {told} --shape 2,3 --steps 4 --out a.npz")
    assert np.allclose(np.load("a.npz")["samples"], 0.5, atol=1e-6)
    cells = data(f"compare ddim,heun unipc {told} --shape 3 --nfe 5 --count 2 --reference-calls 16")["cells"]
    assert len(cells) == 3
    assert all(cell["rms"] < 1e-6 for cell in cells)
    assert data(f"recommend {told} --shape 3 --nfe 4 --count 2")["recommendations"][0]["error"] < 1e-6
    assert "v_predicton" in run(f"sample {told[:-6]}v_predicton --shape 2,3 --out a.npz", 3).output


def test_a_log_message_is_a_warning_with_nothing_else_before_it():
    Path("mine_in_training.py").write_text(
        "import torch\nclass M(torch.nn.Dropout):\n    def forward(self, x, t): return x\nm = M()\n"
    )
    script = "from noise_scheduler_sampling_system.app.command_line import app; app()"
    words = "sample --model mine_in_training:m --shape 2,3 --steps 2 --out a.npz"
    ended = subprocess.run([sys.executable, "-c", script, *words.split()], capture_output=True, text=True, check=True)
    assert ended.stderr.startswith("warning: the model is in training mode")


def test_an_interrupt_keeps_the_batches_and_the_cells_that_are_done():
    Path("mine_to_stop.py").write_text(MODELS)
    told = data("sample --model mine_to_stop:half --count 9 --max-batch-size 2 --steps 5 --seed 0 --out a.npz", 130)
    assert told["interrupted"]
    assert np.load("a.npz")["samples"].shape == (4, 2, 4)
    cells = data("compare ddim euler --model mine_to_stop:half_again --nfe 3,5 --reference none --out a.csv", 130)[
        "cells"
    ]
    assert [bool(cell["problem"]) for cell in cells] == [False, False, False, True]
    assert Path("a.csv").exists()


def test_samplers_and_the_pipelines_of_a_file_are_compared():
    found = data("compare ddim heun --nfe 5,8 --labels 0..9 --out page.html")
    assert [each["sampler"] for each in found["entries"]] == ["ddim", "heun"]
    assert found["about"]["shape"] == [10, 1, 8, 8]
    assert all(cell["rms"] > 0.0 for cell in found["cells"])
    assert "<html" in Path("page.html").read_text()
    table = run("compare two.yaml --nfe 4 --out numbers.csv").stdout
    assert table.splitlines()[1].startswith("a_ddim")
    assert len(Path("numbers.csv").read_text().splitlines()) == 3
    run("compare two.yaml --nfe 3 --count 4 --out cells.png")
    run("compare two.yaml --steps 3 --out drawn.png")
    assert Path("cells.png").read_bytes() != Path("drawn.png").read_bytes()
    assert "one configuration file" in run("compare ddim --steps 3", 3).output


@pytest.mark.parametrize(("package", "ending"), [("plotly", "html"), ("matplotlib", "html"), ("matplotlib", "png")])
def test_a_missing_package_is_said_before_the_model_is_called(monkeypatch, package, ending):
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    Path("mine_to_spare.py").write_text("def model(x, t): raise SystemExit('called')\n")
    line = f"compare ddim --model mine_to_spare:model --shape 1,8,8 --nfe 2 --out page.{ending}"
    assert f"{package} is not installed" in run(line, 3).output


def test_a_choice_by_all_trajectories_is_said():
    four, five = (DiffusionPipeline(method="ddim").plan(calls) for calls in (4, 5))
    pooled = {"trajectories": 3072, "kind": "fit", "rms": 0.0123, "built_in": "adams, scm", "built_in_rms": 0.0234}
    plans = PlanSet({4: replace(four, provenance={"all_trajectories": pooled}), 5: five})
    (sentence,) = _on_all_trajectories(plans)
    assert sentence == (
        "4 calls: the held-out trajectories cannot tell the fit from adams, scm, so all 3072 trajectories decided: the "
        "fit has 0.0123, the sampler 0.0234"
    )


def test_a_pipeline_of_diffusers_is_sampled_compared_calibrated_and_advised():
    pytest.importorskip("diffusers")
    tiny_pipelines.build("ddpm").save_pretrained("folder")
    told = data("sample --model folder --steps 2 --seed 0 --out a.png")
    assert told["samples"] == 1
    found = data("compare ddim euler --model folder --count 2 --nfe 2 --reference-calls 8 --out a.json")
    assert len(found["cells"]) == 2
    fitted = data(
        "calibrate --model folder --nfe 2 --trajectories 2 --passes 1 --teacher-calls 4 --stages design --out p.json"
    )
    assert fitted["plans"][0]["nfe"] == 2
    again = data("plan verify p.json --model folder --seed 0")
    assert again["holds"]
    assert again["plans"][0]["changes"] == []
    assert len(data("recommend --model folder --nfe 3 --count 1")["recommendations"][0]["tried"]) > 1
    assert "give --method instead" in run("sample --model folder --config two.yaml --out b.png", 3).output


def test_a_recommendation_comes_from_the_table():
    found = data("recommend --nfe 10 --schedule cosine")["recommendations"][0]
    assert found["steps"] >= 5
    assert found["sampler"] in run("recommend --nfe 10 --schedule cosine").stdout
    assert "labels: the table of measurements takes none" in run("recommend --labels 1", 3).output
    for ignored in ("--count 4", "--max-batch-size 2", "--device cpu", "--prediction sample", "--shape 3"):
        assert "give --model" in run(f"recommend --nfe 5 {ignored}", 3).output


def test_the_doctor_measures_errors_within_their_limits():
    found = data("doctor")
    assert found["packages"]["torch"]
    assert all(check["passed"] and check["error"] <= check["limit"] for check in found["checks"])
    assert found["checks"][0]["error"] > 0.001


def test_the_doctor_fails_where_runs_are_wrong(monkeypatch):
    from noise_scheduler_sampling_system.app import health

    monkeypatch.setattr(health, "_ERROR", 1e-9)
    assert "is above" in run("doctor", 5).output


def test_a_configuration_file_is_made_checked_converted_and_described():
    run("config new a.yaml --preset sd3 --method unipc")
    assert "exists" in run("config new a.yaml", 4).output
    pipeline = AdvancedDiffusionSystem("a.yaml").get_pipeline("main")
    assert (pipeline.method, pipeline.config) == ("unipc", DiffusionPipeline(pipeline.config).config.preset("sd3"))
    assert all(f"{name}: " in Path("a.yaml").read_text() for name in type(pipeline.config).model_fields)
    run("config new b.json --preset flux-2:1024 --method euler")
    assert json.loads(Path("b.json").read_text())["main"]["spacing_options"] == {"tokens": 1024}
    assert data("plan euler --preset flux-2:1024 --steps 3") != data("plan euler --preset flux-2 --steps 3")
    uncommented = yaml.safe_load(Path("a.yaml").read_text().replace("\n  # method", "\n"))
    assert set(uncommented["main"]) >= {"method", "beta_schedule"}
    run("config convert two.yaml two.json")
    assert json.loads(Path("two.json").read_text()) == yaml.safe_load(Path("two.yaml").read_text())
    assert data("config check two.json")["pipelines"][1]["method"] == "heun"
    mistakes = data("config check bad.yaml", 3)["mistakes"]
    assert [each["where"] for each in mistakes] == [
        "bad.yaml: a_ddim.beta_start", "bad.yaml: a_ddim.beta_schedul", "bad.yaml: b.method",
    ]  # fmt: skip
    assert all(each["where"] in run("config check bad.yaml", 3).output for each in mistakes)


def test_the_schema_accepts_what_is_accepted_and_refuses_unknown_keys():
    schema = json.loads(run("config schema").stdout)
    entry = schema["additionalProperties"]
    assert entry["additionalProperties"] is False
    written = yaml.safe_load(Path("two.yaml").read_text())
    assert all(set(settings) <= set(entry["properties"]) for settings in written.values())
    assert set(SAMPLERS) == set(entry["properties"]["method"]["anyOf"][0]["enum"])
    assert all(field.get("description") for field in entry["properties"].values())


def test_the_shell_completes_names():
    assert completion.samplers("dpmpp_3") == ["dpmpp_3m", "dpmpp_3m_sde", "dpmpp_3s"]
    assert completion.spacings("kl") == ["kl_optimal"]
    assert completion.schedules("cos") == ["cosine"]
    assert completion.presets("flux") == ["flux-2", "flux-2-klein", "flux-dev", "flux-schnell"]
    assert completion.models("m") == ["mnist"]
    assert {"bad.yaml"} <= set(completion.samplers_or_files("ba"))


def test_an_unknown_name_suggests_three_and_how_to_list_the_rest():
    said = run("plan show dpmpp_2n", 3).output
    assert said.count("'dpm") == 3
    assert "noise-sampling samplers" in said


def test_an_unknown_option_is_a_usage_error():
    said = run("sample --foo 1", 2).output
    assert "No such option" in said
    assert "raised in" not in said


def test_every_option_has_help():
    def options(command: Any, name: str) -> None:
        for parameter in command.params:
            assert getattr(parameter, "help", "") or name == "noise-sampling", (name, parameter.name)
        for child, sub in getattr(command, "commands", {}).items():
            options(sub, child)

    options(get_command(cli.app), "noise-sampling")
