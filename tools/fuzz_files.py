"""Changed files of every kind that the library reads: each is read and used, or refused, within a second.

    python tools/fuzz_files.py --count 20000 --seed 0

A file is changed byte by byte (flipped, cut, doubled, inserted) or in what it holds (a value replaced by one of
another kind or size, a key taken out, doubled or renamed, two values swapped); the hash of its content is taken out of
some, as those who make a file by hand do. What is read is then run. What is found is printed with its number:
``--only NUMBER`` runs that one again, and ``--keep FOLDER`` keeps its file.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load, save

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    DiffusionPipeline,
    ModelStatistics,
    NoiseSamplingError,
    NoiseSchedulerConfig,
    PlanSet,
    SamplingPlan,
    calibrate,
)
from noise_scheduler_sampling_system.calibration.checkpoint import Checkpoint
from noise_scheduler_sampling_system.models import GaussianModel
from noise_scheduler_sampling_system.running.stated_prediction import stated_prediction
from noise_scheduler_sampling_system.support.tensor_files import parts_of

#: Seconds of the processor that a file may take, and seconds after which it is given up.
SLOW, HANGS = 1.0, 60
SHAPE = (2, 4)
#: Characters of an error: nobody reads more.
MESSAGE = 8000


def model(x: torch.Tensor, t: Any) -> torch.Tensor:
    """The network of every run here."""
    return 0.1 * x


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, a good one of it, what is beside its tensors, and how it is read and used."""

    name: str
    data: bytes
    use: Callable[[Path], object]
    beside: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a file ended: a word for the table and, where it is a fault, what is wrong."""

    word: str
    fault: str = ""


def kinds(folder: Path) -> list[Kind]:
    """Every kind of file that is read, with good ones made in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Kind] = []

    def add(
        name: str, use: Callable[[Path], object], write: Callable[[Path], object], beside: str | None = None
    ) -> None:
        path = folder / name
        write(path)
        made.append(Kind(name, path.read_bytes(), use, beside))

    system = AdvancedDiffusionSystem()
    system.create_pipeline("first", NoiseSchedulerConfig(beta_schedule="cosine", timestep_spacing="karras"), "heun")
    system.create_pipeline("second_ddim", {"beta_schedule": "flow", "schedule_options": {"shift": 3.0}}, eta=0.5)
    few = NoiseSchedulerConfig(beta_schedule="custom", trained_betas=[0.01, 0.02, 0.05, 0.1, 0.2, 0.3])
    pipelines = {name: DiffusionPipeline(None, name) for name in ("ddim", "dpmpp_2m", "ancestral", "pndm")}
    plans = {name: pipeline.plan(4) for name, pipeline in pipelines.items()}
    first = pipelines["ddim"].plan(2)

    def ran(plan: SamplingPlan) -> None:
        DiffusionPipeline().sample(model, SHAPE, plan=plan, seed=0)

    def resumed(path: Path) -> None:
        for _ in DiffusionPipeline(None, "dpmpp_2m").stream(model, resume=path):
            pass

    for ending in ("yaml", "json"):
        add(f"system.{ending}", AdvancedDiffusionSystem, system.save_config)
        add(f"config.{ending}", NoiseSchedulerConfig.load, few.save)
    by_hand = "base: &b {beta_start: 1e-4, clip_sample: on}\nfirst_ddim:\n  <<: *b\n  method: ddim # as usual\n"
    add("by-hand.yaml", AdvancedDiffusionSystem, lambda path: path.write_text(by_hand))
    for ending in ("json", "safetensors"):
        for name, plan in plans.items():
            add(
                f"{name}.{ending}", lambda path: ran(SamplingPlan.load(path)), plan.save,
                "plan" if ending == "safetensors" else None,
            )  # fmt: skip
    add(
        "plans.json",
        lambda path: [ran(p) for p in PlanSet.load(path).values()],
        PlanSet({2: first, 4: plans["ddim"]}).save,
    )
    for at in (1, 3):
        steps = list(DiffusionPipeline(None, "dpmpp_2m").stream(model, SHAPE, 4, seed=3))
        add(f"run{at}.safetensors", resumed, steps[at].state.save, "run")
    add(
        "statistics.safetensors",
        lambda path: DiffusionPipeline(None, "dpm_v3", statistics=str(path)).sample(model, SHAPE, 3, seed=0),
        ModelStatistics.neutral().save,
        "",
    )
    add("checkpoint.safetensors", _continued, _calibrated, "calibration")
    add("scheduler_config.json", _beside, lambda path: path.write_text(json.dumps(_SCHEDULER)))
    return made


_SCHEDULER = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "betas": [0.1, 0.2], "clip": None}
_BUDGET = {"shape": (2,), "nfe": [2], "trajectories": 8, "passes": 2, "teacher_calls": 8, "budget_seconds": 1e5}


