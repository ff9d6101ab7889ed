"""What each mechanism of calibrate()'s search is worth: the errors with it switched off, with standard errors.

    python benchmarks/calibration_ablation.py [digits] [mnist] [unet] [--rows 5:60 5:200 8:120] [--seeds 8]
        [--trajectories 256] [--variants full "one fit"]
    python benchmarks/calibration_ablation.py --quick

Every variant of the search runs on the same noise with the same budget of passes, and its plan is judged on other
noise, the same for all. A cell shows the root-mean-square error (geometric mean over seeds), its ratio to the full
search ± one standard error over the seeds (the ratios are taken seed by seed), and the median error in brackets. A row
``5:60`` is a plan of 5 calls within 60 passes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from common import machine, table
from torch import Tensor

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.calibration import contest, fit, search, starts
from noise_scheduler_sampling_system.calibration.climb import Climb
from noise_scheduler_sampling_system.calibration.contest import Contest
from noise_scheduler_sampling_system.calibration.gate import Gate
from noise_scheduler_sampling_system.calibration.limits import Limits
from noise_scheduler_sampling_system.calibration.measure import Errors, errors_of
from noise_scheduler_sampling_system.calibration.student import Student
from noise_scheduler_sampling_system.calibration.teacher import Trajectories, teach
from noise_scheduler_sampling_system.running.noise import NoiseSource, calibration_keys, resolve_keys
from noise_scheduler_sampling_system.support.errors import NoiseSamplingError

#: Of the noise that everything is judged on.
TEST_SEED = 12345
#: Of the budget, what trials may take.
TRIAL_SHARE = 0.4


@dataclass(frozen=True)
class Problem:
    """A model to calibrate for.

    Attributes:
        name: of the data.
        student: the model as the search sees it; its conditions hold the labels 0 to 9 in turn.
        shape: of a sample.
        teacher_calls: model calls of a teacher's trajectory.
        tested: how many samples plans are judged on.
    """

    name: str
    student: Student
    shape: tuple[int, ...]
    teacher_calls: int
    tested: int

    def trajectories(self, noise: Tensor) -> Trajectories:
        return teach(self.student, noise, self.teacher_calls, 1)[0]


def digits() -> Problem:
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    model = models.DigitsModel(pipeline.scheduler, bandwidth=0.15)
    return Problem("digits", Student(pipeline, model, None, None, {}), (1, 8, 8), 48, 1024)


def mnist() -> Problem:
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(beta_schedule="cosine"), "ddim")
    images, labels = models.load_mnist("test")
    kind = pipeline.config.prediction_type
    model = models.KernelDensityModel(pipeline.scheduler, images, 0.2, labels=labels, prediction_type=kind)
    condition = {"class_labels": torch.arange(10_000) % 10}
    student = Student(pipeline, model, condition, None, {"guidance_scale": 3.0})
    return Problem("MNIST density, cosine, guidance 3", student, (1, 28, 28), 48, 512)


def unet() -> Problem:
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"), "ddim")
    model = models.mnist_unet().to(memory_format=torch.channels_last)
    condition = {"class_labels": torch.arange(10_000) % 10}
    student = Student(pipeline, model, condition, None, {"guidance_scale": 2.0, "max_batch_size": 16})
    return Problem("U-Net, guidance 2", student, (1, 28, 28), 32, 64)


PROBLEMS = {"digits": digits, "mnist": mnist, "unet": unet}
ROWS = {"digits": ("5:60", "5:200", "8:120"), "mnist": ("5:60", "8:120"), "unet": ("5:40",)}
TRAJECTORIES = {"digits": 256, "mnist": 128, "unet": 32}
SEEDS = {"digits": 8, "mnist": 4, "unet": 2}


# --- variants: what is switched off ---


def patched(*changes: tuple[object, str, Any]) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    @contextlib.contextmanager
    def switched() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for owner, name, value in changes:
                stack.enter_context(mock.patch.object(owner, name, value))
            yield

    return switched


def without_climb(self: Climb, nfe: int, smaller: Any) -> list[Any]:
    return []


def best_start_only(self: Contest, below: Sequence[Any], above: list[Any]) -> Iterator[Any]:
    """One fit, from the start with the least error as it stands."""
    ranked = [*below[:1], *starts.best_starts(self.student, above, self.few, self.span, self.clock)[:1]]
    best = min(ranked, key=self._error)
    run = self._fit(best, self.taught)
    for now in run:
        yield 0, now
        if self.clock.room(1.0) < self._cost(now.table, self.taught):
            return


def not_regressed(*_: Any) -> Any:
    raise NoiseSamplingError("off", where="regression", suggestion="")


def evenly(each: Tensor, robust: Any, count: int, seed: int) -> tuple[Tensor, Tensor]:
    total = len(each)
    size = min(count, total)
    numbers = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:size].sort().values
    return numbers, torch.full((size,), 1.0 / size, dtype=torch.float64)


def trials(count: int, rounds: int) -> Any:
    """Trials of the best starts on all trajectories, then one fit to its end, then the others."""

    def of(self: Contest, below: Sequence[Any], above: list[Any]) -> Iterator[Any]:
        begun = [*below[:2], *starts.best_starts(self.student, above, self.few, self.span, self.clock)]
        begun = sorted(begun, key=self._error)[:count]
        latest: dict[int, Any] = {}
        runs = {number: self._fit(start, self.taught) for number, start in enumerate(begun)}
        cost = self._cost(begun[0], self.taught)
        for number, run in [*runs.items()] * rounds:
            if latest and self.clock.room(TRIAL_SHARE) < cost:
                break
            for now in itertools.islice(run, 1):
                latest[number] = now
                yield number, now
        for number in sorted(latest, key=lambda number: latest[number].score):
            if self.clock.room(1.0) < cost:
                return
            for now in runs[number]:
                yield number, now
                if self.clock.room(1.0) < cost:
                    return

    return of


NO_CLIMB = (Climb, "to", without_climb)
ONE_FIT = (Contest, "of", best_start_only)
VARIANTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "full": patched(),
    "no climb": patched(NO_CLIMB),
    "no contest": patched(ONE_FIT),
    "one fit": patched(NO_CLIMB, ONE_FIT),
    "trials of 4 starts": patched(NO_CLIMB, (Contest, "of", trials(4, 1))),
    "no parts": patched((contest, "_PART", 1.0), (contest, "_MOST", 1 << 20), (contest, "_AFFORDED", 0.01)),
    "one fit, no regression": patched(NO_CLIMB, ONE_FIT, (starts, "regressed", not_regressed)),
    "one fit, no design": patched(NO_CLIMB, ONE_FIT, (search, "designed", lambda *_: [])),
    "one built-in start": patched((search, "_BUILT_IN", 1)),
    "no robust loss": patched((fit, "_MEDIANS", (1e9,))),
    "one phase": patched((fit, "_MEDIANS", (300.0,))),
    "even draw": patched((fit, "informative", evenly)),
    "no gate": patched((Gate, "built_in", lambda *_: [])),
    "with refine": patched(),
}


def run(problem: Problem, rows: Sequence[tuple[int, float]], names: Sequence[str], seeds: int, count: int) -> None:
    student = problem.student
    rows_of = torch.arange(problem.tested)
    test = NoiseSource(resolve_keys(TEST_SEED, None, problem.tested), problem.shape).initial()
    test_set = problem.trajectories(test)
    found: dict[tuple[int, float], dict[str, list[Errors]]] = {row: {name: [] for name in names} for row in rows}
    spent = dict.fromkeys(names, 0.0)
    for seed in range(seeds):
        noise = NoiseSource(calibration_keys(seed, 2 * count), problem.shape).initial()
        everything = problem.trajectories(noise)
        taught, held_out = everything.part(0, count), everything.part(count, 2 * count)
        for nfe, passes in rows:
            for name in names:
                stages = ("design", "fit", "refine") if name == "with refine" else ("design", "fit")
                limits = Limits(passes, math.inf, stages, None, "free", 30.0, problem.teacher_calls)
                began = time.perf_counter()
                with VARIANTS[name]():
                    result = search.search(student, nfe, taught, held_out, limits, lambda *_: None)
                spent[name] += time.perf_counter() - began
                each = student.run(result.plan, test_set.noise, rows_of)
                errors = errors_of(each, test_set.solution)
                found[nfe, passes][name].append(errors)
                print(
                    f"  {problem.name} seed {seed} {nfe}:{passes:g} {name}: {errors.rms:.4g} ({errors.median:.3g}) "
                    f"{result.kind}, {result.passes:.0f} passes, {time.perf_counter() - began:.1f} s",
                    flush=True,
                )
    head = ["variant", *(f"{nfe} calls, {passes:g} passes" for nfe, passes in rows), "seconds"]
    body = []
    for name in names:
        cells = [name]
        for row in rows:
            ours, full = found[row][name], found[row][names[0]]
            cells.append(cell(ours, full))
        body.append([*cells, f"{spent[name]:.0f}"])
    print(f"\n{problem.name}: {count} trajectories, {seeds} seeds, {problem.tested} test samples; {machine()}\n")
    print(table(head, body), flush=True)


def cell(ours: Sequence[Errors], full: Sequence[Errors]) -> str:
    logs = [math.log(a.rms / b.rms) for a, b in zip(ours, full, strict=True)]
    ratio = math.exp(statistics.fmean(logs))
    error = ratio * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    rms, median = (math.exp(statistics.fmean(math.log(getattr(e, key)) for e in ours)) for key in ("rms", "median"))
    return f"{rms:.3g} × {ratio:.2f} ± {error:.2f} ({median:.2g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", choices=[*PROBLEMS, []], default=[])
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--trajectories", type=int)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--quick", action="store_true", help="two seeds of one small row of digits")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if arguments.quick:
        arguments = argparse.Namespace(
            data=["digits"], rows=["4:40"], seeds=2, trajectories=64, variants=arguments.variants
        )
    for name in arguments.data or PROBLEMS:
        rows = [tuple(map(float, row.split(":"))) for row in arguments.rows or ROWS[name]]
        run(
            PROBLEMS[name](), [(int(nfe), passes) for nfe, passes in rows], arguments.variants or list(VARIANTS),
            arguments.seeds or SEEDS[name], arguments.trajectories or TRAJECTORIES[name],
        )  # fmt: skip


if __name__ == "__main__":
    main()
