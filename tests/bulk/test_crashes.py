"""Processes that are killed: what was finished stays, and the next run makes the rest once."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bulk_sets import COUNT, Bad, OneBadProcess, labels, made, read
from noise_scheduler_sampling_system import ConfigurationError
from noise_scheduler_sampling_system.bulk import verify_dataset
from noise_scheduler_sampling_system.support import FileError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


#: Forked processes do without pyarrow, whose threads do not survive a fork.
TAR = {"format": "webdataset"}


def _content(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in (folder / "shards").iterdir()}


def _started(folder: Path, **more) -> int:
    """A child process that makes a set; its number."""
    child = os.fork()
    if child:
        return child
    try:
        made(folder, **more)
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_a_run_that_is_killed_at_any_moment_goes_on(tmp_path):
    chance, killed, size = random.Random(0), 0, {**TAR, "num_samples": 200}
    made(tmp_path / "measured", **TAR, num_samples=8)  # imports, outside of what is measured
    began = time.monotonic()
    made(tmp_path / "measured", **size)
    takes = time.monotonic() - began
    for _ in range(40):
        child = _started(tmp_path / "set", **size)
        time.sleep(chance.uniform(0.0, 0.2 * takes))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        if (tmp_path / "set" / "dataset.json").exists() and verify_dataset(tmp_path / "set").complete:
            break
    assert killed > 2
    made(tmp_path / "set", **size)
    assert _content(tmp_path / "set") == _content(tmp_path / "measured")  # every sample once, and nothing else
    assert verify_dataset(tmp_path / "set").complete


def test_of_two_processes_one_is_refused(tmp_path):
    slow = Bad(tmp_path, "hang", 1)
    child = _started(tmp_path / "set", model=slow, **TAR)
    try:
        while not (tmp_path / "set" / "dataset.json").exists():
            time.sleep(0.01)
        with pytest.raises(FileError, match=f"process {child}"):
            made(tmp_path / "set", model=slow, **TAR)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert made(tmp_path / "set", model=slow, **TAR).num_samples == COUNT  # the lock ended with the process


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path):
    resource = pytest.importorskip("resource")
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        try:
            made(tmp_path / "set", shard_size=40, **TAR)
        except FileError as error:
            os._exit(7 if "run the same command again" in error.suggestion else 8)
        os._exit(9)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert not _content(tmp_path / "set")
    made(tmp_path / "set", shard_size=None, **TAR)
    made(tmp_path / "good", shard_size=40, **TAR)
    assert _content(tmp_path / "set") == _content(tmp_path / "good")


@pytest.fixture
def workers_import_helpers(monkeypatch):
    pytest.importorskip("ray")
    folders = [str(Path(__file__).parents[1] / "helpers"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


def test_ray_workers_that_die_are_replaced(tmp_path, workers_import_helpers):
    seen = []
    report = made(
        tmp_path / "set", Bad(tmp_path, "kill", 1), engine="ray", workers=2, timeout=120.0, progress=seen.append
    )
    assert report.retried == 1
    assert (seen[-1].done, seen[-1].remaining_seconds) == (COUNT, 0.0)
    indices, samples, _ = read(tmp_path / "set")
    assert indices == list(range(COUNT))
    made(tmp_path / "local")
    assert np.array_equal(samples, read(tmp_path / "local")[1])
    assert not [e for e in (tmp_path / "set" / "shards").iterdir() if e.name.startswith(".")]
    assert verify_dataset(tmp_path / "set").complete


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_tries_a_shard_again_at_another_worker(tmp_path, workers_import_helpers, workers):
    report = made(tmp_path / "set", OneBadProcess(tmp_path), engine="ray", workers=workers, retries=1)
    assert report.retried >= 1  # more often by the bad worker, which goes on beside a good one, than retries allow
    assert read(tmp_path / "set")[0] == list(range(COUNT))


def test_ray_refuses_what_it_cannot_send(tmp_path):
    pytest.importorskip("ray")
    import threading

    lock = threading.Lock()

    def tied(x, t, class_labels=None):
        with lock:
            return x

    with pytest.raises(ConfigurationError, match="cannot be sent") as raised:
        made(tmp_path, tied, engine="ray")
    assert "module:attribute" in raised.value.suggestion
    with pytest.raises(ConfigurationError):
        made(tmp_path, engine="ray", address=3)


def test_ray_is_imported_only_where_it_is_used():
    code = (
        "import sys, noise_scheduler_sampling_system.bulk; sys.exit('ray' in sys.modules or 'pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert labels(np.array([3]))["class_labels"] == 3
