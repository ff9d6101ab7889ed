"""The noise levels of every frame of a sample, step by step: one grid for each frame, on one clock."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ..schedules.path import CLEAN, Level, NoisePath
from ..support.argument_checks import checked_count, checked_number
from ..support.drawn import Drawn
from ..support.errors import ConfigurationError, shown
from ..support.text_tables import few, text_table
from .time_grid import TimeGrid, refuse_other_grid

__all__ = ["FrameGrid"]

#: The most levels of a grid that a rule makes; a table of more would take minutes to write.
_MOST_LEVELS = 5_000_000


@final
@dataclass(frozen=True, repr=False)
class FrameGrid(Drawn):
    """N + 1 rows of noise levels, one level for each of T frames (or tokens); N steps lead from row to row.

    In a step a frame moves from its level to the next one, or keeps its level and is left untouched. A clean frame
    that never moves is context: its content is given, and the model sees it. (A frame that stays at noise only waits.)
    The rows are the scheduling matrix of diffusion forcing (Chen et al. 2024, arXiv 2407.01392, §3.3).

    Attributes:
        levels: row by row, the level of each frame. In each frame σ/α falls strictly where it changes (or rises, in
            an inverse run).
        frame_dim: the dimension of a batch of samples that counts frames: 1 for (B, T, ...), 2 for (B, C, T, H, W).
        context_time: the time that the model is told for frames that are clean. ``None``: the path's smallest,
            :attr:`NoisePath.t_clean`.

    Raises:
        ConfigurationError: rows of different length, fewer than two, a step in which no frame moves, or a frame whose
            levels are not monotone.
    """

    levels: tuple[tuple[Level, ...], ...]
    frame_dim: int = 1
    context_time: float | None = None

    def __post_init__(self) -> None:
        rows = _rows(self.levels)
        object.__setattr__(self, "levels", rows)
        object.__setattr__(self, "frame_dim", checked_count(self.frame_dim, "frame_dim", 64))
        if self.context_time is not None:
            object.__setattr__(self, "context_time", checked_number(self.context_time, "context_time"))
        if len(rows) < 2 or not rows[0] or len({len(row) for row in rows}) != 1:
            raise ConfigurationError(
                f"has rows of {sorted({len(row) for row in rows})} levels",
                where="FrameGrid.levels",
                suggestion="give two rows or more, each with one level for every frame",
            )
        still = [i for i, moves in enumerate(self.moving) if not any(moves)]
        if still:
            raise ConfigurationError(
                f"no frame moves in step {still[0]}",
                where="FrameGrid.levels",
                why="a step without a change does nothing",
                suggestion="leave the row out",
            )
        for frame in range(self.frames):
            self._refuse_disorder(frame)

    @classmethod
    def full_sequence(
        cls, grid: TimeGrid, frames: int, *, context: int | Sequence[int] = (), frame_dim: int = 1,
        context_time: float | None = None,
    ) -> FrameGrid:  # fmt: skip
        """All frames at the same level, as in an ordinary run; with context, as in image-to-video.

        Args:
            grid: the levels of each frame.
            frames: T, with the context.
            context: the number of first frames that are given, or their indices; they stay at the clean level.
            frame_dim, context_time: as for the class.

        Raises:
            ConfigurationError: a value out of range, or no frame to generate.
        """
        return cls.pyramid(grid, frames, 0.0, context=context, frame_dim=frame_dim, context_time=context_time)

    @classmethod
    def pyramid(
        cls, grid: TimeGrid, frames: int, delay: float = 1.0, *, context: int | Sequence[int] = (), frame_dim: int = 1,
        context_time: float | None = None,
    ) -> FrameGrid:  # fmt: skip
        """Every frame follows the grid, and begins ⌊f·delay⌋ steps after the first: later frames are noisier.

        ``delay`` is the uncertainty scale of diffusion forcing (arXiv 2407.01392, appendix). 0 is the full sequence,
        and ``grid.steps`` is frame by frame.

        Args:
            delay: steps from one frame to the next, ≥ 0.
            grid, frames, context, frame_dim, context_time: as for :meth:`full_sequence`.

        Raises:
            ConfigurationError: a value out of range, or no frame to generate.
        """
        refuse_other_grid(grid)
        given, made = _split(frames, context)
        delay = checked_number(delay, "delay", 0.0, 1e6)
        begins = {frame: int(place * delay) for place, frame in enumerate(made)}
        return cls._staggered(grid, begins, given, frame_dim, context_time)

    @classmethod
    def autoregressive(
        cls, grid: TimeGrid, frames: int, *, chunk: int = 1, context: int | Sequence[int] = (), frame_dim: int = 1,
        context_time: float | None = None,
    ) -> FrameGrid:  # fmt: skip
        """Frame after frame (or chunk after chunk): each begins when the one before it is finished.

        Args:
            chunk: the number of frames that move together.
            grid, frames, context, frame_dim, context_time: as for :meth:`full_sequence`.

        Raises:
            ConfigurationError: a value out of range, or no frame to generate.
        """
        refuse_other_grid(grid)
        given, made = _split(frames, context)
        size = checked_count(chunk, "chunk")
        begins = {frame: place // size * grid.steps for place, frame in enumerate(made)}
        return cls._staggered(grid, begins, given, frame_dim, context_time)

    @classmethod
    def _staggered(
        cls, grid: TimeGrid, begins: dict[int, int], given: Sequence[int], frame_dim: int, context_time: float | None
    ) -> FrameGrid:
        """Frames that follow one grid, each from its own step on; a step in which none would move is left out."""
        steps = sorted({begin + i for begin in set(begins.values()) for i in range(grid.steps + 1)})
        count = len(begins) + len(given)
        if len(steps) * count > _MOST_LEVELS:
            raise ConfigurationError(
                f"{count} frames in {len(steps) - 1} steps have {len(steps) * count:,} levels",
                where="frames",
                suggestion=f"give fewer frames or steps, at most {_MOST_LEVELS:,} levels; a longer video is made "
                "window by window",
            )
        rows = [
            tuple(
                CLEAN if frame in given else grid.levels[min(max(step - begins[frame], 0), grid.steps)]
                for frame in range(count)
            )
            for step in steps
        ]
        return cls(tuple(row for i, row in enumerate(rows) if not i or row != rows[i - 1]), frame_dim, context_time)

    @classmethod
    def from_indices(
        cls, grid: TimeGrid, indices: npt.ArrayLike, *, frame_dim: int = 1, context_time: float | None = None
    ) -> FrameGrid:
        """Any order of the levels of one grid.

        Args:
            grid: the levels.
            indices: the index of each frame's level in each row, shape (N + 1, T). ``grid.steps`` is the last level,
                usually the clean sample; a frame that stays there is context.
            frame_dim, context_time: as for the class.

        Raises:
            ConfigurationError: not whole numbers from 0 to ``grid.steps``, or no frame grid.
        """
        refuse_other_grid(grid)
        table = _table(indices, "indices")
        if table.size and not ((table % 1 == 0).all() and table.min() >= 0 and table.max() <= grid.steps):
            raise ConfigurationError(
                f"got {shown(indices)}", where="indices", suggestion=f"give whole numbers from 0 to {grid.steps}"
            )
        return cls(tuple(tuple(grid.levels[int(i)] for i in row) for row in table), frame_dim, context_time)

    @classmethod
    def from_times(
        cls, path: NoisePath, times: npt.ArrayLike, *, frame_dim: int = 1, context_time: float | None = None
    ) -> FrameGrid:
        """Any times of every frame.

        Args:
            path: the noise schedule that has their levels.
            times: shape (N + 1, T); NaN is the clean sample.
            frame_dim, context_time: as for the class.

        Raises:
            ConfigurationError: times outside the path, or no frame grid.
        """
        if not isinstance(path, NoisePath):
            raise ConfigurationError(
                f"got {shown(path)}", where="path", suggestion="give a noise schedule, e.g. pipeline.scheduler"
            )
        table = _table(times, "times")
        known = np.unique(table[~np.isnan(table)]).tolist()
        level = dict(zip(known, path.levels(known), strict=True)) if known else {}
        rows = tuple(tuple(CLEAN if math.isnan(t) else level[t] for t in row) for row in table.tolist())
        return cls(rows, frame_dim, context_time)

    def _refuse_disorder(self, frame: int) -> None:
        try:
            own = self.grid_of(frame)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"frame {frame}: {error.what}", where="FrameGrid.levels", why=error.why, suggestion=error.suggestion
            ) from None
        if own is not None and CLEAN in own.levels[:-1]:
            raise ConfigurationError(
                f"frame {frame} begins at the clean sample",
                where="FrameGrid.levels",
                why="the clean sample has no time that the model could be told",
                suggestion="begin at the path's smallest time",
            )

    @property
    def steps(self) -> int:
        """N, the number of steps."""
        return len(self.levels) - 1

    @property
    def frames(self) -> int:
        """T, the number of frames."""
        return len(self.levels[0])

    @functools.cached_property
    def moving(self) -> tuple[tuple[bool, ...], ...]:
        """For each step, whether each frame moves in it."""
        return tuple(
            tuple(a != b for a, b in zip(now, after, strict=True))
            for now, after in zip(self.levels, self.levels[1:], strict=False)
        )

    @property
    def context(self) -> tuple[int, ...]:
        """The frames that never move and hold more signal than noise; their content is given."""
        still = (f for f in range(self.frames) if not any(moves[f] for moves in self.moving))
        return tuple(f for f in still if self.levels[0][f].alpha > self.levels[0][f].sigma)

    def grid_of(self, frame: int) -> TimeGrid | None:
        """The levels that one frame visits; None for a frame that never moves."""
        visited = [self.levels[0][frame]]
        visited += [row[frame] for row, moves in zip(self.levels[1:], self.moving, strict=True) if moves[frame]]
        return TimeGrid(tuple(visited)) if len(visited) > 1 else None

    def __str__(self) -> str:
        """The times of every frame (of many, the first and last), one line a row; "-" is the clean sample."""
        context = f", context: {', '.join(map(str, self.context))}" if self.context else ""
        head = f"FrameGrid: {self.steps} steps, {self.frames} frames in dimension {self.frame_dim}{context}"
        shown_frames = few(self.frames)

        def cell(level: Level) -> str:
            return "-" if math.isnan(level.t) else f"{round(level.t, 3):g}"

        lines = [["row", *("..." if f is None else f"f{f}" for f in shown_frames)]]
        for i, row in enumerate(self.levels):
            lines.append([str(i), *("" if f is None else cell(row[f]) for f in shown_frames)])
        return f"{head}\n{text_table(lines)}"

    def __repr__(self) -> str:
        return f"FrameGrid(steps={self.steps}, frames={self.frames}, frame_dim={self.frame_dim})"


def _rows(levels: Any) -> tuple[tuple[Level, ...], ...]:
    """Levels row by row, each with a time or clean.

    Raises:
        ConfigurationError: something else.
    """
    rows = [list(row) if isinstance(row, Sequence) else [row] for row in levels] if isinstance(levels, Sequence) else []
    for level in [level for row in rows for level in row] or [levels]:
        valid = isinstance(level, Level) and all(isinstance(number, int | float) for number in level)
        valid = valid and all(map(math.isfinite, level[1:])) and min(level[1:]) >= 0.0 < max(level[1:])
        if not valid or not (math.isfinite(level.t) or Level.of(*level) is CLEAN):
            raise ConfigurationError(
                f"got {shown(level)}",
                where="FrameGrid.levels",
                suggestion="give rows of levels, which path.level(t) makes; CLEAN is the one without a time",
            )
    return tuple(tuple(Level.of(*level) for level in row) for row in rows)


def _split(frames: int, context: Any) -> tuple[list[int], list[int]]:
    """The frames that are given and those that are generated."""
    count = checked_count(frames, "frames")
    whole = isinstance(context, int | np.integer) and not isinstance(context, bool)
    if whole:
        given = list(range(int(context))) if 0 <= context < count else [-1]
    else:
        given = list(context) if isinstance(context, Sequence) else [-1]
    valid = all(isinstance(f, int | np.integer) and not isinstance(f, bool) and 0 <= f < count for f in given)
    if not valid or len(set(given)) != len(given) or len(given) == count:
        raise ConfigurationError(
            f"got {shown(context)} for {count} frames",
            where="context",
            suggestion="give the number of first frames that are known, or their indices; at least one frame must be "
            "left to generate",
        )
    return given, [frame for frame in range(count) if frame not in given]


def _table(values: Any, where: str) -> npt.NDArray[np.float64]:
    """Numbers of shape (N + 1, T)."""
    try:
        table = np.array(values.tolist() if hasattr(values, "tolist") else values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        table = np.empty(0)
    if table.ndim != 2:
        raise ConfigurationError(
            f"got {shown(values)}", where=where, suggestion="give numbers of shape (N + 1, T): a row for every level"
        )
    return table
