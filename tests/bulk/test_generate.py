"""Sets of samples on disk: the same samples by every way, continued, refused, checked and repaired."""

import io
import json
import os
import shutil
import tarfile
import time

import numpy as np
import pytest
import torch

from bulk_sets import COUNT, SHAPE, STEPS, Bad, Shrinking, expected, labels, made, read
from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.bulk import generate_dataset, verify_dataset
from noise_scheduler_sampling_system.bulk.lock import only_writer
from noise_scheduler_sampling_system.support import FileError, WorkerError

SEVERAL = {"batch_size": 3, "shard_size": 9}


def test_a_set_holds_the_samples_of_one_large_batch(tmp_path):
    report = made(tmp_path / "set")
    assert (report.written, report.found, report.num_failed, report.repaired) == (COUNT, 0, 0, 0)
    indices, samples, rows = read(tmp_path / "set")
    assert indices == list(range(COUNT))
    np.testing.assert_allclose(samples, expected().numpy(), rtol=0, atol=1e-6)
    plan = DiffusionPipeline(None, "ancestral").plan(STEPS)
    assert rows.slice(12, 1).drop_columns("array").to_pylist() == [
        {"index": 12, "seed": 7, "shape": list(SHAPE), "dtype": "float32", "plan_hash": plan.content_hash,
         "condition.class_labels": 2}
    ]  # fmt: skip
    assert verify_dataset(tmp_path / "set").complete


def test_batches_of_another_size_hold_the_same_samples(tmp_path):
    made(tmp_path / "a")
    made(tmp_path / "b", **SEVERAL)
    np.testing.assert_allclose(read(tmp_path / "a")[1], read(tmp_path / "b")[1], rtol=0, atol=1e-6)
    made(tmp_path / "c", shard_size=20)  # other shards, the same batches
    assert np.array_equal(read(tmp_path / "a")[1], read(tmp_path / "c")[1])