def _calibrated(path: Path) -> None:
    pipeline = DiffusionPipeline()
    calibrate(GaussianModel(pipeline.scheduler), pipeline, checkpoint=path, **_BUDGET)  # type: ignore[arg-type]


def _continued(path: Path) -> None:
    """Read a checkpoint and look at what a calibration looks at."""
    found = Checkpoint.open(path, {})
    for nfe in (1, 2, *found.plans, *found.fits):
        found.done(nfe, 1.0)
        found.before(nfe)
    found.teach(found.solution, found.teacher_error)  # type: ignore[arg-type]


def _beside(path: Path) -> None:
    """A network whose scheduler lies beside it."""
    folder = path.parent / f"{path.stem}-scheduler"
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / "scheduler" / "scheduler_config.json")
    network = torch.nn.Identity()
    network.config = {"_name_or_path": str(folder)}  # type: ignore[assignment]
    stated_prediction(network)


#: What a value is replaced by.
WRONG: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3.7, -0.0, 1e308, 5e-324, -1e300, math.nan, math.inf, -math.inf, 10**400, 2**64,
    -(2**63), "", "x", "1", "nan", "-1", "x" * 70_000, "\u00e9\u4e2d\U0001f600", [], [[]], {}, {"": 0},
    {"a": {"b": [None]}}, [None], [1, [2, [3]]], [1.0] * 4, [[0, 0]] * 4, ["data"], "data", "sample", "v_prediction",
    "custom", "heun", "cosine", [0] * 5000, {str(i): i for i in range(1500)},
)  # fmt: skip
TOKENS: tuple[bytes, ...] = (
    b"&a ", b"*a", b"<<: *b", b"!!int ", b"!!timestamp x", b"!!python/object:os.system ", b"- ", b"? ", b": ", b"[",
    b"]", b"{", b"}", b'"', b"'", b"|\n", b"\t", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"NaN", b"Infinity",
    b"-Infinity", b"1e999", b"0x", b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b"[[[" * 30, b"\\ud800", b"\\u0000",
    b"null", b"true", b"1_000", b"1:59:59", b"2024-01-01", b"#", b"%", b"---\n", b"...\n", b"\r\n", b",",
    b"x" * 100_000, b"&b [*b]", b"~",
)  # fmt: skip


def changed(kind: Kind, draw: random.Random) -> bytes:
    """The bytes of a file of a kind, changed in one to three places."""
    data = kind.data
    by_value = draw.random() < 0.65
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        data = _changed_value(kind, data, draw) if by_value else _changed_bytes(data, draw)
    return data


