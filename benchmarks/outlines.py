"""Where fits start: what forecasts of outlines promise, and what their rehearsals give, round by round.

    python benchmarks/outlines.py [digits|unet] [--budget 8] [--scale 3] [--trajectories 64] [--test 256]

``digits``: the exact model, ``unet``: the embedded trained network. Without ``--scale`` the budget is a number of model
calls. Every rehearsal of a search is a row. Errors are root mean squares per pixel, in brackets the medians over
samples: promised by the forecast, of the rehearsal on the recorded trajectories, and of the rehearsed plan, before any
fit, on other noise. A plan of a larger gain than calibrate() allows begins no fit.
"""

from __future__ import annotations

import argparse
import math

import torch
from calibration import figure, noise_of
from common import machine
from common import table as table_of
from masked_plans import Setting, digits, unet

from noise_scheduler_sampling_system.calibration.arguments import in_turn, request_of
from noise_scheduler_sampling_system.calibration.budget import Budget, Limits
from noise_scheduler_sampling_system.calibration.goal import Goal
from noise_scheduler_sampling_system.calibration.outlines.insight import Insight
from noise_scheduler_sampling_system.calibration.student import Student
from noise_scheduler_sampling_system.calibration.trajectories import errors_of, teach

#: Those of ``calibrate``, without an end of the budget.
LIMITS = Limits(math.inf, math.inf, ("fit",), history=None, first="free", max_gain=30.0)


def rounds(setting: Setting, goal: Goal, count: int, tested: int) -> None:
    """Print the rounds of a search for outlines, in a budget that allows all of them."""
    total = count + tested
    condition = {"class_labels": torch.arange(10)} if goal.scale is not None or setting.name == "unet" else None
    request = request_of(goal.scale, False, guidance=None, device="auto", dtype=None, **setting.run)
    student = Student(setting.pipeline, setting.model, in_turn(condition, total, total), None, request)
    everything, _ = teach(student, noise_of(total, setting.shape), setting.fit["teacher_calls"])
    few, rest = everything.part(0, count), everything.part(count, total)
    budget = Budget.start(student, count * goal.budget, LIMITS)
    insight = Insight.of(student, goal, few, LIMITS.levels(setting.pipeline.scheduler), budget)
    if insight is None:
        raise SystemExit(f"no recording: {goal} have too many queries, or there are fewer than 8 trajectories")
    made: list[tuple[object, ...]] = []
    for each in insight.rehearsals(goal, budget):
        table = each.found.table
        places = ", ".join(f"{place:.2g}" for place in insight.response.recording.places[list(each.outline.at)])
        ends = student.run(table.plan(start="query"), rest.noise, rest.rows)
        made.append((
            each.round, places, ", ".join(map(str, each.outline.both)), f"{each.promised:.3g}",
            figure(each.found.errors), figure(errors_of(ends, rest.solution)),
            f"{table.gain:.2g}{'' if table.gain <= LIMITS.max_gain else ', no start'}",
        ))  # fmt: skip
        print(f"  {made[-1]}", flush=True)
    head = ("round", "log σ/α of the queries", "both branches", "promised", "rehearsed", "on other noise", "gain")
    print(f"\n{setting.name}, {goal}; {machine()}\n")
    print(table_of(head, made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("digits", "unet"), nargs="?", default="digits")
    parser.add_argument("--budget", type=int, default=8, help="evaluations, or model calls without --scale")
    parser.add_argument("--scale", type=float, help="the guidance scale that plans hold")
    parser.add_argument("--trajectories", type=int, default=64, help="recorded, at most 64")
    parser.add_argument("--test", type=int, default=256)
    given = parser.parse_args()
    setting = digits(0.15) if given.what == "digits" else unet()
    rounds(setting, Goal(given.budget, given.scale), given.trajectories, given.test)


if __name__ == "__main__":
    main()
