"""Compile a sampler on a grid of frames: the plan of each frame, aligned on one clock."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import final

import numpy as np

from ..grids.frame_grid import FrameGrid
from ..grids.time_grid import TimeGrid
from ..plans.frame_plan import FramePlan
from ..plans.plan import SamplingPlan
from ..schedules.path import Level
from ..support.errors import ConfigurationError
from .adaptive import AdaptiveSampler
from .base import BaseSampler

__all__ = ["plan_frames"]


def plan_frames(sampler: BaseSampler, grid: FrameGrid) -> FramePlan:
    """The plan of a sampler for frames with levels of their own.

    Each frame follows the sampler's ordinary plan on its own levels. In a step of the grid, the frames that move
    execute the rows of their step side by side, so the step makes as many model calls as the frame with the most.

    Args:
        sampler: any that writes plans.
        grid: the levels of each frame.

    Raises:
        ConfigurationError: the sampler writes no plans, or a frame's grid is not valid for it.
        NumericsError: a coefficient is not finite on a frame's grid.
    """
    if not sampler.writes_plans or isinstance(sampler, AdaptiveSampler):
        raise ConfigurationError(
            f"{type(sampler).__name__} writes no plan, which a grid of frames needs",
            where="grid",
            suggestion="use a sampler with write(), e.g. 'ddim' or 'dpmpp_2m'",
        )
    time = sampler.scheduler.t_clean if grid.context_time is None else grid.context_time
    sampler.scheduler.log_snr(time)  # raises for a time outside the path
    plans: dict[TimeGrid, SamplingPlan] = {}
    frames = []
    for frame in range(grid.frames):
        own = grid.grid_of(frame)
        if own is not None and own not in plans:
            plans[own] = sampler.plan(grid=own)
        moves = [moving[frame] for moving in grid.moving]
        frames.append(_Frame(own, None if own is None else plans[own], grid.levels[0][frame], tuple(moves), time))
    distinct = list(plans.values())
    if any(plan.two_times for plan in distinct):
        raise ConfigurationError(
            f"the sampler {distinct[0].sampler!r} asks at two times, and frames have one time each",
            where="grid",
            why="a network of two times is asked for one step of a whole sample",
            suggestion="give a TimeGrid, or a sampler for networks of one time",
        )
    rows, step = _aligned(frames, grid.steps)
    plan_of = [-1 if f.plan is None else next(i for i, p in enumerate(distinct) if p is f.plan) for f in frames]
    row_of = np.array(rows)
    done = np.concatenate([np.zeros((1, grid.frames), dtype=int), np.cumsum(row_of >= 0, axis=0)])
    lockstep = len(distinct) == 1 and bool((row_of == np.arange(len(row_of))[:, None]).all())
    return FramePlan(
        plans=tuple(distinct),
        plan_of=np.array(plan_of),
        row_of=row_of,
        step=distinct[0].step if lockstep else np.array(step),
        time=np.array([[frame.time(int(n)) for frame, n in zip(frames, row, strict=True)] for row in done[:-1]]),
        alpha=np.array([[frame.factors(int(n))[0] for frame, n in zip(frames, row, strict=True)] for row in done]),
        sigma=np.array([[frame.factors(int(n))[1] for frame, n in zip(frames, row, strict=True)] for row in done]),
        frame_dim=grid.frame_dim,
    )


@final
@dataclass(frozen=True)
class _Frame:
    """One frame of a grid.

    Attributes:
        grid: the levels that it visits; None for context.
        plan: on these.
        first: its first level.
        moves: for each step of the frames' grid, whether it moves.
        clean_time: the time that the model is told for clean frames.
    """

    grid: TimeGrid | None
    plan: SamplingPlan | None
    first: Level
    moves: tuple[bool, ...]
    clean_time: float

    def time(self, done: int) -> float:
        """The time that the model is told after this number of own rows."""
        if self.plan is not None and self.grid is not None:
            if done == len(self.plan):
                return self._told(self.grid.levels[-1])
            following = next((i for i in range(done, len(self.plan)) if self.plan.asked[i]), done)
            return float(self.plan.time[following])
        return self._told(self.first)

    def _told(self, level: Level) -> float:
        return self.clean_time if np.isnan(level.t) else level.t

    def factors(self, done: int) -> tuple[float, float]:
        """α and σ after this number of own rows."""
        if self.plan is None:
            return self.first.alpha, self.first.sigma
        return float(self.plan.alpha[done]), float(self.plan.sigma[done])

    def groups(self, step: int) -> list[list[int]]:
        """The own rows that it executes in a step of the frames' grid, grouped by the steps of its plan."""
        if self.plan is None or not self.moves[step]:
            return []
        interval = sum(self.moves[:step])
        return [rows for rows, place in self._groups if place == interval]

    @functools.cached_property
    def _groups(self) -> list[tuple[list[int], int]]:
        """The rows of each step of its plan, and the interval of its grid in which they are executed."""
        if self.plan is None or self.grid is None:
            return []
        steps = self.plan.step.tolist()
        groups = [([i for i, s in enumerate(steps) if s == step], step) for step in sorted(set(steps))]
        if max(steps) < self.grid.steps:
            return groups
        # a sampler that visits more steps than the grid has (restart) works in the interval that it has reached
        ratios = [level.noise_to_signal for level in self.grid.levels[1:-1]]
        reached, placed = 0, []
        for rows, _ in groups:
            here = float(self.plan.sigma[rows[0]] / max(self.plan.alpha[rows[0]], 1e-300)) * (1 - 1e-9)
            reached = max(reached, sum(ratio >= here for ratio in ratios))
            placed.append((rows, reached))
        return placed


def _aligned(frames: list[_Frame], steps: int) -> tuple[list[list[int]], list[int]]:
    """The own row of each frame in each row, −1 where it does not move; and the step of each row."""
    rows: list[list[int]] = []
    numbers: list[int] = []
    number = 0
    for step in range(steps):
        groups = [frame.groups(step) for frame in frames]
        for place in range(max(map(len, groups))):
            waiting = [list(group[place]) if place < len(group) else [] for group in groups]
            while any(waiting):
                # rows without a model call first, and apart: so the others share their calls
                asks = [
                    bool(own) and bool(f.plan and f.plan.asked[own[0]]) for f, own in zip(frames, waiting, strict=True)
                ]
                silent = any(own and not a for own, a in zip(waiting, asks, strict=True))
                rows.append([own.pop(0) if own and a != silent else -1 for own, a in zip(waiting, asks, strict=True)])
                numbers.append(number)
            number += 1
    return rows, numbers
