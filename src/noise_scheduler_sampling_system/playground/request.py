"""What the page asks the server: settings as JSON, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from ..grids.time_grid import TimeGrid, refuse_clean_start
from ..schedules.path import CLEAN, Level, NoisePath
from ..support.errors import ConfigurationError, shown

__all__ = ["MOST_STEPS", "PlanRequest", "RunRequest", "noise_request"]

#: The most steps of a plan that the server compiles.
MOST_STEPS: Final = 200
_LARGEST_SEED: Final = 2**31 - 1
_LARGEST_GUIDANCE: Final = 100.0
#: The most noises of one request.
_MOST_NOISES: Final = 4 * MOST_STEPS
_MOST_OPTIONS: Final = 40


@final
@dataclass(frozen=True)
class PlanRequest:
    """The setting of a panel.

    Attributes:
        path, grid, sampler: registered names.
        path_options, grid_options, options: their options.
        steps: N.
        levels: the log-SNR of the levels in place of those of the grid; None at the first: the noisiest level.
        guidance: the scale of classifier-free guidance.
    """

    path: str
    grid: str
    sampler: str
    steps: int
    path_options: Mapping[str, Any]
    grid_options: Mapping[str, Any]
    options: Mapping[str, Any]
    levels: tuple[float | None, ...] | None
    guidance: float

    @classmethod
    def of(cls, data: Any) -> PlanRequest:
        """A request from JSON.

        Raises:
            ConfigurationError: a field is missing, unknown or wrong.
        """
        return cls(**_plan_fields(_fields(data, set(cls.__dataclass_fields__))))

    def level_grid(self, path: NoisePath) -> TimeGrid | None:
        """The grid of the levels that were moved by hand; None where none were.

        Raises:
            ConfigurationError: a level is outside the path, or the levels do not rise.
        """
        if self.levels is None:
            return None
        levels = [_level(path, value) for value in self.levels]
        refuse_clean_start(*levels[0], where="levels", suggestion="begin at the noisiest level")
        return TimeGrid((*levels, CLEAN))


@final
@dataclass(frozen=True)
class RunRequest:
    """A setting, and the noise and the classes to run it with.

    Attributes:
        plan: the setting.
        seed: of the batch.
        digits: "each", "any", or one class as a text.
    """

    plan: PlanRequest
    seed: int
    digits: str

    @classmethod
    def of(cls, data: Any) -> RunRequest:
        """A request from JSON.

        Raises:
            ConfigurationError: a field is missing, unknown or wrong.
        """
        fields = _fields(data, {*PlanRequest.__dataclass_fields__, "seed", "digits"})
        seed, digits = _seed(fields.pop("seed")), fields.pop("digits")
        if not isinstance(digits, str) or not (digits in ("each", "any") or digits.isdecimal()) or len(digits) > 6:
            raise ConfigurationError(
                f"got {shown(digits)}", where="digits", suggestion="give each, any, or the number of a class"
            )
        return cls(PlanRequest(**_plan_fields(fields)), seed, digits)

    def labels(self, classes: int | None, count: int) -> list[int] | None:
        """The classes of the samples; None where the model takes none.

        Raises:
            ConfigurationError: a class that the model does not have.
        """
        if classes is None or self.digits == "any":
            return None
        if self.digits == "each":
            return [i % classes for i in range(count)]
        if int(self.digits) >= classes:
            raise ConfigurationError(
                f"got {self.digits}", where="digits", suggestion=f"the model has classes 0 to {classes - 1}"
            )
        return [int(self.digits)] * count


def noise_request(data: Any) -> tuple[int, list[tuple[int, int]]]:
    """The seed, and the keys (step, stage) of the noises that the page asks for.

    Raises:
        ConfigurationError: a field is missing, unknown or wrong.
    """
    fields = _fields(data, {"seed", "keys"})
    keys = fields["keys"]
    if not isinstance(keys, list) or len(keys) > _MOST_NOISES:
        raise ConfigurationError(
            f"got {shown(keys)}", where="keys", suggestion=f"give a list of at most {_MOST_NOISES} [step, stage]"
        )
    pairs = []
    for key in keys:
        pair = key if isinstance(key, list) and len(key) == 2 else [None, None]
        step, stage = (_whole(number, "keys", 0, 100 * MOST_STEPS) for number in pair)
        pairs.append((step, stage))
    return _seed(fields["seed"]), pairs


def _fields(data: Any, names: set[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigurationError(f"got {shown(data)}", where="request", suggestion="send one JSON object")
    if odd := sorted(names ^ set(data)):
        raise ConfigurationError(
            f"missing or unknown fields: {', '.join(odd[:10])}",
            where="request",
            suggestion=f"send {', '.join(sorted(names))}",
        )
    return dict(data)


def _plan_fields(fields: dict[str, Any]) -> dict[str, Any]:
    for name in ("path", "grid", "sampler"):
        if not isinstance(fields[name], str) or not fields[name]:
            raise ConfigurationError(f"got {shown(fields[name])}", where=name, suggestion="give a name")
    for name in ("path_options", "grid_options", "options"):
        if not isinstance(fields[name], dict) or len(fields[name]) > _MOST_OPTIONS:
            raise ConfigurationError(f"got {shown(fields[name])}", where=name, suggestion="give values by name")
    guidance = fields["guidance"]
    if not _is_number(guidance) or not 0.0 <= guidance <= _LARGEST_GUIDANCE:
        raise ConfigurationError(
            f"got {shown(guidance)}", where="guidance", suggestion=f"give a number from 0 to {_LARGEST_GUIDANCE:g}"
        )
    steps = _whole(fields["steps"], "steps", 1, MOST_STEPS)
    return {**fields, "steps": steps, "levels": _levels(fields["levels"], steps), "guidance": float(guidance)}


def _levels(levels: Any, steps: int) -> tuple[float | None, ...] | None:
    if levels is None:
        return None
    numbers: Sequence[Any] = levels if isinstance(levels, list) else ()
    if len(numbers) != steps or not all(_is_number(v) or (v is None and i == 0) for i, v in enumerate(numbers)):
        raise ConfigurationError(
            f"got {shown(levels)}", where="levels", suggestion=f"give the log-SNR of {steps} levels, or null"
        )
    return tuple(numbers)


def _level(path: NoisePath, log_snr: float | None) -> Level:
    low, high = (2.0 * path.level(t).half_log_snr for t in (path.t_max, path.t_min))
    if log_snr is None:
        return path.level(path.t_max)
    slack = 1e-6 * (1.0 + abs(log_snr))  # the page rounds its numbers
    if not low - slack <= log_snr <= high + slack:
        raise ConfigurationError(
            f"log-SNR {log_snr:g} is not on the path",
            where="levels",
            suggestion=f"give values from {low:g} to {high:g}",
        )
    if log_snr <= low:
        return path.level(path.t_max)
    return path.level_at(min(log_snr, high))


def _seed(value: Any) -> int:
    return _whole(value, "seed", 0, _LARGEST_SEED)


def _whole(value: Any, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigurationError(
            f"got {shown(value)}", where=where, suggestion=f"give a whole number from {low} to {high}"
        )
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
