"""Grids with a level for each frame."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from noise_scheduler_sampling_system import ConfigurationError, FlowPath, TimeGrid
from noise_scheduler_sampling_system.grids import FrameGrid
from noise_scheduler_sampling_system.schedules import CLEAN, Level

PATH = FlowPath()
GRID = TimeGrid.from_times(PATH, [900.0, 600.0, 300.0])


def indices(grid: FrameGrid) -> list[list[int]]:
    return [[GRID.levels.index(level) for level in row] for row in grid.levels]


def test_a_pyramid_is_the_matrix_of_diffusion_forcing() -> None:
    for frames, scale in ((4, 1.0), (3, 0.5), (5, 1.7), (3, 3.0)):
        steps = GRID.steps
        height = steps + int((frames - 1) * scale) + 1
        matrix = [[steps + int(f * scale) - m for f in range(frames)] for m in range(height)]  # as published
        assert indices(FrameGrid.pyramid(GRID, frames, scale)) == (steps - np.clip(matrix, 0, steps)).tolist()


def test_the_ends_of_a_pyramid() -> None:
    assert FrameGrid.pyramid(GRID, 3, 0) == FrameGrid.full_sequence(GRID, 3)
    assert FrameGrid.pyramid(GRID, 3, GRID.steps) == FrameGrid.autoregressive(GRID, 3)
    assert FrameGrid.pyramid(GRID, 2, 10) == FrameGrid.autoregressive(GRID, 2)  # no step in which nothing moves
    assert indices(FrameGrid.autoregressive(GRID, 3, chunk=2))[4] == [3, 3, 1]


def test_context_never_moves_and_the_others_close_ranks() -> None:
    grid = FrameGrid.pyramid(GRID, 4, context=[0, 2])
    assert grid.context == (0, 2)
    assert indices(grid) == [[3, 0, 3, 0], [3, 1, 3, 0], [3, 2, 3, 1], [3, 3, 3, 2], [3, 3, 3, 3]]
    assert FrameGrid.pyramid(GRID, 4, context=2).context == (0, 1)
    assert grid.grid_of(0) is None
    assert grid.grid_of(1) == GRID
    waiting = FrameGrid.from_indices(GRID, [[0, 0, 3], [1, 0, 3]])
    assert waiting.context == (2,)  # a frame that stays at noise needs no content


def test_levels_by_index_and_by_time() -> None:
    by_index = FrameGrid.from_indices(GRID, [[0, 0], [1, 0], [1, 1], [3, 3]], frame_dim=2)
    nan = math.nan
    assert by_index == FrameGrid.from_times(PATH, [[900, 900], [600, 900], [600, 600], [nan, nan]], frame_dim=2)
    assert by_index.moving == ((True, False), (False, True), (True, True))
    assert by_index.grid_of(1).times == (900.0, 600.0)
    assert pickle.loads(pickle.dumps(by_index)) == by_index
    assert len({by_index, pickle.loads(pickle.dumps(by_index))}) == 1
    assert FrameGrid([[GRID.levels[0]], [Level(nan, 1.0, 0.0)]]).levels[1][0] is CLEAN
    assert str(by_index).splitlines()[0] == "FrameGrid: 3 steps, 2 frames in dimension 2"
    assert str(by_index).splitlines()[-1].split() == ["3", "-", "-"]


REFUSED: dict[str, tuple[Any, str]] = {
    "one row": (lambda: FrameGrid.from_indices(GRID, [[0, 1]]), "levels"),
    "rows of unequal length": (lambda: FrameGrid.from_indices(GRID, [[0, 1], [1]]), "indices"),
    "a number in place of rows": (lambda: FrameGrid(3), "levels: got 3"),
    "numbers in place of levels": (lambda: FrameGrid([[1.0], [0.5]]), "levels: got 1.0"),
    "a level that is not finite": (lambda: FrameGrid([[Level(1.0, math.nan, 1.0)], [CLEAN]]), "levels: got"),
    "a level without a time": (lambda: FrameGrid([[Level(math.nan, 0.5, 0.5)], [CLEAN]]), "levels: got"),
    "a frame that begins clean": (lambda: FrameGrid([[CLEAN], [GRID.levels[0]]]), "begins at the clean sample"),
    "indices without a grid": (lambda: FrameGrid.from_indices(3, [[0], [1]]), "TimeGrid"),
    "times without a path": (lambda: FrameGrid.from_times(3, [[1.0]]), "path: got 3"),
    "more levels than a machine holds": (lambda: FrameGrid.autoregressive(GRID, 100_000), "frames: 100000 frames"),
    "context without end": (lambda: FrameGrid.full_sequence(GRID, 3, context=2**70), "context"),
    "no frame": (lambda: FrameGrid(((), ())), "levels"),
    "a step without a move": (lambda: FrameGrid.from_indices(GRID, [[0], [0], [1]]), "no frame moves in step 0"),
    "noise that falls and rises": (lambda: FrameGrid.from_indices(GRID, [[0], [2], [1]]), "frame 0"),
    "an index beyond the grid": (lambda: FrameGrid.from_indices(GRID, [[0], [9]]), "from 0 to 3"),
    "a broken index": (lambda: FrameGrid.from_indices(GRID, [[0], [0.5]]), "from 0 to 3"),
    "text": (lambda: FrameGrid.from_times(PATH, "soon"), "times"),
    "a time outside the path": (lambda: FrameGrid.from_times(PATH, [[2000.0], [1.0]]), "outside"),
    "not a grid": (lambda: FrameGrid.pyramid(3, 4), "TimeGrid"),
    "no frames": (lambda: FrameGrid.pyramid(GRID, 0), "frames"),
    "a negative delay": (lambda: FrameGrid.pyramid(GRID, 3, -1), "delay"),
    "an infinite delay": (lambda: FrameGrid.pyramid(GRID, 3, math.inf), "delay"),
    "all frames known": (lambda: FrameGrid.full_sequence(GRID, 3, context=3), "context"),
    "context beyond the frames": (lambda: FrameGrid.full_sequence(GRID, 3, context=[3]), "context"),
    "context twice": (lambda: FrameGrid.full_sequence(GRID, 3, context=[1, 1]), "context"),
    "negative context": (lambda: FrameGrid.full_sequence(GRID, 3, context=-1), "context"),
    "an empty chunk": (lambda: FrameGrid.autoregressive(GRID, 3, chunk=0), "chunk"),
    "the dimension of the batch": (lambda: FrameGrid.pyramid(GRID, 3, frame_dim=0), "frame_dim"),
    "a context time of text": (lambda: FrameGrid.pyramid(GRID, 3, context_time="early"), "context_time"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_grid_of_frames_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ConfigurationError, match=message):
        make()
