"""Plans with a noise level per frame: what they hold, their files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSamplingError, NoiseSchedulerConfig
from noise_scheduler_sampling_system.grids import FrameGrid
from noise_scheduler_sampling_system.plans import FramePlan
from noise_scheduler_sampling_system.support import FileError, NumericsError

PIPELINE = DiffusionPipeline(NoiseSchedulerConfig(), "heun")
GRID = FrameGrid.pyramid(PIPELINE.grid(3), 3, context=1)
PLAN = PIPELINE.plan(grid=GRID)


def test_a_row_says_what_each_frame_does() -> None:
    assert (len(PLAN), PLAN.steps, PLAN.nfe, PLAN.frames, PLAN.context) == (7, 4, 7, 3, (0,))
    assert PLAN.row_of.T.tolist() == [[-1] * 7, [0, 1, 2, 3, 4, -1, -1], [-1, -1, 0, 1, 2, 3, 4]]
    assert PLAN.step.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert PLAN.plan_of_frame(0) is None
    assert PLAN.plan_of_frame(2) == PIPELINE.plan(3)
    # row 4: frame 1 makes the last step of one call, while frame 2 makes the first of its two
    assert PLAN.time[4].tolist() == [0.0, PLAN.plans[0].time[4], PLAN.plans[0].time[2]]
    assert [PLAN.finished(row) for row in (0, 4, 5, 7)] == [(), (), (1,), (1, 2)]
    assert PLAN.level(4).sigma == PLAN.sigma[4].max()
    assert (PLAN.alpha[-1] == 1.0).all()
    assert (PLAN.sigma[-1] == 0.0).all()


def test_a_step_calls_the_model_as_often_as_the_frame_with_the_most_calls() -> None:
    """EDM's first row adds noise without a call; it stands alone, so that the frames share their calls."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "edm")
    plan = pipeline.plan(grid=FrameGrid.pyramid(pipeline.grid(4), 3))
    assert plan.nfe == 2 * 6 - 1
    for row, asked in enumerate(plan.asked):
        own = [plan.plans[0].asked[r] for r in plan.row_of[row] if r >= 0]
        assert set(own) == {asked}


def test_it_is_a_value(tmp_path: Any) -> None:
    PLAN.save(tmp_path / "plan.json")
    for copy in (FramePlan.load(tmp_path / "plan.json"), pickle.loads(pickle.dumps(PLAN)), dataclasses.replace(PLAN)):
        assert copy == PLAN
        assert hash(copy) == hash(PLAN)
        assert copy.content_hash == PLAN.content_hash
    other = PIPELINE.plan(grid=FrameGrid.pyramid(PIPELINE.grid(3), 3, context=1, context_time=5.0))
    assert other != PLAN
    assert other.content_hash != PLAN.content_hash
    assert "3 frames in dimension 1, context: 0; 4 steps, 7 model calls" in str(PLAN)
    with pytest.raises(ValueError, match="read-only"):
        PLAN.time[0] = 0.0
    with pytest.raises(FileError, match=r"use \.json"):
        PLAN.save(tmp_path / "plan.txt")
    assert "..." in PLAN.table(4)
    many = FrameGrid.pyramid(PIPELINE.grid(3), 21, context=1)
    for text in (str(many), str(PIPELINE.plan(grid=many))):
        assert max(map(len, text.splitlines()[1:])) <= 80
        assert text.splitlines()[1].split()[-6:] == ["f3", "...", "f17", "f18", "f19", "f20"]


def _set(name: str, place: Any, value: float) -> Callable[[], dict[str, Any]]:
    def changed() -> dict[str, Any]:
        array = getattr(PLAN, name).copy()
        array[place] = value
        return {name: array}

    return changed


BROKEN: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "no plans": (lambda: {"plans": ()}, "plans"),
    "another dimension": (lambda: {"frame_dim": 0}, "frame_dim"),
    "text": (lambda: {"time": "soon"}, "'time'"),
    "ragged": (lambda: {"row_of": [[0], [1, 2]]}, "'row_of'"),
    "too short": (lambda: {"alpha": PLAN.alpha[:-1]}, "'alpha': has shape"),
    "NaN": (_set("time", (0, 0), np.nan), "'time': got"),
    "a fraction": (lambda: {"step": PLAN.step + 0.5}, "'step': got"),
    "a plan that is not there": (_set("plan_of", 1, 3), "'plan_of': runs from"),
    "a row twice": (_set("row_of", (1, 1), 0), "frame 1 executes rows"),
    "a row left out": (lambda: {"row_of": np.where(PLAN.row_of == 4, -1, PLAN.row_of)}, "no frame moves in row 6"),
    "context that moves": (_set("row_of", (0, 0), 0), "frame 0 executes rows"),
    "another level": (_set("sigma", (2, 2), 0.5), "frame 2 has 0.5 in row 2"),
    "context that changes": (_set("alpha", (2, 0), 0.5), "frame 0 has 0.5 in row 2"),
    "another time": (_set("time", (0, 1), 5.0), "frame 1 has 5 in row 0"),
    "steps that fall": (_set("step", 3, 0), "'step': does not rise"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_plan_that_contradicts_itself_is_refused(name: str) -> None:
    change, message = BROKEN[name]
    with pytest.raises(NumericsError, match=message):
        dataclasses.replace(PLAN, **change())


@pytest.mark.parametrize("change", ["hash", "number", "field", "format", "plans", "list", "own"])
def test_a_file_that_was_changed_is_refused(tmp_path: Any, change: str) -> None:
    data = json.loads(json.dumps(PLAN.to_dict()))
    file = tmp_path / "plan.json"
    if change == "hash":
        data["content_hash"] = "0" * 64
    elif change == "number":
        data["time"][0][0] = 7.0
    elif change == "field":
        data["colour"] = 1
    elif change == "format":
        data["format"] = "frame plan 99"
    elif change == "plans":
        data["plans"] = 3
    elif change == "own":
        data["plans"][0]["a"][0] = 0.5
    file.write_text(json.dumps([1] if change == "list" else data))
    with pytest.raises(FileError):
        FramePlan.load(file)


def test_times_outside_the_path_are_refused_before_a_run() -> None:
    time = PLAN.time.copy()
    time[:, 0] = 5000.0
    with pytest.raises(NoiseSamplingError, match="the model is told times from"):
        PIPELINE.sample(lambda x, t: x, (1, 3, 2), plan=dataclasses.replace(PLAN, time=time))