def test_a_second_call_finds_everything_and_a_larger_one_extends(tmp_path):
    made(tmp_path)
    before = {entry.name: entry.stat().st_mtime_ns for entry in (tmp_path / "shards").iterdir()}
    assert made(tmp_path).written == 0
    report = made(tmp_path, num_samples=COUNT + 13, batch_size=None, shard_size=None)
    assert (report.found, report.repaired) == (48, 0)  # the last shard was not full
    whole = {entry.name: entry.stat().st_mtime_ns for entry in (tmp_path / "shards").iterdir()}
    assert [name for name in before if whole[name] != before[name]] == ["shard-0000006.parquet"]
    indices, samples, _ = read(tmp_path)
    assert indices == list(range(COUNT + 13))
    np.testing.assert_allclose(samples, expected(COUNT + 13).numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("other", "where"),
    [
        ({"seed": 8}, "seed"),
        ({"model": lambda x, t, class_labels=None: x}, "model"),
        ({"num_inference_steps": 4}, "plan"),
        ({"condition": lambda i: {"class_labels": i % 3}}, "condition"),
        ({"shape": (1, 5, 4)}, "shape"),
        ({"shard_size": 16}, "shard_size"),
        ({"num_samples": 10}, "num_samples"),
        ({"num_samples": 10, "condition": {"class_labels": torch.arange(10)}}, "num_samples"),
        ({"format": "webdataset"}, "format"),
        ({"dtype": torch.float64}, "run"),
        ({"pipeline": DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cosine"), "ancestral")}, "plan"),
        ({"decode": lambda samples: samples}, "decode"),
    ],
)
def test_a_set_is_not_continued_with_something_else(tmp_path, other, where):
    made(tmp_path, num_samples=16)
    with pytest.raises(ConfigurationError) as raised:
        made(tmp_path, **{"num_samples": 16, **other})
    assert raised.value.where == where
    assert ("another type of processor" in str(raised.value)) == (where == "plan")
    assert verify_dataset(tmp_path).complete


def _shard(folder, number):
    return folder / "shards" / f"shard-{number:07d}.parquet"


def test_what_is_missing_or_corrupt_is_named_and_repaired(tmp_path):
    made(tmp_path / "good")
    made(tmp_path / "set")
    good, folder = read(tmp_path / "good")[1], tmp_path / "set"
    data = bytearray(_shard(folder, 1).read_bytes())
    data[len(data) // 2] ^= 1
    _shard(folder, 1).write_bytes(data)
    _shard(folder, 2).write_bytes(_shard(folder, 2).read_bytes()[:-5])
    _shard(folder, 3).unlink()
    journal = (folder / "journal").read_bytes().splitlines(keepends=True)
    journal[5] = journal[5].replace(b'"count":8', b'"count":7')
    (folder / "journal").write_bytes(b"".join(journal)[:-20])  # the last line is cut off
    (folder / "shards" / "stranger").write_text("?")
    found = verify_dataset(folder)
    assert {number: what.split(":")[0] for number, what in found.problems.items()} == {
        1: "the content of shard-0000001.parquet was changed",
        2: f"shard-0000002.parquet has {_shard(folder, 2).stat().st_size} bytes, and had "
           f"{_shard(tmp_path / 'good', 2).stat().st_size} when it was written",
        3: "shard-0000003.parquet is missing", 5: "it was not finished", 6: "it was not finished",
    }  # fmt: skip
    assert "stranger" in found.strangers
    assert found.affected == 4 * 8 + 2
    assert "2 of 7 shards are whole (16 samples)" in str(found)
    assert 1 not in verify_dataset(folder, hashes=False).problems
    assert made(folder).repaired == 3
    assert verify_dataset(folder).complete
    assert np.array_equal(read(folder)[1], good)


def test_a_sample_that_is_not_finite_is_recorded_and_the_rest_is_as_before(tmp_path):
    class Holes(Shrinking):
        hole = 3

        def __call__(self, x, t, class_labels=None):
            output = super().__call__(x, t, class_labels)
            return torch.where(class_labels.reshape(-1, 1, 1, 1) == self.hole, float("nan"), output)

    made(tmp_path / "good")
    report = made(tmp_path / "holes", Holes())
    lost = [i for i in range(COUNT) if i % 10 == 3]
    assert report.num_failed == len(lost)
    indices, samples, _ = read(tmp_path / "holes")
    assert indices == [i for i in range(COUNT) if i not in lost]
    assert np.array_equal(samples, read(tmp_path / "good")[1][indices])
    found = verify_dataset(tmp_path / "holes")
    assert found.complete
    assert [first for first, _, _ in found.failed] == lost
    assert "NaN or Inf at step 0" in found.failed[0][2]
    assert made(tmp_path / "holes", Holes()).written == 0
    Holes.hole = -1
    repaired = made(tmp_path / "holes", Holes(), retry_failed=True)
    assert repaired.num_failed == 0
    assert np.array_equal(read(tmp_path / "holes")[1], read(tmp_path / "good")[1])


def test_all_samples_of_a_shard_may_fail(tmp_path):
    def broken(x, t, class_labels=None):
        return x * float("inf")

    assert made(tmp_path, broken).num_failed == COUNT
    assert verify_dataset(tmp_path).failed[0][:2] == (0, 7)
    assert verify_dataset(tmp_path).complete


@pytest.mark.parametrize("what", ["raise", "hang"])
def test_a_batch_that_fails_is_tried_again(tmp_path, what):
    report = made(tmp_path / "set", Bad(tmp_path, what, 2), timeout=0.5 if what == "hang" else None)
    assert report.retried == 2
    np.testing.assert_allclose(read(tmp_path / "set")[1], expected().numpy(), rtol=0, atol=1e-6)


def test_a_decoder_that_hangs_is_found(tmp_path):
    hangs = [3.0]

    def decode(samples):
        if hangs:
            time.sleep(hangs.pop())
        return samples

    assert made(tmp_path, decode=decode, num_samples=8, timeout=0.3).retried == 1


def test_batches_of_another_type_are_refused_with_a_reason(tmp_path):
    calls = []

    def cropped(samples):
        calls.append(1)
        return samples if len(calls) == 1 else samples[..., :2]

    with pytest.raises(ConfigurationError, match="differ in type") as raised:
        made(tmp_path / "set", decode=cropped)
    assert raised.value.where == "format"
    made(tmp_path / "texts", _Noted(), condition=lambda i: {"note": [None if n < 4 else "text" for n in i.tolist()]})
    assert read(tmp_path / "texts")[2]["condition.note"].to_pylist() == [None] * 4 + ["text"] * (COUNT - 4)


class _Noted(Shrinking):
    def __call__(self, x, t, note):
        return super().__call__(x, t)


def test_a_shard_that_always_fails_is_given_up_and_the_others_are_made(tmp_path):
    class Poisoned(Shrinking):
        def __call__(self, x, t, class_labels=None):
            if (class_labels == 5).any() and len(x) == 4 and float(x.flatten()[0]) > -1e9 and self.armed:
                raise ValueError("label 5")
            return super().__call__(x, t, class_labels)

        armed = True

    with pytest.raises(WorkerError, match="label 5") as raised:
        made(tmp_path, Poisoned(), condition=lambda i: {"class_labels": i // 8}, retries=1)
    assert raised.value.where == "shard 5"
    assert "1 shards failed 2 times each; 42 of 50" in raised.value.what
    assert list(verify_dataset(tmp_path).problems) == [5]
    Poisoned.armed = False
    assert made(tmp_path, Poisoned(), condition=lambda i: {"class_labels": i // 8}).written == 8


def test_a_model_that_always_fails_ends_the_run_after_three_shards(tmp_path):
    calls = []

    def broken(x, t, class_labels=None):
        calls.append(1)
        raise ValueError("never")

    with pytest.raises(WorkerError, match="never"):
        made(tmp_path, broken, retries=1)
    assert len(calls) == 6
    assert not list((tmp_path / "shards").iterdir())


def test_a_second_writer_is_refused(tmp_path):
    made(tmp_path, num_samples=8)
    with only_writer(tmp_path), pytest.raises(FileError, match=f"process {os.getpid()}"):
        made(tmp_path)
    assert made(tmp_path).written == COUNT - 8


def test_a_full_disk_stops_the_run_and_it_goes_on_afterwards(tmp_path, monkeypatch):
    from noise_scheduler_sampling_system.bulk.formats.parquet import ParquetWriter

    written = ParquetWriter.write
    left = [7]

    def full(self, batch):
        left[0] -= 1
        if left[0] < 0:
            (self.path.parent / ".writing-of-another-worker").touch()
            raise OSError(28, "No space left on device")
        written(self, batch)

    monkeypatch.setattr(ParquetWriter, "write", full)
    with pytest.raises(FileError, match="No space left"):
        made(tmp_path)
    monkeypatch.undo()
    assert sorted(entry.name for entry in (tmp_path / "shards").iterdir()) == [
        f"shard-000000{i}.parquet" for i in range(3)
    ]
    assert made(tmp_path).found == 24
    np.testing.assert_allclose(read(tmp_path)[1], expected().numpy(), rtol=0, atol=1e-6)


def test_a_table_gives_each_sample_its_row(tmp_path):
    table = {"class_labels": torch.arange(COUNT) % 10}
    made(tmp_path / "table", condition=table)
    made(tmp_path / "function")
    assert np.array_equal(read(tmp_path / "table")[1], read(tmp_path / "function")[1])
    assert read(tmp_path / "table")[2]["condition.class_labels"].to_pylist() == [i % 10 for i in range(COUNT)]
    made(tmp_path / "one", condition={"class_labels": [4]})
    assert read(tmp_path / "one")[2]["condition.class_labels"].to_pylist() == [4] * COUNT
    with pytest.raises(ConfigurationError) as raised:
        made(tmp_path / "table", condition={"class_labels": (torch.arange(COUNT) + 1) % 10})
    assert raised.value.where == "condition"


def test_webdataset_and_png_hold_the_samples(tmp_path):
    made(tmp_path / "tar", format="webdataset")
    with tarfile.open(tmp_path / "tar" / "shards" / "shard-0000001.tar") as tar:
        names = tar.getnames()
        assert names[:2] == ["000000000008.npy", "000000000008.json"]
        array = np.load(io.BytesIO(tar.extractfile(names[0]).read()))
        about = json.loads(tar.extractfile(names[1]).read())
    np.testing.assert_allclose(array, expected()[8].numpy(), rtol=0, atol=1e-6)
    assert about["condition"] == {"class_labels": 8}
    assert (about["index"], about["seed"], about["dtype"], about["shape"]) == (8, 7, "float32", list(SHAPE))

    from PIL import Image

    made(tmp_path / "png", format="png")
    folder = tmp_path / "png" / "shards" / "shard-0000001"
    picture = np.asarray(Image.open(folder / "000000000008.png"))
    wanted = ((expected()[8, 0].clamp(-1, 1) + 1) * 127.5).round().numpy()
    assert np.abs(picture.astype(float) - wanted).max() <= 1.0
    lines = (folder / "samples.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["file"] == "000000000008.png"
    shutil.rmtree(folder)
    (tmp_path / "png" / "shards" / "shard-0000002" / "samples.jsonl").write_text("")
    assert sorted(verify_dataset(tmp_path / "png").problems) == [1, 2]
    assert made(tmp_path / "png", format="png").repaired == 2
    assert verify_dataset(tmp_path / "png").complete


def test_half_precision_is_kept(tmp_path):
    made(tmp_path, dtype=torch.bfloat16)
    rows = read(tmp_path)[2]
    assert set(rows["dtype"].to_pylist()) == {"bfloat16"}


def test_the_progress_counts_every_sample_once(tmp_path):
    seen = []
    made(tmp_path, num_samples=16)
    made(tmp_path, progress=seen.append)
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert (seen[0].done, seen[-1].done, seen[-1].total, seen[-1].remaining_seconds) == (16, COUNT, COUNT, 0.0)
    assert 0.0 < seen[-1].samples_per_second < 1e6


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"num_samples": 0}, "num_samples"), ({"num_samples": 2**41}, "num_samples"), ({"seed": None}, "seed"),
        ({"seed": [1, 2]}, "seed"), ({"shape": None}, "shape"), ({"shape": 3}, "shape"), ({"format": "zip"}, "format"),
        ({"batch_size": 0}, "batch_size"), ({"shard_size": 1.5}, "shard_size"), ({"engine": "dask"}, "engine"),
        ({"workers": 2}, "workers"), ({"gpu_fraction": 0.5}, "gpu_fraction"), ({"timeout": 0}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"num_samples": 10**9, "shard_size": 100}, "shard_size"), ({"check": "none"}, "check"),
        ({"progress": 3}, "progress"),
        ({"condition": 3}, "condition"), ({"condition": {"class_labels": [1, 2]}}, "condition['class_labels']"),
        ({"condition": lambda i: [1]}, "condition"), ({"condition": lambda i: {"a": [1]}}, "condition['a']"),
        ({"decode": 1}, "decode"), ({"callback": print}, "callback"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"noise_device": "cuda", "device": "cpu"}, "noise_device"), ({"noise_ahead": 2}, "noise_ahead"),
        ({"shape": (2, 4, 4), "format": "png"}, "format"), ({"pipeline": 3}, "pipeline"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_work_are_refused_before_anything_is_made(tmp_path, arguments, where):
    def uncalled(x, t, class_labels=None):
        raise AssertionError("called")

    with pytest.raises(ConfigurationError) as raised:
        made(tmp_path / "set", uncalled, **arguments)
    assert raised.value.where == where
    assert raised.value.suggestion
    assert not (tmp_path / "set").exists() or not list((tmp_path / "set").glob("shards/*"))


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileError, match=r"thesis\.txt"):
        made(tmp_path)
    for text in (
        "", "[]", '{"format_version": 1}', '{"format_version": 1, "num_samples": 1e400}', "[" * 9999,
        '{"a": 1, "a": 2}',
        '{"format_version": 1, "num_samples": 1000000000000, "shard_size": 1, "batch_size": 1, "identity": {}}',
    ):  # fmt: skip
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(FileError):
            made(tmp_path)
        with pytest.raises(FileError):
            verify_dataset(tmp_path)

    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_model_by_name_is_loaded_by_the_worker(tmp_path):
    run = {"seed": 1, "num_inference_steps": 2, "batch_size": 5}
    generate_dataset(DiffusionPipeline(None, "ddim"), "digits", 5, tmp_path / "a", **run)
    generate_dataset(DiffusionPipeline(None, "ddim"), None, 5, tmp_path / "b", shape=(1, 8, 8), **run)
    left, right = (next((tmp_path / name / "shards").iterdir()).read_bytes() for name in "ab")
    assert left == right
    assert labels(np.array([12]))["class_labels"] == 2
