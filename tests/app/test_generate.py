"""The command ``generate``: a set in a folder, checked and repaired from a terminal."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline
from noise_scheduler_sampling_system.app.command_line import app
from noise_scheduler_sampling_system.bulk.inputs import InTurn, condition_named, table_in
from noise_scheduler_sampling_system.integrations.named_models import NamedModel
from noise_scheduler_sampling_system.support import FileError

ASK = ["--num-samples", "20", "--steps", "2", "--batch-size", "4", "--shard-size", "8", "--seed", "3"]


def run(*arguments):
    return CliRunner().invoke(app, ["generate", *map(str, arguments)])


def test_a_set_is_made_checked_and_repaired(tmp_path):
    folder = tmp_path / "set"
    made = run("--output", folder, *ASK, "--labels", "0..9", "--guidance-scale", "1", "--json")
    assert made.exit_code == 0, made.output
    assert {k: v for k, v in json.loads(made.stdout).items() if k not in ("output", "seconds")} == {
        "samples": 20, "written": 20, "found": 0, "failed": 0, "repaired_shards": 0, "retried_shards": 0, "seed": 3,
    }  # fmt: skip
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(folder / "shards" / "shard-0000001.parquet")
    whole = DiffusionPipeline(None, "ddim").sample(
        shape=(20, 1, 8, 8), num_inference_steps=2, seed=3, guidance_scale=1.0,
        condition={"class_labels": torch.arange(20) % 10},
    )  # fmt: skip
    got = np.array(rows["array"].to_pylist(), dtype=np.float32).reshape(-1, 1, 8, 8)
    np.testing.assert_allclose(got, whole[8:16].numpy(), atol=1e-5)
    assert run("--output", folder, "--verify").exit_code == 0
    (folder / "shards" / "shard-0000001.parquet").unlink()
    checked = run("--output", folder, "--verify")
    assert checked.exit_code == 4
    assert "shard 1: shard-0000001.parquet is missing" in checked.stdout
    again = run("--output", folder, *ASK, "--labels", "0..9", "--guidance-scale", "1")
    assert "8 samples written" in again.stdout
    other = run("--output", folder, *ASK, "--labels", "1..9", "--guidance-scale", "1")
    assert other.exit_code == 3
    assert "another condition" in other.stderr


def test_a_check_of_sizes_alone_reads_no_content(tmp_path):
    assert run("--output", tmp_path, *ASK).exit_code == 0
    shard = tmp_path / "shards" / "shard-0000001.parquet"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert run("--output", tmp_path, "--verify", "--check", "size").exit_code == 0
    assert run("--output", tmp_path, "--verify").exit_code == 4
    assert "give 'full' or 'size'" in run("--output", tmp_path, "--verify", "--check", "none").stderr


def test_a_named_model_goes_to_the_device_of_the_run(tmp_path, monkeypatch):
    on, seen = NamedModel.on, []

    def noted(self, device="auto"):
        seen.append(device)
        return on(self, device)

    monkeypatch.setattr(NamedModel, "on", noted)
    asked = ("--model", "mnist", "--num-samples", 2, "--steps", 2, "--device", "cpu", "--labels", "0..9")
    assert run("--output", tmp_path, *asked).exit_code == 0
    assert seen == ["cpu"] * 3  # the command's, that of the checks, and the worker's


def test_what_the_command_does_not_know_is_refused(tmp_path):
    assert "num_samples: is missing" in run("--output", tmp_path).stderr
    assert "holds no dataset.json" in run("--output", tmp_path, "--verify").stderr
    both = run("--output", tmp_path, *ASK, "--labels", "1", "--condition", "x.csv")
    assert "condition: is given beside class_labels" in both.stderr


def test_tables_in_files_are_conditions(tmp_path):
    (tmp_path / "a.csv").write_text("class_labels,weight,name\n1,0.5,x\n2,1,y\n")
    table = condition_named(str(tmp_path / "a.csv"))
    assert table["class_labels"].tolist() == [1, 2]
    assert table["class_labels"].dtype == np.int64
    assert table["weight"].dtype == np.float32
    assert table["name"] == ["x", "y"]
    (tmp_path / "a.jsonl").write_text('{"class_labels": 1, "v": [1.0, 2.0]}\n{"class_labels": 2, "v": [3, 4]}\n')
    assert table_in(str(tmp_path / "a.jsonl"))["v"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "text", ["", "a,b\n1\n", "a,b\n1,2,3\n", '{"a": 1}\n{"b": 1}\n', "[1]\n", '{"a": ' + "[" * 5000 + "\n"]
)
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet", ".txt"])
def test_malformed_tables_are_refused(tmp_path, text, ending):
    file = tmp_path / f"table{ending}"
    file.write_text(text)
    if ending == ".csv" and text[:1] in ("{", "["):
        return  # one column with a strange heading
    with pytest.raises(FileError) as raised:
        table_in(str(file))
    assert raised.value.where == str(file)


@pytest.mark.parametrize("name", ["json:nothing", "no_such_module:f", ":", "a:", "math:pi"])
def test_functions_that_are_not_there_are_refused(name):
    with pytest.raises(ConfigurationError):
        condition_named(name)


def test_rows_in_turn_know_all_their_entries():
    assert InTurn({"class_labels": [1, 2]}).fingerprint != InTurn({"class_labels": [1, 3]}).fingerprint
    assert InTurn({"prompt": ["a", "b"]})(np.array([3])) == {"prompt": ["b"]}
