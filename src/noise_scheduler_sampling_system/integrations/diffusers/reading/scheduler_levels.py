"""The levels that a diffusers scheduler visits, as a grid: its own ``set_timesteps`` is asked."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ....grids.time_grid import TimeGrid
from ....schedules.path import CLEAN, Level, NoisePath
from ....support.errors import ConfigurationError
from .reading import Reading, scheduler_class

__all__ = ["Visited", "made", "visited"]


@dataclass(frozen=True)
class Visited:
    """Where a diffusers scheduler would ask the model.

    Attributes:
        grid: its levels, in the path's coordinates; the end is in the scheduler's own.
        scale: what its pipelines multiply unit noise by, in the path's coordinates.
        dtype: of its timesteps.
        idle: which of its intervals go from a level to the same one; the grid is without.
        times: its list of timesteps.
    """

    grid: TimeGrid
    scale: float
    dtype: torch.dtype
    idle: tuple[int, ...] = ()
    times: tuple[float, ...] = ()

    @property
    def stays(self) -> bool:
        """Whether the last step goes nowhere."""
        return self.grid.steps + len(self.idle) - 1 in self.idle


def made(reading: Reading, **changes: Any) -> Any:
    """The scheduler that was read, new."""
    cls = scheduler_class(reading.class_name)
    fields = {key: value for key, value in {**reading.fields, **changes}.items() if key in reading.fields}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of algorithms that are to go there
        return cls(**fields)


def visited(reading: Reading, path: NoisePath, request: Mapping[str, Any], *, own: bool = True) -> Visited:
    """The grid of a scheduler.

    Args:
        reading: the scheduler.
        path: its path.
        request: what its ``set_timesteps`` is asked.
        own: whether the class's own sampler is to run on it: PNDM takes its times for even, and so its end, too,
            whatever the level there. For any other sampler the end has the time of its level.

    Raises:
        ConfigurationError: it refuses, or visits levels that are no grid.
    """
    scheduler = made(reading)
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    given = {name: value for name, value in request.items() if value is not None}
    if "shift" in given:
        scheduler.set_shift(given.pop("shift"))
    for name in ("timesteps", "sigmas"):
        if name in given:
            _refuse_unordered(name, given[name])
        if name in given and name not in accepted:  # the class takes none, the path does
            return _custom(path, name, given[name], scheduler, given.get("num_inference_steps"))
    if "mu" in given and "mu" not in accepted:
        del given["mu"]
    try:
        scheduler.set_timesteps(**given)
    except (ValueError, AssertionError, IndexError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ConfigurationError(
            f"{reading.class_name}.set_timesteps: {error or type(error).__name__}",
            where="set_timesteps",
            suggestion="ask for what that class can do, or choose a timestep_spacing",
        ) from error
    try:
        levels, scale = _FAMILIES[reading.family](scheduler, path, reading)
    except AttributeError as error:
        raise ConfigurationError(
            f"{reading.class_name} keeps no list of levels: {error}",
            where="set_timesteps",
            suggestion="choose a timestep_spacing: from_config(config, method=..., timestep_spacing='karras')",
        ) from error
    if len(levels) > 2:
        before, last = levels[-2].noise_to_signal, levels[-1].noise_to_signal
        if last > before:
            del levels[-2]
        elif last == before:  # the end may be in other coordinates
            levels[-2] = levels[-1]._replace(t=levels[-2].t)
    idle = tuple(i for i, (now, after) in enumerate(itertools.pairwise(levels)) if now[1:] == after[1:])
    kept = [level for i, level in enumerate(levels) if i - 1 not in idle]
    if len(kept) < 2 or (idle and idle[0] == 0):
        raise ConfigurationError(
            f"the first of {len(levels) - 1} steps of {reading.class_name} stays at its level, t = {levels[0].t:g}",
            where="num_inference_steps",
            suggestion="take another number of steps, or choose a timestep_spacing",
        )
    end = kept[-1]
    if reading.family == "pndm" and own and not idle and len(kept) > 2:
        kept[-1] = end._replace(t=math.nan)
    elif end.sigma > 0.0 and math.isnan(end.t):  # samplers that ask twice in a step ask there, too
        kept[-1] = end._replace(t=min(max(_time(path, end), path.t_min), path.t_max))
    return Visited(
        TimeGrid(tuple(kept)), scale, scheduler.timesteps.dtype, idle, tuple(map(float, scheduler.timesteps.tolist()))
    )


def _refuse_unordered(name: str, values: Sequence[float]) -> None:
    """Raise for times or σ that a user gives and that do not fall."""
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


def _custom(path: NoisePath, name: str, values: Sequence[float], scheduler: Any, steps: int | None) -> Visited:
    grid = TimeGrid.from_times(path, values) if name == "timesteps" else TimeGrid.from_sigmas(path, values)
    if steps is not None and steps != grid.steps:
        raise ConfigurationError(
            f"got {steps}, and {name} are {grid.steps} steps", where="num_inference_steps", suggestion="leave it out"
        )
    first = grid.levels[0]
    return Visited(grid, math.hypot(first.alpha, first.sigma), scheduler.timesteps.dtype)


_Levels = tuple[list[Level], float]


def _times(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    """Whole timesteps, whose levels the path knows."""
    return [*path.levels(scheduler.timesteps.tolist()), _end(path, reading)], 1.0


def _pndm(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    return [*path.levels(scheduler._timesteps[::-1].copy()), _end(path, reading)], 1.0


def _end(path: NoisePath, reading: Reading) -> Level:
    return path.level(path.t_min) if reading.config.spacing_options.get("end") == "lowest" else CLEAN


def _ratios(scheduler: Any, path: NoisePath, reading: Reading, stride: int = 1) -> _Levels:
    """σ/α, for schedulers that keep x/α."""
    times = scheduler.timesteps[::stride].tolist()
    ratios = scheduler.sigmas.double().tolist()
    ratios = ([ratios[0], *ratios[1::stride]] if stride > 1 else ratios)[: len(times) + 1]
    levels = []
    for t, ratio in zip(times, ratios, strict=False):
        width = math.hypot(1.0, ratio)
        level = Level(t, 1.0 / width, ratio / width)
        levels.append(level if reading.clock is None else level._replace(t=_time(path, level)))
    scale = float(scheduler.init_noise_sigma) * levels[0].alpha
    return [*levels, _last(ratios[-1], 1.0)], scale


def _time(path: NoisePath, level: Level) -> float:
    return float(path.time(2.0 * level.half_log_snr))


def _last(sigma: float, alpha: float) -> Level:
    return CLEAN if sigma == 0.0 else Level(math.nan, alpha, sigma)


def _dpm(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    """σ/α, or σ on the straight path, for schedulers that keep x."""
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
    times = scheduler.timesteps[::stride].tolist()
    sigmas = scheduler.sigmas.double().tolist()
    sigmas = ([sigmas[0], *sigmas[1::stride]] if stride > 1 else sigmas)[: len(times) + 1]
    levels = [Level(t, 1.0 - sigma, sigma) for t, sigma in zip(times, sigmas, strict=False)]
    return [*levels, _last(sigmas[-1], 1.0 - sigmas[-1])], 1.0


def _edm(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    sigmas = scheduler.sigmas.double().tolist()
    return [*(Level(s, 1.0, s) for s in sigmas[:-1]), _last(sigmas[-1], 1.0)], float(scheduler.init_noise_sigma)


def _own(scheduler: Any, path: NoisePath, reading: Reading) -> _Levels:
    """IPNDM's: what it calls betas and alphas are σ and α."""
    rows = zip(scheduler.timesteps.tolist(), scheduler.alphas.tolist(), scheduler.betas.tolist(), strict=False)
    return [*(Level(*row) for row in rows), CLEAN], 1.0


_FAMILIES: dict[str, Callable[[Any, NoisePath, Reading], _Levels]] = {
    "times": _times,
    "pndm": _pndm,
    "ratios": _ratios,
    "ratios, twice": lambda scheduler, path, reading: _ratios(scheduler, path, reading, 2),
    "dpm": _dpm,
    "flow": _flow,
    "flow, twice": lambda scheduler, path, reading: _flow(scheduler, path, reading, 2),
    "edm": _edm,
    "own": _own,
}
