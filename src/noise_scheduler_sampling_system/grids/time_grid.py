"""The noise levels that a run visits, as an immutable grid; :mod:`.spacings` has the rules that choose them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ..config.options import Option, checked_options, parameters_of
from ..config.registries import SPACINGS
from ..config.spacing_choice import spacing_of
from ..schedules.path import CLEAN, Level, NoisePath
from ..support.argument_checks import checked_count, checked_times
from ..support.drawn import Drawn
from ..support.errors import ConfigurationError, shown
from .level_choice import levels_of_shares, noise_share, stretched

__all__ = ["TimeGrid", "make_grid", "refuse_clean_start", "refuse_other_grid"]

Times = npt.NDArray[np.float64]


@final
@dataclass(frozen=True)
class TimeGrid(Drawn):
    """N + 1 noise levels, from the start of a run to its end; N intervals between them.

    The model is evaluated at the first N levels, and by some samplers in between. The run ends at the last level,
    usually the clean sample, α = 1 and σ = 0, which has no time.

    Attributes:
        levels: the noise levels. σ/α falls strictly, or rises strictly in an inverse run.

    Raises:
        ConfigurationError: fewer than two levels, or levels that are not strictly monotone.

    Examples:
        >>> from noise_scheduler_sampling_system import DiffusionPipeline, TimeGrid
        >>> pipeline = DiffusionPipeline(None, "ddim")
        >>> grid = TimeGrid.from_times(pipeline.scheduler, [900, 500, 100])
        >>> pipeline.plan(grid=grid).time.tolist()
        [900.0, 500.0, 100.0]
    """

    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        if len(self.levels) < 2:
            raise ConfigurationError(
                "a grid needs at least one interval", where="timesteps", suggestion="give more times"
            )
        for i, level in enumerate(self.levels):
            if not isinstance(level, Level):
                raise ConfigurationError(
                    f"level {i} is {shown(level)}", where="timesteps", suggestion="give levels; path.level(t) makes one"
                )
        with np.errstate(divide="ignore", invalid="ignore"):  # σ = 0 gives −inf, α = 0 +inf
            noise = np.log([v.sigma for v in self.levels]) - np.log([v.alpha for v in self.levels])
            steps = np.diff(noise)
        if not ((steps < 0).all() or (steps > 0).all()):
            falls = not steps[0] > 0
            i = int(np.flatnonzero(~(steps < 0) if falls else ~(steps > 0))[0])
            raise ConfigurationError(
                f"levels {i} and {i + 1} (t = {self.levels[i].t:g} and {self.levels[i + 1].t:g}) are not in order",
                where="timesteps",
                why="every interval must lower the noise, or every interval raise it; an empty interval does nothing",
                suggestion="give strictly decreasing times without duplicates",
            )

    @classmethod
    def from_times(cls, path: NoisePath, times: Sequence[float] | Times, *, end: Level | None = CLEAN) -> TimeGrid:
        """A grid through exactly these times.

        Args:
            path: the noise schedule that has their levels.
            times: the times at which the model is evaluated, in the order of the run.
            end: the level where the run ends. With ``None`` the run ends at the last time, and the model is not
                evaluated there.
        """
        levels = path.levels(times)
        return cls(tuple(levels if end is None else [*levels, end]))

    @classmethod
    def from_sigmas(cls, path: NoisePath, sigmas: Sequence[float] | Times, *, end: Level | None = CLEAN) -> TimeGrid:
        """A grid through exactly these σ, which are σ/α, or σ on the straight path (:meth:`NoisePath.field_sigma`).

        Args:
            path: the noise schedule.
            sigmas: in the order of the run. A 0 at the end is the clean sample, and stands for ``end``. The levels
                keep the σ to the last bit where α = 1 and on the straight path, and to rounding elsewhere.
            end: as for :meth:`from_times`.

        Raises:
            ConfigurationError: a σ that is not on the path.
        """
        values = checked_times(sigmas, "sigmas")
        if end is CLEAN and values[-1] == 0.0:
            values = values[:-1]
        levels = [path.level_of_sigma(sigma) for sigma in values]
        return cls(tuple(levels if end is None else [*levels, end]))

    def split(
        self, at: int | None = None, *, t: float | None = None, sigma: float | None = None
    ) -> tuple[TimeGrid, TimeGrid]:
        """Two grids, for two models, that together are this grid. Both hold the level between them.

        Args:
            at: the number of intervals in the first.
            t: or split at the first level whose time is at most this; in an inverse run, at least this.
            sigma: or split at the first level whose σ/α is at most this; in an inverse run, at least this.

        Raises:
            ConfigurationError: none or several of the three are given, or one part would be empty.
        """
        if sum(given is not None for given in (at, t, sigma)) != 1:
            raise ConfigurationError(
                "none or several of at, t and sigma are given", where="at", suggestion="give exactly one"
            )
        where, place = ("t", t) if t is not None else ("sigma", sigma) if sigma is not None else ("at", at)
        if where != "at":
            noise = [v.t if where == "t" else v.noise_to_signal for v in self.levels]
            falls = self.levels[0].noise_to_signal > self.levels[-1].noise_to_signal
            at = next((i for i, v in enumerate(noise) if (v <= place if falls else v >= place)), 0)  # type: ignore[operator]
        if isinstance(at, bool) or not isinstance(at, int | np.integer) or not 0 < at < self.steps:
            raise ConfigurationError(
                f"got {place!r}, which leaves one part of the {self.steps} intervals empty",
                where=where,
                suggestion=f"give at from 1 to {self.steps - 1}, or a place between the grid's ends",
            )
        return TimeGrid(self.levels[: at + 1]), TimeGrid(self.levels[at:])

    def reversed(self) -> TimeGrid:
        """The grid of the inverse run, from the cleanest level with a time to the noisiest.

        Raises:
            ConfigurationError: only one level has a time.
        """
        return TimeGrid(tuple(level for level in self.levels[::-1] if not math.isnan(level.t)))

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


def make_grid(
    path: NoisePath, num_inference_steps: int, *, start: float | Level | None = None, suits: str = "leading"
) -> TimeGrid:
    """The grid of the config's spacing.

    Args:
        path: the noise schedule, with the config that names the spacing.
        num_inference_steps: N, the number of intervals.
        start: the first level or its time, for image-to-image (:func:`~.image_start.start_at`). Default: the first
            level of the spacing. The grid has N intervals in both cases.
        suits: the spacing for a config that says "auto"; ``sampler.grid`` passes that of the sampler.

    Raises:
        ConfigurationError: a number of steps or an option that the spacing does not support.
    """
    steps, config = checked_count(num_inference_steps), path.config
    name = spacing_of(config, suits)
    first = start if start is None or isinstance(start, Level) else path.level(float(start))
    shorter = path if first is None else path.up_to(first.t)
    spacing = SPACINGS.get(name, "timestep_spacing")
    options = _checked_options(spacing, name, config.spacing_options)
    discard, end, last = (options.pop(name) for name in COMMON_OPTIONS)

    def choose(count: int) -> list[Level]:
        chosen = [v if isinstance(v, Level) else path.level(float(v)) for v in spacing(shorter, count, **options)]
        if len(chosen) != count:
            raise ConfigurationError(
                f"the {name!r} spacing returned {len(chosen)} levels for {count}",
                where="timestep_spacing",
                suggestion="return one time or level for each step, from the noisiest to the cleanest",
            )
        return chosen if first is None else [first, *chosen[1:]]

    levels = choose(steps + discard)
    lowest = path.level(path.t_min)
    if end == "clean":
        levels.append(CLEAN)
    elif levels[-1].noise_to_signal > lowest.noise_to_signal * (1 + 1e-9):
        levels.append(lowest)
    else:  # the last level of the spacing is the lowest already
        levels = choose(steps + discard + 1)
    if discard:
        del levels[-2]
    if last is not None:
        levels[:-1] = _ending_at(last, levels[:-1], shorter)
    grid = TimeGrid(tuple(levels))
    if first is None:
        refuse_clean_start(*grid.levels[0])
    return grid


#: The options of every spacing.
COMMON_OPTIONS = {
    "discard_penultimate": Option(False),
    "end": Option("clean", choices=("clean", "lowest")),
    "shift_terminal": Option(None, kind=float, above=0.0, below=1.0),
}


def _ending_at(share: float, levels: list[Level], path: NoisePath) -> list[Level]:
    """Levels stretched to end at this share of noise, as ``shift_terminal`` of diffusers; the first stays as it is."""
    if len(levels) == 1:
        return levels  # there is nothing to stretch
    shares = np.array([noise_share(level) for level in levels])
    lowest = noise_share(path.level(path.t_min))
    if not lowest < share < shares[0]:
        raise ConfigurationError(
            f"got {share:g}, and the run has shares of noise σ/(α + σ) from {shares[0]:.6g} to {lowest:.6g}",
            where="spacing_options.shift_terminal",
            suggestion="give a number between them",
        )
    return [levels[0], *levels_of_shares(path, stretched(shares, share))[1:]]


def _checked_options(spacing: Callable[..., Any], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a spacing, with the defaults of the common ones."""
    declared = {**parameters_of(spacing, 2), **COMMON_OPTIONS}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(spacing).parameters.values()):
        declared = {**{option: Option(kind=object) for option in given}, **declared}
    checked = checked_options(given, declared, f"the {name!r} spacing", "spacing_options.")
    return {**{option: common.default for option, common in COMMON_OPTIONS.items()}, **checked}


def refuse_other_grid(grid: Any) -> None:
    """Raise where the levels of one grid are needed, and something else is given.

    Raises:
        ConfigurationError: not a :class:`TimeGrid`, for example a grid of frames.
    """
    if not isinstance(grid, TimeGrid):
        raise ConfigurationError(
            f"got {shown(grid)}",
            where="grid",
            suggestion="give a TimeGrid; pipeline.plan, sample and stream take a FrameGrid, too",
        )


def refuse_clean_start(
    t: float,
    alpha: float,
    sigma: float,
    where: str = "timestep_spacing",
    suggestion: str = "use timestep_spacing='trailing' or more steps, or start from a noised initial_sample",
) -> None:
    """Raise ConfigurationError unless a run may start from pure noise at this level."""
    if alpha > sigma:
        raise ConfigurationError(
            f"the first timestep is {t:g}, where signal outweighs noise (α = {alpha:.3g}, σ = {sigma:.3g})",
            where=where,
            why="a run from pure noise would give the model an x that never occurs at that time",
            suggestion=suggestion,
        )
