"""Faults of bulk generation, provoked: what is lost, doubled or wrong afterwards.

Each fault happens to a set of samples on its way to the disk. The same call is then made again, and the set is compared
with one that was made without faults: "lost" counts samples that are neither there nor recorded as failed, "doubled"
those that are there twice, "wrong" those with other numbers, to the last bit.

    python benchmarks/faults.py            # about ten minutes; needs Linux, and the extra ray
    python benchmarks/faults.py --no-ray
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noise_scheduler_sampling_system import DiffusionPipeline
from noise_scheduler_sampling_system.bulk import generate_dataset, verify_dataset
from noise_scheduler_sampling_system.support import FileError
from noise_scheduler_sampling_system.support.text_tables import text_table

COUNT, SHAPE, STEPS, BATCH, SHARD = 240, (1, 8, 8), 4, 4, 12
CHANCE = random.Random(0)


class Steady:
    """A network of ε that takes a millisecond and depends on each sample alone."""

    fingerprint = "steady"

    def __call__(self, x, t, class_labels):
        time.sleep(0.001)
        return 0.9 * x + class_labels.reshape(-1, 1, 1, 1) / 100.0


class Faulty(Steady):
    """The same, which raises, hangs or returns NaN at calls that it draws; a file counts them over processes."""

    fingerprint = "steady"

    def __init__(self, folder: Path, what: str, chance: float, most: int) -> None:
        self._folder, self._what, self._chance, self._most = folder, what, chance, most
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, x, t, class_labels):
        output = super().__call__(x, t, class_labels)
        if self._what == "nan":  # the sample decides, so that a second run finds the same
            bad = torch.tensor([hash(float(value)) % 97 == 0 for value in x.flatten(1)[:, 0]])
            return torch.where(bad.reshape(-1, 1, 1, 1), float("nan"), output)
        if self._what == "pid":
            (self._folder / str(os.getpid())).touch()
            time.sleep(0.02)
            return output
        if random.random() < self._chance and len(list(self._folder.iterdir())) < self._most:
            (self._folder / f"{time.monotonic_ns()}").touch()
            if self._what == "raise":
                raise RuntimeError("a fault of the device")
            time.sleep(60.0)
        return output


def labels(indices):
    return {"class_labels": indices % 10}


def make(folder: Path, model: Any = None, **more: Any) -> Any:
    # tar files, because pyarrow's threads do not survive the forks below
    asked = {
        "seed": 11, "shape": SHAPE, "batch_size": BATCH, "shard_size": SHARD, "num_inference_steps": STEPS,
        "guidance_scale": 1.0, "condition": labels, "format": "webdataset", **more,
    }  # fmt: skip
    return generate_dataset(DiffusionPipeline(None, "ancestral"), model or Steady(), COUNT, folder, **asked)


def content(folder: Path) -> Iterator[tuple[int, bytes]]:
    for shard in (folder / "shards").iterdir():
        with tarfile.open(shard) as tar:
            for entry in tar:
                if entry.name.endswith(".npy"):
                    array = np.load(io.BytesIO(tar.extractfile(entry).read()))
                    yield int(entry.name.removesuffix(".npy")), array.tobytes()


def judged(folder: Path, good: dict[int, bytes]) -> tuple[int, int, int]:
    """(lost, doubled, wrong)."""
    found = list(content(folder))
    failed = {i for first, last, _ in verify_dataset(folder).failed for i in range(first, last + 1)}
    there = {index for index, _ in found}
    lost = len(set(good) - there - failed) + len(failed & there)
    return lost, len(found) - len(there), sum(good.get(index) != data for index, data in found)


def forked(work: Callable[[], None]) -> int:
    """A process that does the work and ends with 0, or with 1 if it raised."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return child


def ended(child: int) -> int:
    return os.waitpid(child, 0)[1]


def killed_driver(folder: Path, takes: float) -> int:
    """Kill runs until the set is complete."""
    killed = 0
    while not (folder / "dataset.json").exists() or not verify_dataset(folder).complete:
        child = forked(lambda: make(folder))
        time.sleep(CHANCE.uniform(0.0, 0.25 * takes))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(ended(child))
    return killed


def full_disk(folder: Path, takes: float) -> int:
    import resource

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (CHANCE.randrange(500, 9_000), resource.RLIM_INFINITY))
        try:
            make(folder)
        except FileError:
            os._exit(7)

    for _ in range(3):
        assert os.waitstatus_to_exitcode(ended(forked(work))) in (0, 7)
    make(folder)
    return 3