def _changed_bytes(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    stop = min(len(data), start + draw.choice([1, 1, 2, 8, 64, 10_000]))
    part = data[start:stop]
    how = draw.randrange(7)
    if how == 0 and part:
        part = bytes([part[0] ^ (1 << draw.randrange(8))]) + part[1:]
    elif how == 1:
        part = b""
    elif how == 2:
        part = part * draw.choice([2, 2, 3, 100])
    elif how == 3:
        part = draw.randbytes(draw.choice([1, 4, 100]))
    elif how == 4:
        part = draw.choice(TOKENS) + part
    elif how == 5:
        part = draw.choice(TOKENS)
    else:
        return data[:start] if draw.random() < 0.7 else data[start:]
    return data[:start] + part + data[stop:]


def _changed_value(kind: Kind, data: bytes, draw: random.Random) -> bytes:
    """What the file holds, changed; its bytes, where it holds nothing any more."""
    try:
        if kind.beside is not None:
            return _changed_tensors(kind.beside, data, draw)
        if kind.name.endswith(".json"):
            return json.dumps(_edited(json.loads(data), draw)).encode()
        return yaml.safe_dump(_edited(yaml.safe_load(data), draw)).encode()
    except Exception:  # an earlier change has made it unreadable
        return _changed_bytes(data, draw)


def _changed_tensors(beside: str, data: bytes, draw: random.Random) -> bytes:
    metadata, tensors = parts_of(data)[0], load(data)
    how = draw.random()
    if beside and how < 0.6:
        metadata[beside] = json.dumps(_edited(json.loads(metadata[beside]), draw))
    elif how < 0.85 and tensors:
        name = draw.choice(sorted(tensors))
        tensor = tensors.pop(name)
        shape = draw.choice([(0,), (1,), (3, 5), (*tensor.shape, 1), tensor.shape[:1]])
        other = draw.choice([
            tensor.double(), tensor.half(), tensor.bfloat16(), tensor.long(), tensor > 0, tensor * math.nan,
            tensor * 1e38, -tensor, tensor + 1, tensor[:1] if tensor.ndim else tensor, tensor.flatten(),
            torch.zeros(shape), torch.full(shape, math.inf), None,
        ])  # fmt: skip
        place = draw.choice([name, name, name, "x", "history.0", "history.9", "memory.a", "last.output", "", "other"])
        tensors |= {} if other is None else {place: other.contiguous()}
    else:
        _edit(metadata, draw)
        metadata = {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    if draw.random() < 0.7:
        metadata.pop("content_hash", None)
    return save(tensors, metadata=metadata)


def _edited(data: Any, draw: random.Random) -> Any:
    """A copy with something else in one place."""
    data = copy.deepcopy(data)
    if draw.random() < 0.7:
        for each in _mappings(data):
            each.pop("content_hash", None)
    if draw.random() < 0.02 or not isinstance(data, dict | list):
        return draw.choice(WRONG)
    _edit(data, draw)
    return data


def _mappings(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict):
        yield data
    for each in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _mappings(each)


def _edit(data: dict[str, Any] | list[Any], draw: random.Random) -> None:
    """Change one value, deep inside or not."""
    inside: Any = data
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        if not keys:
            return
        key = draw.choice(keys)
        if not isinstance(inside[key], dict | list) or not inside[key] or draw.random() < 0.3:
            break
        inside = inside[key]
    how = draw.randrange(8)
    value = inside[key]
    if how == 0:
        del inside[key]
    elif how == 1 and isinstance(inside, dict):
        inside[draw.choice([f"{key}x", "", "format", "1" * 50, "plans", "x" * 300])] = inside.pop(key)
    elif how == 2 and isinstance(inside, list):
        inside.insert(draw.randrange(len(inside) + 1), value)
    elif how == 3:
        other = draw.choice(keys)
        inside[key], inside[other] = inside[other], value
    elif how == 4 and isinstance(value, int | float) and not isinstance(value, bool):
        inside[key] = draw.choice([value * 2, -value, value + 1, value * 1e30, float(value), str(value), int(value)])
    elif how == 5:
        inside[key] = [value]
    elif how == 6 and draw.random() < 0.1:
        for _ in range(draw.choice([50, 100, 500])):
            inside[key] = [inside[key]]
    else:
        inside[key] = draw.choice(WRONG)


def outcome(kind: Kind, data: bytes, folder: Path) -> Outcome:
    """Read and use a file with these bytes."""
    path = folder / f"changed{kind.name[kind.name.index('.') :]}"
    path.write_bytes(data)
    begin = time.process_time()
    try:
        kind.use(path)
        word, fault = "read", ""
    except NoiseSamplingError as error:
        word, fault = type(error).__name__, ""
        if len(str(error)) > MESSAGE:
            word, fault = "long message", f"{len(str(error))} characters: {str(error)[:200]}"
    except Exception as error:
        word, fault = "raw error", f"{type(error).__name__}: {str(error)[:300]}\n" + traceback.format_exc(limit=-4)
    seconds = time.process_time() - begin
    if seconds > SLOW and not fault:
        word, fault = "slow", f"{seconds:.1f} s, {word}"
    left = [each.name for each in folder.iterdir() if each.name.startswith(".")]
    return Outcome("left a file", ", ".join(left)) if left and not fault else Outcome(word, fault)


def run(
    numbers: range, seed: int, folder: Path, keep: Path | None = None
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Files of these numbers: how they ended, by kind, and what is wrong with which."""
    table: Counter[tuple[str, str]] = Counter()
    faults: list[str] = []
    good = kinds(folder / "good")
    work = folder / "work"
    work.mkdir(exist_ok=True)
    for kind in good:  # also imports what is imported where it is used
        for ending in (kind.data, kind.data):
            ended = outcome(kind, ending, work)
        if ended.word != "read":
            faults.append(f"{kind.name} unchanged: {ended.word}: {ended.fault}")
    for number in numbers:
        draw = random.Random(f"{seed}:{number}")
        kind = draw.choice(good)
        data = changed(kind, draw)
        signal.alarm(HANGS)
        ended = outcome(kind, data, work)
        signal.alarm(0)
        table[kind.name, ended.word] += 1
        if ended.fault:
            faults.append(f"number {number}, {kind.name}: {ended.word}: {ended.fault}")
            if keep is not None:
                (keep / f"{number}-{kind.name}").write_bytes(data)
    return table, faults


def _hangs(*_: object) -> None:
    raise TimeoutError(f"no end after {HANGS} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one file")
    parser.add_argument("--keep", type=Path, help="a folder for the files that are faults")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _hangs)
    numbers = range(given.count) if given.only is None else range(given.only, given.only + 1)
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        table, faults = run(numbers, given.seed, Path(folder), given.keep)
    words = sorted({word for _, word in table})
    print("kind".ljust(26), *(word.rjust(max(len(word), 6)) for word in words))
    for name in sorted({name for name, _ in table}):
        print(name.ljust(26), *(str(table[name, word]).rjust(max(len(word), 6)) for word in words))
    print(*faults[:100], sep="\n")
    print(f"{sum(table.values())} files, {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
