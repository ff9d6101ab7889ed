"""The grid of a scheduler of diffusers, found by calling its own ``set_timesteps``."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from ....grids.time_grid import TimeGrid
from ....schedules.path import CLEAN, Level, NoisePath
from ....support.errors import ConfigurationError
from .diffusers_classes import scheduler_class
from .scheduler_reading import LevelList, Reading

__all__ = ["SchedulerLevels", "levels_of", "new_scheduler"]


@final
@dataclass(frozen=True)
class SchedulerLevels:
    """The levels at which a scheduler of diffusers calls the model.

    Attributes:
        grid: the levels, in the path's coordinates; the last is in the scheduler's own.
        scale: the factor of unit noise in its pipelines, in the path's coordinates.
        dtype: of its timesteps.
        idle: the numbers of the intervals that lead from a level to the same one; the grid leaves them out.
        times: its list of timesteps, without the end.
    """

    grid: TimeGrid
    scale: float
    dtype: torch.dtype
    idle: tuple[int, ...] = ()
    times: tuple[float, ...] = ()

    @property
    def last_is_idle(self) -> bool:
        """Whether the last step stays at its level."""
        return self.grid.steps + len(self.idle) - 1 in self.idle


def new_scheduler(reading: Reading, **changes: Any) -> Any:
    """A new object of the class that was read, with some fields changed."""
    cls = scheduler_class(reading.class_name)
    fields = {key: value for key, value in {**reading.fields, **changes}.items() if key in reading.fields}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of algorithms that diffusers will remove
        return cls(**fields)


def levels_of(
    reading: Reading, path: NoisePath, arguments: Mapping[str, Any], *, own_sampler: bool = True
) -> SchedulerLevels:
    """The levels that a scheduler visits.

    Args:
        reading: the scheduler.
        path: its path.
        arguments: of its ``set_timesteps``; None stands for the default.
        own_sampler: whether the class's own sampler will run on the grid. PNDM counts its times as evenly spaced, the
            end included, whatever the level there. For any other sampler the end has the time of its level.

    Raises:
        ConfigurationError: the class refuses the arguments, or its levels do not make a grid.
    """
    scheduler = new_scheduler(reading)
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    unset = {name: None for name in arguments if name not in accepted or accepted[name].default is None}
    given = {name: value for name, value in arguments.items() if value is not None or name not in unset}
    if "shift" in given:
        scheduler.set_shift(given.pop("shift"))
    for name in ("timesteps", "sigmas"):
        if name in given:
            _refuse_unordered(name, given[name])
        if name in given and name not in accepted:  # the class does not take them, the path does
            return _given_levels(path, name, given[name], scheduler, given.get("num_inference_steps"))
    if "mu" in given and "mu" not in accepted:
        del given["mu"]
    levels, scale = _listed(scheduler, path, reading, given)
    if reading.level_list == "inverse times" and not own_sampler:
        levels = _told_their_own_time(levels, path)
    _mend_end(levels)
    idle = tuple(i for i, (now, after) in enumerate(itertools.pairwise(levels)) if now[1:] == after[1:])
    kept = [level for i, level in enumerate(levels) if i - 1 not in idle]
    if len(kept) < 2 or (idle and idle[0] == 0):
        raise ConfigurationError(
            f"the first of {len(levels) - 1} steps of {reading.class_name} stays at its level, t = {levels[0].t:g}",
            where="num_inference_steps",
            suggestion="take another number of steps, or choose a timestep_spacing",
        )
    end = kept[-1]
    if reading.level_list == "pndm" and own_sampler and not idle and len(kept) > 2:
        kept[-1] = end._replace(t=math.nan)
    elif end.sigma > 0.0 and math.isnan(end.t):  # samplers with two model calls in a step make one there
        kept[-1] = end._replace(t=min(max(_time(path, end), path.t_min), path.t_max))
    times = tuple(map(float, scheduler.timesteps.tolist()))
    times = times[:-1] if reading.terms.lists_end else times
    return SchedulerLevels(TimeGrid(tuple(kept)), scale, scheduler.timesteps.dtype, idle, times)


def _listed(scheduler: Any, path: NoisePath, reading: Reading, arguments: Mapping[str, Any]) -> _Levels:
    """The levels that a scheduler lists after ``set_timesteps``, and the factor of unit noise.

    Raises:
        ConfigurationError: it refuses the arguments, or does not list levels.
    """
    try:
        scheduler.set_timesteps(**arguments)
    except (ValueError, AssertionError, IndexError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ConfigurationError(
            f"{reading.class_name}.set_timesteps: {error or type(error).__name__}",
            where="set_timesteps",
            suggestion="give arguments that the class accepts, or choose a timestep_spacing",
        ) from error
    try:
        return _READ_LEVELS[reading.level_list](scheduler, path, reading)
    except AttributeError as error:
        raise ConfigurationError(
            f"{reading.class_name} does not keep a list of levels: {error}",
            where="set_timesteps",
            suggestion="choose a timestep_spacing: from_config(config, method=..., timestep_spacing='karras')",
        ) from error


def _told_their_own_time(levels: Sequence[Level], path: NoisePath) -> list[Level]:
    """Levels of an inverse run with their own times, where the class tells the network the time of the level after."""
    own = [path.level(path.t_min) if level.sigma == 0.0 else level for level in levels]
    own = own[1:] if own[0][1:] == own[1][1:] else own  # the path may end where the list begins
    return [level._replace(t=_time(path, level)) for level in own]


def _mend_end(levels: list[Level]) -> None:
    """Remove, in-place, a level before the end of a falling list that the end does not lie below."""
    if len(levels) > 2 and levels[0].noise_to_signal > levels[1].noise_to_signal:
        before, last = levels[-2].noise_to_signal, levels[-1].noise_to_signal
        if last > before:
            del levels[-2]
        elif last == before:  # the end may be in other coordinates
            levels[-2] = levels[-1]._replace(t=levels[-2].t)


def _refuse_unordered(name: str, values: Sequence[float]) -> None:
    """Raise for times or σ, given by the user, that do not decrease."""
    for i, (now, after) in enumerate(itertools.pairwise(values)):
        if not after < now:
            ordered = sorted(set(values), reverse=True)
            raise ConfigurationError(
                f"entries {i} and {i + 1} are {now:g} and {after:g}",
                where=name,
                why="every step must lower the noise; a step from a level to the same one does nothing",
                suggestion=f"give them falling and each once: {[float(f'{v:.6g}') for v in ordered[:8]]}"
                + (", ..." if len(ordered) > 8 else ""),
            )


def _given_levels(
    path: NoisePath, name: str, values: Sequence[float], scheduler: Any, steps: int | None
) -> SchedulerLevels:  # fmt: skip
    """The levels of times or σ that the user gives to a class that does not take them."""
    grid = TimeGrid.from_times(path, values) if name == "timesteps" else TimeGrid.from_sigmas(path, values)
    if steps is not None and steps != grid.steps:
        raise ConfigurationError(
            f"got {steps}, and {name} are {grid.steps} steps", where="num_inference_steps", suggestion="leave it out"
        )
    first = grid.levels[0]
    return SchedulerLevels(grid, math.hypot(first.alpha, first.sigma), scheduler.timesteps.dtype)


#: Levels, and the factor of unit noise.
_Levels = tuple[list[Level], float]


def _times(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    """Of classes that list whole timesteps; the path knows their levels."""
    return [*path.levels(scheduler.timesteps.tolist()), _end(path, reading)], 1.0


def _inverse_times(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    """Of DDIM from data to noise: its list has the times of the levels that the steps lead to."""
    times = scheduler.timesteps.tolist()
    first = CLEAN if reading.fields["set_alpha_to_one"] else path.level(path.t_min)
    after = path.levels(times)
    before = [first, *after[:-1]]
    return [*(level._replace(t=float(t)) for t, level in zip(times, before, strict=True)), after[-1]], 1.0


def _pndm(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    return [*path.levels(scheduler._timesteps[::-1].copy()), _end(path, reading)], 1.0


def _end(path: NoisePath, reading: Reading) -> Level:
    return path.level(path.t_min) if reading.config.spacing_options.get("end") == "lowest" else CLEAN


def _times_and_sigmas(scheduler: Any, stride: int) -> tuple[list[float], list[float]]:
    """Its timesteps and its σ, one a step, where its lists have ``stride`` entries a step; and the σ of the end."""
    times = scheduler.timesteps[::stride].tolist()
    sigmas = scheduler.sigmas.double().tolist()
    return times, ([sigmas[0], *sigmas[1::stride]] if stride > 1 else sigmas)[: len(times) + 1]


def _ratios(scheduler: Any, path: NoisePath, reading: Reading, stride: int = 1) -> _Levels:
    """Of classes that keep x/α and list σ/α."""
    times, ratios = _times_and_sigmas(scheduler, stride)
    levels = []
    for t, ratio in zip(times, ratios, strict=False):
        width = math.hypot(1.0, ratio)
        level = Level(t, 1.0 / width, ratio / width)
        levels.append(level if reading.terms.clock is None else level._replace(t=_time(path, level)))
    scale = float(scheduler.init_noise_sigma) * levels[0].alpha
    return [*levels, _last(ratios[-1], 1.0)], scale


def _time(path: NoisePath, level: Level) -> float:
    return float(path.time(2.0 * level.half_log_snr))


def _last(sigma: float, alpha: float) -> Level:
    return CLEAN if sigma == 0.0 else Level(math.nan, alpha, sigma)


def _dpm(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    """Of classes that keep x and list σ/α, or σ on the straight path."""
    straight = path.sigma_is_absolute

    def level(t: float, sigma: float) -> Level:
        if straight:
            return Level(t, 1.0 - sigma, sigma)
        width = math.hypot(1.0, sigma)
        return Level(t, 1.0 / width, sigma / width)

    sigmas = scheduler.sigmas.double().tolist()
    levels = [level(t, sigma) for t, sigma in zip(scheduler.timesteps.tolist(), sigmas, strict=False)]
    return [*levels, CLEAN if sigmas[-1] == 0.0 else level(math.nan, sigmas[-1])], 1.0


def _flow(scheduler: Any, path: NoisePath, reading: Reading, stride: int = 1) -> _Levels:
    times, sigmas = _times_and_sigmas(scheduler, stride)
    levels = [Level(t, 1.0 - sigma, sigma) for t, sigma in zip(times, sigmas, strict=False)]
    return [*levels, _last(sigmas[-1], 1.0 - sigmas[-1])], 1.0


def _flow_inverted(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    """Of Mochi's flow: its list has 1 − σ."""
    times, signals = _times_and_sigmas(scheduler, 1)
    levels = [Level(t, signal, 1.0 - signal) for t, signal in zip(times, signals, strict=False)]
    return [*levels, _last(1.0 - signals[-1], signals[-1])], 1.0


