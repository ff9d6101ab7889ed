"""Which noise levels a run visits: an immutable list of levels. spacings.py has the named ways to choose them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import SPACINGS
from .errors import ConfigurationError
from .registry import did_you_mean
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

    @classmethod
    def from_sigmas(cls, path: NoisePath, sigmas: Sequence[float] | Times, *, end: Level | None = CLEAN) -> TimeGrid:
        """A grid through exactly these σ, as the field counts them on this path: σ/α, or σ on the straight path.

        Args:
            path: the noise schedule.
            sigmas: in the order of the run; a 0 at the end is the clean sample, which ``end`` stands for.
            end: as for :meth:`from_times`.
        """
        values = checked_times(sigmas, "sigmas")
        if end is CLEAN and values[-1] == 0.0:
            values = values[:-1]
        levels = [path.level_of_sigma(sigma) for sigma in values]
        return cls(tuple(levels if end is None else [*levels, end]))

    def split(self, at: int) -> tuple[TimeGrid, TimeGrid]:
        """The first ``at`` intervals and the rest, for two models; both hold the level in between.

        Raises:
            ConfigurationError: one part would be empty.
        """
        if not 0 < at < self.steps:
            raise ConfigurationError(
                f"got {at!r} for {self.steps} intervals",
                where="at",
                suggestion=f"give a whole number from 1 to {self.steps - 1}",
            )
        return TimeGrid(self.levels[: at + 1]), TimeGrid(self.levels[at:])

    def reversed(self) -> TimeGrid:
        """The way back, from the cleanest level that the model knows to the noisiest: for inversion."""
        asked = [level for level in self.levels if level is not CLEAN]
        return TimeGrid(tuple(asked[::-1]))

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


def checked_times(times: Any, where: str = "timesteps") -> tuple[float, ...]:
    """A user's timesteps (or sigmas), as they are.

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
            where=where,
            suggestion="give one or more numbers, from the noisiest to the cleanest",
        )
    return tuple(array.tolist())


def make_grid(path: NoisePath, num_inference_steps: int, *, start: float | None = None) -> TimeGrid:
    """The grid that the config asks for.

    Args:
        path: the noise schedule, with the config that names the spacing.
        num_inference_steps: N, the number of intervals.
        start: the time of the first level, for image-to-image; default: where the spacing
            begins from pure noise. There are N intervals in either case.

    Raises:
        ConfigurationError: a number of steps or an option that the spacing cannot do.
    """
    steps, config = checked_steps(num_inference_steps), path.config
    shorter = path if start is None else path.up_to(start)
    spacing = SPACINGS.get(config.timestep_spacing, "timestep_spacing")
    options = _checked_options(spacing, config.timestep_spacing, config.spacing_options)
    discard, end = options.pop("discard_penultimate"), options.pop("end")
    chosen = spacing(shorter, steps + (1 if discard or end == "lowest" else 0), **options)
    levels = [v if isinstance(v, Level) else path.level(float(v)) for v in chosen]
    if start is not None:
        levels[0] = path.level(start)
    if discard:
        del levels[-1]
    grid = TimeGrid(tuple(levels if end == "lowest" else [*levels, CLEAN]))
    if start is None:
        refuse_clean_start(*grid.levels[0])
    return grid


#: What every spacing takes, and the values allowed.
_COMMON: dict[str, tuple[Any, ...]] = {"discard_penultimate": (False, True), "end": ("clean", "lowest")}


def _checked_options(spacing: Callable[..., Any], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options for a spacing, with the common ones' defaults."""
    own = list(inspect.signature(spacing).parameters)[2:]
    for option, value in given.items():
        if option not in own and option not in _COMMON:
            raise ConfigurationError(
                f"the {name!r} spacing has no option {option!r}",
                where=f"spacing_options.{option}",
                suggestion=did_you_mean(option, [*own, *_COMMON]),
            )
        if option in _COMMON and value not in _COMMON[option]:
            raise ConfigurationError(
                f"got {value!r}", where=f"spacing_options.{option}", suggestion=f"give one of {_COMMON[option]}"
            )
    return {**{option: values[0] for option, values in _COMMON.items()}, **given}


def refuse_clean_start(t: float, alpha: float, sigma: float) -> None:
    """Raise unless a run may start from pure noise at this level."""
    if alpha > sigma:
        raise ConfigurationError(
            f"the first timestep is {t:g}, where signal outweighs noise (α = {alpha:.3g}, σ = {sigma:.3g})",
            where="timestep_spacing",
            why="a run from pure noise would hand the model an x that never occurs at that time",
            suggestion="use timestep_spacing='trailing' or more steps, or start from a noised initial_sample",
        )
