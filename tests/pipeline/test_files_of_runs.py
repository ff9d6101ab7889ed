"""States and checkpoints that were tampered with, kills while a file is written, disks that are full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from noise_scheduler_sampling_system import (
    ConfigurationError,
    DiffusionPipeline,
    FileError,
    RunState,
    TimeGrid,
    calibrate,
)
from noise_scheduler_sampling_system.calibration import checkpoint as checkpoints
from noise_scheduler_sampling_system.models import DigitsModel
from noise_scheduler_sampling_system.running.loop import RowState
from noise_scheduler_sampling_system.running.profiling import measured
from noise_scheduler_sampling_system.support.files import write_atomic
from noise_scheduler_sampling_system.support.tensor_files import parts_of

SHAPE = (2, 1, 8, 8)


def model(x, t):
    return 0.1 * x


def steps_of(method: str = "dpmpp_2m") -> list[Any]:
    return list(DiffusionPipeline(None, method).stream(model, SHAPE, 4, seed=3))


def rewritten(path: Path, name: str, change: Any, drop: bool = True) -> None:
    """Change what a safetensors file holds, as someone does by hand: ``change(about, tensors)``."""
    data = path.read_bytes()
    header = parts_of(data)[0]
    about, tensors = json.loads(header[name]), load(data)
    change(about, tensors)
    metadata = {**({} if drop else header), name: json.dumps(about)}
    path.write_bytes(save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata=metadata))


STATE_CHANGES = {
    **{f"row={value}": lambda a, t, value=value: a.update(row=value) for value in (-1, 10**6, 1.5, None, "2", True)},
    "no history": lambda a, t: [t.pop(name) for name in list(t) if name.startswith("history")],
    "history of one": lambda a, t: [t.update({n: t[n][:1]}) for n in list(t) if n.startswith("history")],
    "history of none": lambda a, t: t.update({"history.-1": t["x"].clone()}),
    "history of later": lambda a, t: t.update({"history.3": t["x"].clone()}),
    "history of a name": lambda a, t: t.update({"history.one": t["x"].clone()}),
    "history of whole numbers": lambda a, t: [t.update({n: t[n].long()}) for n in list(t) if n.startswith("history")],
    **{
        f"keys={value}": lambda a, t, value=value: (t.pop("keys"), a.update(keys=value))
        for value in (
            [[3, 0]],
            [],
            None,
            [[3, 0], [3, -1]],
            [[3, 0], [3, 2**64]],
            [[3, 0], [3]],
            [[3, 0], [3, 0.5]],
            "ab",
            5,
        )
    },
    **{
        f"settings={value}": lambda a, t, value=value: a.update(settings=value)
        for value in (None, [], "x", {"config": 1})
    },
    **{f"noise={value}": lambda a, t, value=value: a.update(noise=value) for value in (None, "x", 1)},
    **{f"model={value}": lambda a, t, value=value: a.update(model=value) for value in (1, [])},
    **{f"plan={value}": lambda a, t, value=value: a.update(plan=value) for value in (None, [], {}, "x")},
    "plan changed": lambda a, t: a["plan"].update(prior_scale=a["plan"]["prior_scale"] * 1.001),
    "no keys": lambda a, t: t.pop("keys"),
    "keys of one": lambda a, t: t.update(keys=t["keys"][:1]),
    "keys of one number": lambda a, t: t.update(keys=t["keys"][:, :1]),
    "keys of real numbers": lambda a, t: t.update(keys=t["keys"].double()),
    "format": lambda a, t: a.update(format=7),
    "no x": lambda a, t: t.pop("x"),
    "x of whole numbers": lambda a, t: t.update(x=t["x"].long()),
    "x not finite": lambda a, t: t["x"].fill_(float("nan")),
    "x alone": lambda a, t: t.update(x=torch.tensor(1.0)),
    "another tensor": lambda a, t: t.update(y=t["x"].clone()),
}


@pytest.mark.parametrize("change", STATE_CHANGES)
def test_a_state_that_no_run_can_have_is_refused(change, tmp_path):
    path = tmp_path / "run.safetensors"
    steps_of()[1].state.save(path)
    rewritten(path, "run", STATE_CHANGES[change])
    with pytest.raises(FileError, match=r"run\.safetensors"):
        RunState.load(path)


def test_a_changed_state_is_refused_and_one_of_an_earlier_version_is_read(tmp_path):
    path, steps = tmp_path / "run.safetensors", steps_of()
    steps[1].state.save(path)
    rewritten(path, "run", lambda a, t: a.update(keys=t.pop("keys").tolist()))  # as before: in the text, and no hash
    assert RunState.load(path) == steps[1].state
    steps[1].state.save(path)
    rewritten(path, "run", lambda a, t: t["x"][0, 0, 0, 0].add_(1e-3), drop=False)
    with pytest.raises(FileError, match="content_hash"):
        RunState.load(path)


def test_states_are_checked_when_they_are_made():
    state = steps_of()[1].state
    with pytest.raises(ConfigurationError, match=r"RunState\.row"):
        RunState(state.plan, RowState(99, state.state.x, {}), state.keys, state.settings)


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("calibration") / "state.safetensors"
    pipeline = DiffusionPipeline()
    asked = {"shape": (1, 8, 8), "nfe": [3], "trajectories": 8, "passes": 4, "teacher_calls": 8, "budget_seconds": 1e4}
    calibrate(DigitsModel(pipeline.scheduler), pipeline, checkpoint=path, **asked)
    return path, asked


def parts(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in plain data values lie: each key of a mapping, the first entry of a list."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, each in value.items():
            found += parts(each, (*path, key))
    elif isinstance(value, list) and value:
        found += parts(value[0], (*path, 0))
    return found


def test_a_checkpoint_with_a_part_of_another_type_is_refused(checkpoint, tmp_path):
    """Every part of it, of every type that it does not have: success where it may be so, else FileError."""
    source, _ = checkpoint
    stored = json.loads(parts_of(source.read_bytes())[0]["calibration"])
    places = [
        p for p in parts(stored) if not {"provenance", "options"} & set(p) and not (p[0] == "about" and len(p) > 1)
    ]
    assert {"plans", "fits", "about"} <= {p[0] for p in places}
    refused, path = 0, tmp_path / "state.safetensors"
    for place in places:
        for value in (None, [], {}, "x", True, [None], -1.5):

            def change(about: Any, tensors: Any, place=place, value=value) -> None:
                for key in place[:-1]:
                    about = about[key]
                about[place[-1]] = value

            path.write_bytes(source.read_bytes())
            rewritten(path, "calibration", change)
            try:
                checkpoints.Checkpoint.open(path, stored["about"])
            except FileError:
                refused += 1
    assert refused > 5 * len(places)


# Kills and full disks

KILLED = """
import os, signal, sys
from noise_scheduler_sampling_system import files
from pathlib import Path
with files.replacing(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print(temporary.name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_a_live_one_is_spared(tmp_path):
    target = tmp_path / "plan.json"

    def writer() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        process.temporary = process.stdout.readline().strip()  # type: ignore[attr-defined, union-attr]
        return process

    with writer() as dead:
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait()
    assert (tmp_path / dead.temporary).exists()  # type: ignore[attr-defined]
    other = tmp_path / ".other.json.0123456789abcdef0123456789abcdef.tmp"
    other.touch()
    with writer() as alive:
        write_atomic(target, b"whole")
        assert not (tmp_path / dead.temporary).exists()  # type: ignore[attr-defined]
        assert (tmp_path / alive.temporary).exists()  # type: ignore[attr-defined]
        alive.stdin.close()  # type: ignore[union-attr]
        assert alive.wait() == 0
    assert target.read_bytes() == b"half"
    assert {path.name for path in tmp_path.iterdir()} == {target.name, other.name}


def test_names_as_long_as_they_may_be_can_be_written(tmp_path):
    target = tmp_path / ("n" * 250 + ".json")
    write_atomic(target, b"1")
    write_atomic(target, b"2")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"2"]


@pytest.mark.parametrize("name", ["", "a\0b", None, 5, b"x"])
def test_what_is_no_name_of_a_file_is_refused(name):
    for act in (RunState.load, lambda path: write_atomic(path, b"")):
        with pytest.raises(FileError):
            act(name)


def test_devices_and_folders_are_neither_read_nor_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null"), Path("/dev/zero")):
        for act in (RunState.load, lambda path: write_atomic(path, b"")):
            with pytest.raises(FileError, match="is not a file"):
                act(path)


FULL = """
import resource, signal, sys, torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from noise_scheduler_sampling_system import DiffusionPipeline, FileError
try:
    DiffusionPipeline().sample(lambda x, t: x, (2, 4), 20, seed=0, profile=sys.argv[1])
except FileError as error:
    print("refused", error)
"""


def test_a_trace_that_does_not_fit_on_the_disk_is_reported(tmp_path):
    path = tmp_path / "trace.json"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused"), done
    assert str(path) in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_trace_is_whole(tmp_path):
    for name in ("trace.json", "trace.json.gz"):
        with measured(tmp_path / name, torch.device("cpu")):
            torch.ones(3).sum()
    import gzip

    for text in ((tmp_path / "trace.json").read_bytes(), gzip.decompress((tmp_path / "trace.json.gz").read_bytes())):
        assert "traceEvents" in json.loads(text)
    with pytest.raises(FileError), measured(tmp_path / "missing" / "trace.json", torch.device("cpu")):
        raise AssertionError("the run has begun")


def test_a_grid_keeps_its_clean_end(tmp_path):
    import copy
    import pickle

    from noise_scheduler_sampling_system.schedules import CLEAN

    grid = DiffusionPipeline().sampler.grid(3)
    assert np.isnan(CLEAN.t)
    for again in (pickle.loads(pickle.dumps(grid)), copy.deepcopy(grid), copy.copy(grid)):
        assert isinstance(again, TimeGrid)
        assert again == grid
        assert again.levels[-1] is CLEAN
        DiffusionPipeline().sample(model, SHAPE, grid=again)


def test_a_state_of_a_very_large_batch_can_be_saved(tmp_path):
    """And seeds up to the largest."""
    count = 500_000
    stream = DiffusionPipeline().stream(lambda x, t: x, (count, 1), 2, seed=2**64 - 1)
    state = next(stream).state
    state.save(tmp_path / "run")
    assert RunState.load(tmp_path / "run") == state
