"""What could follow plans of scalars: what each idea adds to the fit of a plan with guidance, at equal passes.

    python benchmarks/beyond_scalars.py [digits|unet] [--scale 3] [--rows 8:60:256] [--seeds 3] [--variants ...]

Variants of the search of ``calibrate(evaluations=...)``, on the same noise and with the same passes:

- "both branches": E/2 calls, each with both branches.
- "masks": more levels, the unconditional branch in some of them.
- "masks, free queries": the rows before the last one need not reproduce constants. A query at another scale of the
  state, or one that is told another time than that of its state, is such a row, so this covers both.

A corrector in a row before the last one is a combination of x_T and the predictions up to the newest one. Rows of full
history are all such combinations, so plans hold every linear corrector already.

The last line is an oracle: for each test sample the best of the plans with masks, of both variants and all seeds. It
bounds what a choice of a plan for each sample could gain.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import calibration_ablation as ablation
import torch
from calibration_ablation import Problem, Row, patched, row_of

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig, models
from noise_scheduler_sampling_system.analysis.solution import each_error
from noise_scheduler_sampling_system.calibration.goal import Goal
from noise_scheduler_sampling_system.calibration.search import search
from noise_scheduler_sampling_system.calibration.student import Student
from noise_scheduler_sampling_system.calibration.table import Frame, Table
from noise_scheduler_sampling_system.calibration.trajectories import Errors
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=ROWS, default="digits")
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--rows", nargs="+", type=row_of, help="evaluations:passes or evaluations:passes:trajectories")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    problem, rows = problem_of(given.data, given.scale), given.rows or ROWS[given.data]
    plans: dict[int, list[Any]] = {}

    def recorded(student: Student, goal: Goal, *rest: Any) -> Any:
        found = original(student, goal, *rest)
        if found.plan.evaluations < 2 * found.plan.nfe:
            plans.setdefault(goal.budget, []).append(found.plan)
        return found

    original = search.search
    search.search = recorded
    ablation.VARIANTS = VARIANTS
    ablation.run(problem, rows, given.variants, given.seeds)
    test = problem.trajectories(
        NoiseSource(resolve_keys(ablation.TEST_SEED, None, problem.tested), problem.shape).initial()
    )
    for budget, made in plans.items():
        each = [each_error(problem.student.run(plan, test.noise, test.rows), test.solution) for plan in made]
        best = Errors.of(torch.stack(each).amin(0))
        print(
            f"{budget} evaluations, the best of {len(made)} plans for each sample: {best.rms:.3g} ({best.median:.2g})"
        )


if __name__ == "__main__":
    main()
