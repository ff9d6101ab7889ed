"""Which noise levels a run visits: an immutable list of levels, and the named ways to make one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import SPACINGS
from .errors import ConfigurationError
from .schedules.base import BaseNoiseScheduler
from .schedules.path import CLEAN, Level, NoisePath

__all__ = ["TimeGrid", "checked_steps", "checked_times", "make_grid", "refuse_clean_start"]

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TimeGrid:
    """N + 1 noise levels, from the start of a run to its end; N intervals between them.

    The model is asked at the first N levels (and, by some samplers, in between). The last
    level is where the run ends: usually the clean sample, α = 1 and σ = 0, which has no time.

    Attributes:
        levels: the noise levels; σ/α falls strictly (or rises strictly: the inverse run).

    Raises:
        ConfigurationError: fewer than two levels, or levels that are not strictly monotone.
    """

    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        if len(self.levels) < 2:
            raise ConfigurationError(
                "a grid needs at least one interval", where="timesteps", suggestion="give more times"
            )
        with np.errstate(divide="ignore", invalid="ignore"):  # no noise is −inf, no signal +inf
            noise = np.log([v.sigma for v in self.levels]) - np.log([v.alpha for v in self.levels])
            steps = np.diff(noise)
        if not ((steps < 0).all() or (steps > 0).all()):
            falls = not steps[0] > 0
            i = int(np.flatnonzero(~(steps < 0) if falls else ~(steps > 0))[0])
            raise ConfigurationError(
                f"levels {i} and {i + 1} (t = {self.levels[i].t:g} and {self.levels[i + 1].t:g}) are not in order",
                where="timesteps",
                why="every interval must lower the noise (or every one raise it); an empty one does nothing",
                suggestion="give strictly decreasing times without duplicates",
            )

    @classmethod
    def from_times(cls, path: NoisePath, times: Sequence[float] | Times, *, end: Level | None = CLEAN) -> TimeGrid:
        """A grid through exactly these times.

        Args:
            path: the noise schedule that knows their levels.
            times: the times at which the model is asked, in the order of the run.
            end: the level where the run ends; ``None`` makes the last time the end, at which
                the model is then not asked.
        """
        levels = path.levels(times)
        return cls(tuple(levels if end is None else [*levels, end]))

    @property
    def steps(self) -> int:
        """N, the number of intervals."""
        return len(self.levels) - 1

    @property
    def times(self) -> tuple[float, ...]:
        """The times of the first N levels."""
        return tuple(level.t for level in self.levels[:-1])

    def intervals(self) -> Iterator[tuple[int, Level, Level]]:
        """(index, current level, next level) of each step."""
        for i in range(self.steps):
            yield i, self.levels[i], self.levels[i + 1]


def checked_steps(steps: Any) -> int:
    """A number of steps.

    Raises:
        ConfigurationError: not a whole number ≥ 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ConfigurationError(f"got {steps!r}", where="num_inference_steps", suggestion="give a whole number ≥ 1")
    return int(steps)


def checked_times(times: Any) -> tuple[float, ...]:
    """A user's timesteps, as they are.

    Raises:
        ConfigurationError: not a sequence of numbers, or an empty one.
    """
    try:
        array = np.asarray(times.tolist() if hasattr(times, "tolist") else times, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 1 or array.size == 0:
        raise ConfigurationError(
            f"got {times!r}",
            where="timesteps",
            suggestion="give one or more numbers, from the noisiest to the cleanest",
        )
    return tuple(array.tolist())


def make_grid(scheduler: BaseNoiseScheduler, num_inference_steps: int) -> TimeGrid:
    """The grid that the scheduler's config asks for, ending at the clean sample.

    Raises:
        ConfigurationError: a number of steps that the spacing cannot give.
    """
    steps, total = checked_steps(num_inference_steps), scheduler.num_train_timesteps
    if steps > total:
        raise ConfigurationError(
            f"{steps} steps through {total} training timesteps",
            where="num_inference_steps",
            why="the model knows no more noise levels than that",
            suggestion=f"ask for at most {total}",
        )
    spacing = scheduler.config.timestep_spacing
    function: Callable[[BaseNoiseScheduler, int], Times] = SPACINGS.get(spacing, "timestep_spacing")
    grid = TimeGrid.from_times(scheduler, function(scheduler, steps))
    refuse_clean_start(*grid.levels[0])
    return grid


def refuse_clean_start(t: float, alpha: float, sigma: float) -> None:
    """Raise unless a run may start from pure noise at this level."""
    if alpha > sigma:
        raise ConfigurationError(
            f"the first timestep is {t:g}, where signal outweighs noise (α = {alpha:.3g}, σ = {sigma:.3g})",
            where="timestep_spacing",
            why="a run from pure noise would hand the model an x that never occurs at that time",
            suggestion="use timestep_spacing='trailing' or more steps, or start from a noised initial_sample",
        )


@SPACINGS.register("leading")
def leading(scheduler: BaseNoiseScheduler, steps: int) -> Times:
    """i·⌊T/N⌋ + steps_offset (Lin et al. 2023, arXiv 2305.08891, Table 2): never visits the noisiest levels.

    Raises:
        ConfigurationError: the offset pushes the first time past T − 1.
    """
    total, offset = scheduler.num_train_timesteps, scheduler.config.steps_offset
    times = np.arange(steps)[::-1] * (total // steps) + offset
    if times[0] > total - 1:
        raise ConfigurationError(
            f"steps_offset={offset} moves the first of {steps} timesteps to {times[0]}, past the last one, {total - 1}",
            where="steps_offset",
            suggestion=f"use steps_offset ≤ {offset - (int(times[0]) - total + 1)} or fewer steps",
        )
    return times.astype(np.float64)


@SPACINGS.register("trailing")
def trailing(scheduler: BaseNoiseScheduler, steps: int) -> Times:
    """round(T·(N − i)/N) − 1 (Lin et al. 2023, Table 2): starts at the noisiest level."""
    total = scheduler.num_train_timesteps
    times: Times = np.round(np.arange(steps, 0, -1) * (total / steps)) - 1
    return times


@SPACINGS.register("linspace")
def linspace(scheduler: BaseNoiseScheduler, steps: int) -> Times:
    """N real-valued times evenly from T − 1 to 0 (for N = 1, T − 1 alone)."""
    return np.linspace(scheduler.num_train_timesteps - 1, 0, steps)
