"""What could follow plans of scalars: what each idea adds to the fit of a plan with guidance, at equal passes.

    python benchmarks/beyond_scalars.py [digits|unet] [--scale 3] [--rows 8:60:256] [--seeds 3] [--variants ...]
                                        [--correctors]

Variants of the search of ``calibrate(evaluations=...)``, on the same noise and with the same passes:

- "both branches": E/2 calls, each with both branches.
- "masks": more levels, the unconditional branch in some of them.
- "masks, free queries": the rows before the last one need not reproduce constants. A query at another scale of the
  state, or one that is told another time than that of its state, is such a row, so this covers both.

A corrector in a row before the last one is a combination of x_T and the predictions up to the newest one. Rows of full
history are all such combinations, so plans hold every linear corrector already.

A line at the end is an oracle: for each test sample the best of the plans with masks, of both variants and all seeds.
It bounds what a choice of a plan for each sample could gain.

``--correctors`` adds small networks after the last row of every plan with masks. They see all columns of the run, at
each pixel or in windows of 3×3, and learn from the trajectories of the fit what the sample still misses; the held-out
trajectories choose when they stop. Their errors are on the test samples, in ratio to those of the same plan.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import calibration_ablation as ablation
import torch
from calibration import spread
from calibration_ablation import Problem, Row, patched, row_of
from torch import Tensor, nn

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.analysis.solution import each_error
from noise_scheduler_sampling_system.calibration.goal import Goal
from noise_scheduler_sampling_system.calibration.search import search
from noise_scheduler_sampling_system.calibration.student import Student, end_of
from noise_scheduler_sampling_system.calibration.table import Frame, Table
from noise_scheduler_sampling_system.calibration.trajectories import Errors, Trajectories
from noise_scheduler_sampling_system.plans.plan import SamplingPlan
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

ROWS: dict[str, tuple[Row, ...]] = {"digits": ((8, 60, 256), (12, 60, 256)), "unet": ((8, 24, 192),)}
_frame = Table.frame


def free_before_the_last(self: Table, i: int, *, consistent: bool = True, rows: Any = None) -> Frame:
    """The frame of row i, in which only the last row must reproduce constants."""
    return _frame(self, i, consistent=consistent and i == self.nfe, rows=rows)


VARIANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "both branches": patched((Goal, "levels", ())),
    "masks": patched(),
    "masks, free queries": patched((Table, "frame", free_before_the_last)),
}


def problem_of(name: str, scale: float) -> Problem:
    """The exact model of digits, or the embedded network, with class labels and guidance."""
    condition = {"class_labels": torch.arange(100_000) % 10}
    if name == "digits":
        pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
        model, shape, calls, tested = models.DigitsModel(pipeline.scheduler, bandwidth=0.15), (1, 8, 8), 48, 1024
    else:
        pipeline = DiffusionPipeline(NoiseSchedulerConfig(prediction_type="v_prediction"), "ddim")
        model, shape, calls, tested = models.mnist_unet(), (1, 28, 28), 40, 128
    student = Student(pipeline, model, condition, None, {"guidance_scale": scale, "max_batch_size": 512}, branches=2)
    return Problem(f"{name}, guidance {scale:g}", student, shape, calls, tested, scale)


class Made(NamedTuple):
    """A plan with masks, its table, and the trajectories of its search."""

    plan: SamplingPlan
    table: Table | None
    taught: Trajectories
    held_out: Trajectories


#: Of a corrector: hidden channels, steps of Adam, trajectories in each, steps between two looks at the held-out ones.
HIDDEN, STEPS, BATCH, EVERY = 32, 2000, 32, 50


def corrected(student: Student, made: Made, test: Trajectories, window: int) -> Tensor:
    """The errors of the test samples after a corrector that was trained on the trajectories of the fit."""
    assert made.table is not None
    sets = []
    for part in (made.taught, made.held_out, test):
        columns = student.columns(made.table, part.noise, part.rows)
        sets.append((torch.cat(columns, dim=1), end_of(made.table, columns), part.solution))
    (seen, ends, exact), held, last = sets
    missing = float((exact - ends).square().mean().sqrt())
    torch.manual_seed(0)
    hidden = nn.Conv2d(seen.shape[1], HIDDEN, window, padding=window // 2)
    corrector = nn.Sequential(hidden, nn.Tanh(), nn.Conv2d(HIDDEN, ends.shape[1], 1))
    nn.init.zeros_(corrector[2].weight)
    nn.init.zeros_(corrector[2].bias)
    adam = torch.optim.Adam(corrector.parameters(), 3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
    best = (float("inf"), each_error(last[1], last[2]))
    for step in range(STEPS):
        if step % EVERY == 0:
            with torch.no_grad():
                now = float((held[1] + missing * corrector(held[0]) - held[2]).square().mean())
                if now < best[0]:
                    best = (now, each_error(last[1] + missing * corrector(last[0]), last[2]))
        chosen = torch.randperm(len(seen))[:BATCH]
        adam.zero_grad()
        (corrector(seen[chosen]) - (exact - ends)[chosen] / missing).square().mean().backward()
        adam.step()
        decay.step()
    return best[1]


def report_correctors(student: Student, budget: int, plans: Sequence[Made], test: Trajectories) -> None:
    """Print what correctors gain, as means over plans with standard errors."""
    for name, window in (("at each pixel", 1), ("in windows of 3×3", 3)):
        ratios = []
        for made in plans:
            before = Errors.of(each_error(student.run(made.plan, test.noise, test.rows), test.solution))
            after = Errors.of(corrected(student, made, test, window))
            ratios.append((after.rms / before.rms, after.median / before.median))
        rms, median = (spread(values) for values in zip(*ratios, strict=True))
        count = statistics.fmean(1 + len(made.table.levels) + len(made.table.both) for made in plans if made.table)
        print(f"{budget} evaluations, a corrector {name} of {count:g} columns: {rms} of the error ({median})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=ROWS, default="digits")
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--rows", nargs="+", type=row_of, help="evaluations:passes or evaluations:passes:trajectories")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--correctors", action="store_true", help="train small networks after the last row")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    problem, rows = problem_of(given.data, given.scale), given.rows or ROWS[given.data]
    plans: dict[int, list[Made]] = {}

    def recorded(student: Student, goal: Goal, taught: Trajectories, held_out: Trajectories, *rest: Any) -> Any:
        found = original(student, goal, taught, held_out, *rest)
        if found.plan.evaluations < 2 * found.plan.nfe:
            plans.setdefault(goal.budget, []).append(Made(found.plan, found.table, taught, held_out))
        return found

    original = search.search
    search.search = recorded
    ablation.VARIANTS = VARIANTS
    ablation.run(problem, rows, given.variants, given.seeds)
    test = problem.trajectories(
        NoiseSource(resolve_keys(ablation.TEST_SEED, None, problem.tested), problem.shape).initial()
    )
    for budget, made in plans.items():
        ends = [problem.student.run(each.plan, test.noise, test.rows) for each in made]
        each = [each_error(end, test.solution) for end in ends]
        best = Errors.of(torch.stack(each).amin(0))
        print(
            f"{budget} evaluations, the best of {len(made)} plans for each sample: {best.rms:.3g} ({best.median:.2g})"
        )
        fitted = [each for each in made if each.table is not None]  # others are built-in samplers
        if given.correctors and fitted:
            report_correctors(problem.student, budget, fitted, test)


if __name__ == "__main__":
    main()
