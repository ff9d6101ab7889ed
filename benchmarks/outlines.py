"""Where fits start: what forecasts of outlines promise, and what their rehearsals give, round by round.

    python benchmarks/outlines.py [digits|unet] [--budget 8] [--scale 3] [--trajectories 64] [--test 256]

``digits``: the exact model, ``unet``: the embedded trained network. Without ``--scale`` the budget is a number of model
calls. Errors are root mean squares per pixel, in brackets the medians over samples: promised by the forecast, of the
rehearsal on the recorded trajectories, and of the rehearsed plan, before any fit, on other noise.
"""

from __future__ import annotations

import argparse
import time

import torch
from calibration import figure, noise_of
from common import machine, table
from masked_plans import Setting, digits, unet

from noise_scheduler_sampling_system.calibration import LevelRange
from noise_scheduler_sampling_system.calibration.arguments import in_turn, request_of
from noise_scheduler_sampling_system.calibration.goal import Goal
from noise_scheduler_sampling_system.calibration.outlines.forecast import Forecast, Outline
from noise_scheduler_sampling_system.calibration.outlines.insight import EACH, ROUNDS
from noise_scheduler_sampling_system.calibration.outlines.recording import Recording
from noise_scheduler_sampling_system.calibration.outlines.rehearsal import rehearse
from noise_scheduler_sampling_system.calibration.outlines.response import Response
from noise_scheduler_sampling_system.calibration.student import Student
from noise_scheduler_sampling_system.calibration.trajectories import errors_of, teach


def rounds(setting: Setting, goal: Goal, count: int, tested: int) -> None:
    """Print the rounds of a search for outlines."""
    total = count + tested
    condition = {"class_labels": torch.arange(10)} if goal.scale is not None or setting.name == "unet" else None
    request = request_of(goal.scale, False, guidance=None, device="auto", dtype=None, **setting.run)
    student = Student(setting.pipeline, setting.model, in_turn(condition, total, total), None, request)
    everything, _ = teach(student, noise_of(total, setting.shape), setting.fit["teacher_calls"])
    few = everything.part(0, count)
    rest = everything.part(count, total)
    span = LevelRange(setting.pipeline.scheduler)
    began = time.perf_counter()
    response = Response(Recording.of(student, goal, few, span))
    print(f"  recorded in {time.perf_counter() - began:.1f} s", flush=True)
    made: list[tuple[object, ...]] = []
    tried: set[Outline] = set()
    for number in range(ROUNDS):
        began = time.perf_counter()
        found = Forecast(response.recording, response).outlines(goal.levels, goal.budget)
        forecast_seconds = time.perf_counter() - began
        for outline in [each for each in found if each not in tried][:EACH]:
            began = time.perf_counter()
            given = rehearse(student, response.recording, outline, few, span, scale=goal.scale, history=None)
            seconds = time.perf_counter() - began
            tried.add(outline)
            response = response.with_measured(given.predictions, given.differences)
            places = ", ".join(f"{place:.2g}" for place in response.recording.places[list(outline.at)])
            ends = student.run(given.table.plan(start="query"), rest.noise, rest.rows)
            made.append((
                number + 1, places, ", ".join(map(str, outline.both)), f"{found[outline]:.3g}", figure(given.errors),
                figure(errors_of(ends, rest.solution)), f"{forecast_seconds:.1f}", f"{seconds:.1f}",
            ))  # fmt: skip
            print(f"  {made[-1]}", flush=True)
    head = ("round", "log σ/α of the queries", "both branches", "promised", "rehearsed", "other noise", "forecast, s",
            "rehearsal, s")  # fmt: skip
    print(f"\n{setting.name}, {goal}; {machine()}\n")
    print(table(head, made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("digits", "unet"), nargs="?", default="digits")
    parser.add_argument("--budget", type=int, default=8, help="evaluations, or model calls without --scale")
    parser.add_argument("--scale", type=float, help="the guidance scale that plans hold")
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--test", type=int, default=256)
    given = parser.parse_args()
    setting = digits(0.15) if given.what == "digits" else unet()
    rounds(setting, Goal(given.budget, given.scale), given.trajectories, given.test)


if __name__ == "__main__":
    main()
