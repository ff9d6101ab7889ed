"""What each mechanism of calibrate()'s search is worth: the errors with it switched off, with standard errors.

    python benchmarks/calibration_ablation.py [digits] [mnist] [unet]
        [--rows 5:60 8:120 5:300:512] [--seeds 4] [--variants full "no outlines"]
    python benchmarks/calibration_ablation.py --quick

A row ``5:300:512`` stands for a plan of 5 calls, fitted within 300 passes to 512 trajectories; the default is 256
trajectories. Every variant of the search runs on the same noise with the same passes, and its plan is judged on other
noise, the same for all. A cell shows the root-mean-square error (geometric mean over seeds), its ratio to the first
variant ± one standard error over seeds (the ratios are taken seed by seed), and in brackets the median error.
"""

from __future__ import annotations

import argparse
import contextlib
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
from noise_scheduler_sampling_system.calibration.budget import Limits
from noise_scheduler_sampling_system.calibration.fit import fit
from noise_scheduler_sampling_system.calibration.goal import Goal
from noise_scheduler_sampling_system.calibration.outlines.insight import Insight
from noise_scheduler_sampling_system.calibration.search import fits, search
from noise_scheduler_sampling_system.calibration.search.gate import Gate
from noise_scheduler_sampling_system.calibration.student import Student
from noise_scheduler_sampling_system.calibration.trajectories import Errors, Trajectories, errors_of, teach
from noise_scheduler_sampling_system.running.noise import NoiseSource, calibration_keys, resolve_keys
from noise_scheduler_sampling_system.support.errors import NoiseSamplingError

#: Of the noise that everything is judged on.
TEST_SEED = 12345


@dataclass(frozen=True)
class Problem:
    """A model to calibrate for.

    Attributes:
        name: of the data.
        student: the model as the search sees it; its conditions hold the labels 0 to 9 in turn.
        shape: of a sample.
        teacher_calls: model calls of a teacher's trajectory.
        tested: how many samples plans are judged on.
        scale: the guidance that plans hold; their budgets are then evaluations. None: budgets are model calls.
    """

    name: str
    student: Student
    shape: tuple[int, ...]
    teacher_calls: int
    tested: int
    scale: float | None = None

    def trajectories(self, noise: Tensor) -> Trajectories:
        return teach(self.student, noise, self.teacher_calls)[0]


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
#: Calls, passes and trajectories.
Row = tuple[int, float, int]
ROWS: dict[str, tuple[Row, ...]] = {
    "digits": ((5, 60, 256), (5, 200, 256), (8, 120, 256), (5, 300, 512)),
    "mnist": ((5, 60, 256), (8, 120, 256)),
    "unet": ((5, 60, 64),),
}
SEEDS = {"digits": 4, "mnist": 2, "unet": 2}
QUICK: tuple[Row, ...] = ((4, 40, 64),)


# --- variants: what is switched off, or added ---


def patched(*changes: tuple[object, str, Any]) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return a context in which some names have other values."""

    @contextlib.contextmanager
    def switched() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for owner, name, value in changes:
                stack.enter_context(mock.patch.object(owner, name, value))
            yield

    return switched


FITS = search.fits


def only_the_best(student: Any, starts: Sequence[Any], *rest: Any) -> Iterator[Any]:
    return FITS(student, starts[:1], *rest)


def with_trials(
    student: Any, starts: Sequence[Any], taught: Trajectories, span: Any, budget: Any, resume: Any
) -> Iterator[Any]:
    """Fit each of the best four starts for an iteration, within 40 % of the budget, then the best one to its end."""
    begun = {}
    for number, start in enumerate(starts[:4]):
        if budget.left() - 0.6 * budget.limits.passes < fit.cost_of_iteration(start, span, taught) and begun:
            break
        sizes = fits._Sizes.of(budget, 1.0, start, span, taught)
        run = fit.fit(student, start, span, taught, max_gain=budget.limits.max_gain, counts=sizes.after)
        with contextlib.suppress(NoiseSamplingError):  # the start overflows
            begun[number] = (next(run), run)
            yield number, begun[number][0]
    for number, (_, run) in sorted(begun.items(), key=lambda item: item[1][0].score):
        for now in run:
            yield number, now
            if budget.left() < fit.cost_of_iteration(now.table, span, taught):
                return


def evenly(each: Tensor, robust: Any, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw trajectories for a Jacobian with equal probabilities."""
    total = len(each)
    size = min(count, total)
    numbers = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:size].sort().values
    return numbers, torch.full((size,), 1.0 / size, dtype=torch.float64)


VARIANTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "full": patched(),
    "no outlines": patched((Insight, "of", lambda *_: None)),
    "no design": patched((search, "designed", lambda *_: [])),
    "no built-in starts": patched((search, "_BUILT_IN", 0)),
    "one start": patched((search, "fits", only_the_best)),
    "trials of 4 starts": patched((search, "fits", with_trials)),
    "no robust loss": patched((fit, "_MEDIANS", (1e9,))),
    "one phase": patched((fit, "_MEDIANS", (300.0,))),
    "even draw": patched((fit, "informative", evenly)),
    "all trajectories": patched((fits, "_ENOUGH", 0)),
    "larger draws": patched((fit, "_NUMBERS", 1 << 13)),
    "no gate": patched((Gate, "built_in", lambda *_: [])),
}


def run(problem: Problem, rows: Sequence[Row], names: Sequence[str], seeds: int) -> None:
    """Run the variants on one problem, and print a table."""
    student, most = problem.student, max(count for _, _, count in rows)
    test = problem.trajectories(NoiseSource(resolve_keys(TEST_SEED, None, problem.tested), problem.shape).initial())
    errors: dict[tuple[Row, str], list[Errors]] = {(row, name): [] for row in rows for name in names}
    seconds = dict.fromkeys(names, 0.0)
    for seed in range(seeds):
        both = problem.trajectories(NoiseSource(calibration_keys(seed, 2 * most), problem.shape).initial())
        for row in rows:
            nfe, passes, count = row
            limits = Limits(passes, math.inf, ("design", "fit"), None, "free", 30.0)
            for name in names:
                began = time.perf_counter()
                with VARIANTS[name]():
                    taught, held_out = both.part(0, count), both.part(most, most + count)
                    found = search.search(student, Goal(nfe, problem.scale), taught, held_out, limits, lambda *_: None)
                spent = time.perf_counter() - began
                seconds[name] += spent
                now = errors_of(student.run(found.plan, test.noise, test.rows), test.solution)
                errors[row, name].append(now)
                print(
                    f"  {problem.name}, seed {seed}, {titled(row)}, {name}: {now.rms:.4g} ({now.median:.3g}), "
                    f"{found.kind}, {found.passes:.0f} passes, {spent:.1f} s",
                    flush=True,
                )
    head = ["variant", *map(titled, rows), "seconds"]
    body = [
        [name, *(cell(errors[row, name], errors[row, names[0]]) for row in rows), f"{seconds[name]:.0f}"]
        for name in names
    ]
    print(f"\n{problem.name}: {seeds} seeds, {problem.tested} test samples; {machine()}\n")
    print(table(head, body), flush=True)


def titled(row: Row) -> str:
    return f"{row[0]} calls, {row[1]:g} passes, {row[2]} trajectories"


def cell(ours: Sequence[Errors], first: Sequence[Errors]) -> str:
    """Return the error of a variant, its ratio to the first one, and its median."""
    logs = [math.log(a.rms / b.rms) for a, b in zip(ours, first, strict=True)]
    ratio = math.exp(statistics.fmean(logs))
    deviation = ratio * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    rms, median = (math.exp(statistics.fmean(math.log(each[k]) for each in ours)) for k in (0, 1))
    return f"{rms:.3g} × {ratio:.2f} ± {deviation:.2f} ({median:.2g})"


def row_of(text: str) -> Row:
    nfe, passes, *count = text.split(":")
    return int(nfe), float(passes), int(count[0]) if count else 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", default=[], help=f"of {', '.join(PROBLEMS)}; default all")
    parser.add_argument("--rows", nargs="+", type=row_of, help="calls:passes or calls:passes:trajectories")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--quick", action="store_true", help="two seeds of one small row of digits")
    given = parser.parse_args()
    if set(given.data) - set(PROBLEMS):
        parser.error(f"data: give some of {', '.join(PROBLEMS)}")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in ["digits"] if given.quick else given.data or PROBLEMS:
        rows = given.rows or (QUICK if given.quick else ROWS[name])
        run(PROBLEMS[name](), rows, given.variants, given.seeds or (2 if given.quick else SEEDS[name]))


if __name__ == "__main__":
    main()
