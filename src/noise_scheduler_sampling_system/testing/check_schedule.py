"""A noise schedule held against what the library takes for granted of every path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, final

import numpy as np
import torch

from ..config.prediction import PREDICTION_TYPES, conversion
from ..config.registries import SCHEDULES, SPACINGS
from ..config.settings import NoiseSchedulerConfig
from ..samplers.factory import SamplerFactory
from ..schedules.factory import NoiseSchedulerFactory
from ..schedules.path import NoisePath
from ..schedules.path_checks import check_path
from ..support.errors import ConfigurationError
from .check_spacing import check_grids_of
from .copies import check_copies

__all__ = ["ScheduleReport", "check_schedule"]

#: Standard deviations of Gaussian data, and what DDIM in 200 steps may make of them, over what it should.
_WIDTHS: Final = (0.3, 1.0)
_NARROWEST, _WIDEST = 0.5, 1.15
_STEPS: Final = 200
#: float32 samples against float64 formulas.
_ROUNDING: Final = 1e-5


@final
@dataclass(frozen=True)
class ScheduleReport:
    """What :func:`check_schedule` found.

    Attributes:
        schedule: ``repr`` of the schedule.
        log_snr: of the noisiest and of the cleanest level.
        spreads: the standard deviation of Gaussian data after 200 steps of DDIM, over the data's, by the data's.
        grids: how many grids were made, over all registered spacings.
        refused: by spacing: why it makes no grid on this schedule.
    """

    schedule: str
    log_snr: tuple[float, float]
    spreads: Mapping[float, float]
    grids: int
    refused: Mapping[str, str]

    def __str__(self) -> str:
        spreads = ", ".join(f"{spread:.3f} at {width:g}" for width, spread in self.spreads.items())
        refused = f"; not on {', '.join(self.refused)}" if self.refused else ""
        return "\n".join([
            f"{self.schedule}: log SNR from {self.log_snr[0]:.4g} to {self.log_snr[1]:.4g}",
            f"  spread of Gaussian data after {_STEPS} steps of DDIM: {spreads}",
            f"  {self.grids} grids{refused}",
        ])  # fmt: skip


def check_schedule(schedule: NoisePath | type[NoisePath] | str | Enum, **options: Any) -> ScheduleReport:
    """Measure a noise schedule.

    Checked are: its formulas (log SNR falls, its inverse, α and σ, its derivative); noised samples and training
    targets against α and σ; grids on every registered spacing, whose levels are those of the schedule, and strictly
    in order; that DDIM in 200 steps keeps the standard deviation of Gaussian data; that a copy, a pickle, and a
    schedule made again from its config's file are equal to it.

    Args:
        schedule: an object, a class, or a registered name.
        options: with a class or a name: fields of its config, ``schedule_options`` among them.

    Raises:
        ConfigurationError: what does not hold, with the numbers.
    """
    path = _made(schedule, options)
    check_path(path)
    _check_samples(path)
    check_copies(type(path).__name__, path)
    _check_file(path)
    made, refused = _check_grids(path)
    top, bottom = path.levels([path.t_max, path.t_min])
    ends = tuple(
        float(2.0 * (np.log(max(each.alpha, 1e-300)) - np.log(max(each.sigma, 1e-300)))) for each in (top, bottom)
    )
    return ScheduleReport(repr(path), (ends[0], ends[1]), _check_spreads(path), made, refused)


def _made(schedule: Any, options: Mapping[str, Any]) -> NoisePath:
    if isinstance(schedule, NoisePath):
        if options:
            raise ConfigurationError(
                "are given beside an object", where=next(iter(options)), suggestion="give them to its class"
            )
        return schedule
    if isinstance(schedule, type) and issubclass(schedule, NoisePath):
        return schedule(**options)
    if isinstance(schedule, str | Enum):
        return NoiseSchedulerFactory.create(schedule, **options)
    raise ConfigurationError(
        f"got {type(schedule).__name__}", where="schedule", suggestion="give a NoisePath, its class or its name"
    )


def _fails(path: NoisePath, what: str, why: str = "") -> ConfigurationError:
    return ConfigurationError(what, where=type(path).__name__, why=why, suggestion="mend the schedule's formulas")


def _check_samples(path: NoisePath) -> None:
    """Noised samples and targets against α and σ."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(7, 5, generator=generator) for _ in range(2))
    times = torch.linspace(path.t_min, path.t_max, 9, dtype=torch.float64)[1:-1]
    if path.discrete:
        times = times.round()
    levels = path.levels(times.tolist())
    alpha, sigma = (torch.tensor([[getattr(level, name)] for level in levels]) for name in ("alpha", "sigma"))
    noised = path.add_noise(clean, noise, times.to(torch.int64) if path.discrete else times.float())
    off = (noised - (alpha * clean + sigma * noise)).abs().max().item() / float(sigma.max() + 1.0)
    if not off <= _ROUNDING:
        raise _fails(path, f"add_noise differs from α·x₀ + σ·ε by {off:.2g} of its size")
    for kind in PREDICTION_TYPES:
        typed = path.with_config(path.config.replace(prediction_type=kind))
        target = typed.target(clean, noise, times.to(torch.int64) if path.discrete else times.float())
        for i, level in enumerate(levels):
            factors = conversion(kind, "sample", level.alpha, level.sigma)
            back = factors.x_factor * noised[i].double() + factors.y_factor * target[i].double()
            size = 1.0 + abs(factors.x_factor) * float(noised[i].abs().max())
            wrong = (back - clean[i]).abs().max().item() / size
            if not wrong <= 10.0 * _ROUNDING:
                raise _fails(path, f"the target of {kind!r} at t = {level.t:g} stands for x₀ off by {wrong:.2g}")


def _check_grids(path: NoisePath) -> tuple[int, dict[str, str]]:
    made: dict[str, int] = {}
    refused: dict[str, str] = {}
    for name in SPACINGS:
        count, reason = check_grids_of(path, name, {}, type(path).__name__)
        if count:
            made[name] = count
        if reason:
            refused[name] = reason
    if not made:
        raise _fails(path, "no spacing makes a grid", why=next(iter(refused.values()), ""))
    return sum(made.values()), {name: why for name, why in refused.items() if name not in made}


def _check_spreads(path: NoisePath) -> dict[float, float]:
    """DDIM in many steps is the probability-flow ODE, which keeps the law of the data."""
    plan = SamplerFactory.create("ddim", path.spaced("kl_optimal")).plan(_STEPS)
    # from the noisiest level, where the state still holds some signal, the run starts from noise alone
    spreads = {width: float(plan.gaussian_moments(width).std) / width for width in _WIDTHS}
    for width, spread in spreads.items():
        if not _NARROWEST <= spread <= _WIDEST:
            raise _fails(
                path,
                f"DDIM in {_STEPS} steps returns Gaussian data of standard deviation {width:g} with {spread:.3f} of it",
                why="the noisiest level is not close enough to pure noise, or the cleanest not close enough to data",
            )
    return spreads


def _check_file(path: NoisePath) -> None:
    """The schedule made again from its config as a file holds it, where the config names its class."""
    name = SCHEDULES.name_of(type(path))
    if name is None or name != SCHEDULES.canonical(path.config.beta_schedule):
        return
    again = NoiseSchedulerFactory.create(NoiseSchedulerConfig.from_dict(path.config.to_dict()))
    if again != path:
        raise _fails(path, "the schedule made from its config is not equal to it", why="its state is not in its config")