def _angles(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    """Of sCM: its list has the angles of all levels, the end included."""
    *times, end = scheduler.timesteps.double().tolist()
    # the first angle may be past π/2 by rounding
    levels = [Level(t, max(math.cos(t), 0.0), math.sin(t)) for t in times]
    return [*levels, CLEAN if end == 0.0 else Level(end, math.cos(end), math.sin(end))], 1.0


def _fractions(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    """Of Würstchen: its list has the times of all levels, from 1 to 0, of which the path ends a little before."""
    times = scheduler.timesteps.double().tolist()
    return [path.level(min(max(t, path.t_min), path.t_max))._replace(t=t) for t in times], 1.0


def _edm(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    sigmas = scheduler.sigmas.double().tolist()
    return [*(Level(s, 1.0, s) for s in sigmas[:-1]), _last(sigmas[-1], 1.0)], float(scheduler.init_noise_sigma)


def _own(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    """Of IPNDM; what it calls betas and alphas are σ and α."""
    rows = zip(scheduler.timesteps.tolist(), scheduler.alphas.tolist(), scheduler.betas.tolist(), strict=False)
    return [*(Level(*row) for row in rows), CLEAN], 1.0


_READ_LEVELS: dict[LevelList, Callable[[Any, NoisePath, Reading], _Levels]] = {
    "times": _times,
    "inverse times": _inverse_times,
    "pndm": _pndm,
    "ratios": _ratios,
    "ratios, twice": lambda scheduler, path, reading: _ratios(scheduler, path, reading, 2),
    "dpm": _dpm,
    "flow": _flow,
    "flow, twice": lambda scheduler, path, reading: _flow(scheduler, path, reading, 2),
    "flow, inverted": _flow_inverted,
    "angles": _angles,
    "fractions": _fractions,
    "edm": _edm,
    "own": _own,
}