def full_tmpfs(folder: Path, takes: float) -> int:
    """A disk of 64 KiB; space is freed by a larger one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        return 0
    try:
        stopped = 0
        for size in ("96k", "128k", "8m"):
            try:
                make(folder)
            except FileError as error:
                stopped += "No space" in str(error)
            subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
        make(folder)
        keep = folder.with_name("kept")
        subprocess.run(["cp", "-r", str(folder), str(keep)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()
    keep.rename(folder)
    return stopped


def harmed(how: str) -> Callable[[Path, float], int]:
    def fault(folder: Path, takes: float) -> int:
        make(folder)
        shards = sorted((folder / "shards").iterdir())
        for shard in CHANCE.sample(shards, 5):
            data = bytearray(shard.read_bytes())
            if how == "corrupt":
                data[CHANCE.randrange(len(data))] ^= 1 << CHANCE.randrange(8)
                shard.write_bytes(data)
            elif how == "truncated":
                shard.write_bytes(data[: CHANCE.randrange(len(data))])
            elif how == "missing":
                shard.unlink()
            else:
                lines = bytearray((folder / "journal").read_bytes())
                lines[CHANCE.randrange(len(lines))] ^= 1 << CHANCE.randrange(7)
                (folder / "journal").write_bytes(lines)
        assert not verify_dataset(folder).complete, "the damage is not found"
        make(folder)
        assert verify_dataset(folder).complete
        return 5

    return fault


def faulty(what: str, chance: float, most: int, **more: Any) -> Callable[[Path, float], int]:
    def fault(folder: Path, takes: float) -> int:
        model = Faulty(folder.with_name(f"{folder.name}-faults"), what, chance, most)
        report = make(folder, model, retries=most, **more)
        return report.num_failed if what == "nan" else report.retried

    return fault


def clock_jump(folder: Path, takes: float) -> int:
    real = time.time

    def work() -> None:
        time.time = lambda: real() + random.choice((-1.0, 1.0)) * random.uniform(0.0, 1e8)
        make(folder, timeout=30.0)

    assert ended(forked(work)) == 0
    return 1


def two_writers(folder: Path, takes: float) -> int:
    child, refused = forked(lambda: make(folder)), 0
    while not (folder / "dataset.json").exists():
        time.sleep(0.002)
    for _ in range(5):
        time.sleep(0.1 * takes)
        try:
            make(folder)
        except FileError:
            refused += 1
    ended(child)
    make(folder)
    return refused


def killed_workers(folder: Path, takes: float) -> int:
    """Kill a worker of Ray every few seconds, as long as the run goes on."""
    model = Faulty(folder.with_name("pids"), "pid", 0.0, 0)
    over, killed = threading.Event(), []

    def hunt() -> None:
        while not over.wait(CHANCE.uniform(0.05, 2.0)):
            for entry in model._folder.iterdir():
                entry.unlink()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGKILL)
                    killed.append(entry.name)
                    break
            if len(killed) >= 8:
                return

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        make(folder, model, engine="ray", workers=2, retries=100, timeout=120.0)
    finally:
        over.set()
        hunter.join()
    return len(killed)


def killed_ray_driver(folder: Path, takes: float) -> int:
    """Kill the process that drives Ray; its workers end with it."""
    code = f"import faults; from pathlib import Path; faults.make(Path({str(folder)!r}), engine='ray', workers=2)"
    killed = 0
    for _ in range(2):
        run = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        while run.poll() is None and len(list(folder.glob("shards/shard-*"))) < 4 * (killed + 1):
            time.sleep(0.01)
        if run.poll() is None:
            run.kill()
            run.wait()
            killed += 1
    make(folder)
    return killed


#: name ↦ (what happens to a folder, how often it is repeated, whether it needs Ray)
FAULTS: dict[str, tuple[Callable[[Path, float], int], int, bool]] = {
    "SIGKILL of the driver": (killed_driver, 8, False),
    "SIGKILL of workers (Ray)": (killed_workers, 1, True),
    "SIGKILL of the driver of Ray": (killed_ray_driver, 1, True),
    "limit on the size of files": (full_disk, 4, False),
    "full disk (tmpfs)": (full_tmpfs, 2, False),
    "corrupt shard": (harmed("corrupt"), 3, False),
    "truncated shard": (harmed("truncated"), 3, False),
    "missing shard": (harmed("missing"), 3, False),
    "corrupt journal": (harmed("journal"), 3, False),
    "worker that raises": (faulty("raise", 0.1, 8), 3, False),
    "worker that hangs": (faulty("hang", 0.05, 4, timeout=0.5), 2, False),
    "worker that returns NaN": (faulty("nan", 0.0, 0), 2, False),
    "jumps of the clock": (clock_jump, 5, False),
    "two writers": (two_writers, 3, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--only", help="a part of a fault's name")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = [("fault", "times tried", "lost", "doubled", "wrong")]
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        began = time.monotonic()
        make(root / "good")
        takes = time.monotonic() - began
        good = dict(content(root / "good"))
        for name, (fault, times, needs_ray) in FAULTS.items():
            if (needs_ray and chosen.no_ray) or (chosen.only and chosen.only not in name):
                continue
            tried, sums = 0, [0, 0, 0]
            for k in range(times):
                folder = root / f"{name.replace(' ', '-')}-{k}"
                tried += fault(folder, takes)
                sums = [a + b for a, b in zip(sums, judged(folder, good), strict=True)]
            rows.append((name, str(tried), *map(str, sums)))
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(text_table(rows))


if __name__ == "__main__":
    import faults  # so that its models have the same name in every process

    faults.main()
